/**
 * Images whose blocks are reserved (`allocation=reserved`): every block is there before it is written, so that nobody
 * else who writes to the disk can take it. Others take blocks when they are written (`thin`). What the volume's user
 * discards goes back to the disk in both cases, and is taken again with the next staging.
 *
 * The loop device could be told to refuse discards, but Linux keeps that for whoever gets the device next.
 */
import { statfs } from 'node:fs/promises';
import { RuntimeError } from '../../errors.ts';
import { occupiedBytes } from './disk-claims.ts';
import { volumeCommand } from './volume-command.ts';
import type { VolumeFiles } from './volume-files.ts';
import type { VolumeRecord } from './volume-record.ts';

const TIMEOUT_MS = 10 * 60_000;

/**
 * Takes the blocks a reserved image lacks; others are left as they are. Repeated, it goes on.
 * @throws {RuntimeError} RESOURCE_EXHAUSTED when the disk does not have them
 */
export async function allocate(files: VolumeFiles, volume: VolumeRecord): Promise<void> {
  if (volume.allocation !== 'reserved') return;
  const path = files.dataOf(volume);
  if ((await requireRoom(files, volume)) === 0) return;
  try {
    await volumeCommand(files.lockOf(volume), 'fallocate', ['--length', String(volume.sizeBytes), path], TIMEOUT_MS);
  } catch (error) {
    if (error instanceof RuntimeError && error.code !== 'INTERNAL') throw error;
    throw exhausted(volume, error);
  }
}

/**
 * Bytes that an image lacks of being reserved. Others than the driver may write to the disk, so what was promised to the
 * volume need not be there.
 * @throws {RuntimeError} RESOURCE_EXHAUSTED when the disk does not have them
 */
export async function requireRoom(files: VolumeFiles, volume: VolumeRecord): Promise<number> {
  const lacking = Math.max(0, volume.sizeBytes - (await occupiedBytes(files.dataOf(volume))));
  const { bavail, bsize } = await statfs(files.dataDir);
  if (lacking > bavail * bsize) throw exhausted(volume);
  return lacking;
}

function exhausted({ id, sizeBytes }: VolumeRecord, cause?: unknown): RuntimeError {
  const reason = `allocation: the disk does not have the ${sizeBytes} bytes of volume ${id}`;
  return new RuntimeError('RESOURCE_EXHAUSTED', reason, { cause });
}
