/**
 * Makes file systems on fresh images. An image is formatted before it becomes a volume and never again, so nothing here
 * has to ask whether there is data on it.
 */
import { open } from 'node:fs/promises';
import { RuntimeError } from '../../errors.ts';
import { hostCommand } from '../../host-command.ts';
import type { FileSystem } from './volume-record.ts';

const MIB = 1024 * 1024;
const TIMEOUT_MS = 60_000;

/** Smallest image each program takes. */
export const SMALLEST_BYTES: Readonly<Record<FileSystem, number>> = { ext4: MIB, xfs: 300 * MIB };

/** The file is new and reads as zeros: nothing is wiped or discarded, and inode tables are left to the kernel. */
const COMMANDS: Readonly<Record<FileSystem, readonly [string, ...string[]]>> = {
  ext4: ['mkfs.ext4', '-q', '-F', '-m', '0', '-E', 'lazy_itable_init=1,lazy_journal_init=1,nodiscard'],
  xfs: ['mkfs.xfs', '-q', '-K'],
};

/** Makes a sparse file of exactly `sizeBytes`, formatted when `fsType` is given; durable when it returns. */
export async function makeImage(path: string, sizeBytes: number, fsType: FileSystem | undefined): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.truncate(sizeBytes);
    if (fsType !== undefined) await format(path, fsType);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function format(path: string, fsType: FileSystem): Promise<void> {
  const [program, ...args] = COMMANDS[fsType];
  try {
    await hostCommand(program, [...args, path], AbortSignal.timeout(TIMEOUT_MS), { timeoutMs: TIMEOUT_MS });
  } catch (error) {
    if (!(error instanceof RuntimeError) || error.code !== 'NOT_FOUND') throw error;
    // To the caller of CreateVolume, NOT_FOUND would mean that a snapshot is missing.
    throw new RuntimeError('FAILED_PRECONDITION', `fs_type: ${program} is not installed`, { cause: error });
  }
}
