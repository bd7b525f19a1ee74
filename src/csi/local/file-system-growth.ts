/**
 * File systems that shall fill their image: how large one is by its superblock, and the programs that make it grow.
 *
 *   xfs    while mounted
 *   ext4   while mounted, which the kernel allows to CAP_SYS_RESOURCE only; without it before the next mount
 */
import { open, readFile } from 'node:fs/promises';
import { RuntimeError } from '../../errors.ts';
import type { FileSystem } from './volume-record.ts';

/** A mounted file system. */
export interface Mounted {
  /** "/dev/loop3" */
  readonly device: string;
  readonly path: string;
}

export type Command = readonly [program: string, ...args: string[]];

/** Each gives a mounted file system all of its device, and leaves one that has it as it is. */
export const GROW_MOUNTED: Readonly<Record<FileSystem, (mounted: Mounted) => Command>> = {
  ext4: ({ device }) => ['resize2fs', device],
  xfs: ({ path }) => ['xfs_growfs', '-d', path],
};

/** Checks ext4 that is not mounted. It fails once when it had to mend something. */
export const checkUnmounted = (image: string): Command => ['e2fsck', '-f', '-p', image];
/** Gives ext4 that is not mounted, and was checked, all of its image. */
export const growUnmounted = (image: string): Command => ['resize2fs', image];

/** Bit of CAP_SYS_RESOURCE, capabilities(7). */
const SYS_RESOURCE = 24n;

/** True when this process may make a mounted file system grow. */
export async function canGrowMounted(fsType: FileSystem): Promise<boolean> {
  if (fsType === 'xfs') return true;
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(await readFile('/proc/self/status', 'utf8'))?.[1];
  if (effective === undefined) throw new RuntimeError('INTERNAL', '/proc/self/status: has no CapEff');
  return ((BigInt(`0x${effective}`) >> SYS_RESOURCE) & 1n) === 1n;
}

/** What a superblock says. */
interface Extent {
  readonly bytes: number;
  /** The file system is made of groups of this size; the last may be smaller. */
  readonly groupBytes: number;
}

const SUPERBLOCK_BYTES = 4096;
const EXT4_OFFSET = 1024;
const EXT4_MAGIC = 0xef53;
const EXT4_FEATURE_64BIT = 0x80;

const EXT4_ERROR_STATE = 0x2;

const READERS: Readonly<Record<FileSystem, (bytes: Buffer) => Extent | undefined>> = {
  ext4: (bytes) => {
    const at = (offset: number): number => bytes.readUInt32LE(EXT4_OFFSET + offset);
    if (bytes.readUInt16LE(EXT4_OFFSET + 0x38) !== EXT4_MAGIC) return undefined;
    const blockBytes = 1024 * 2 ** at(0x18);
    const high = (at(0x60) & EXT4_FEATURE_64BIT) !== 0 ? at(0x150) : 0;
    return { bytes: (high * 2 ** 32 + at(0x4)) * blockBytes, groupBytes: at(0x20) * blockBytes };
  },
  xfs: (bytes) => {
    if (bytes.toString('latin1', 0, 4) !== 'XFSB') return undefined;
    const blockBytes = bytes.readUInt32BE(4);
    return { bytes: Number(bytes.readBigUInt64BE(8)) * blockBytes, groupBytes: bytes.readUInt32BE(84) * blockBytes };
  },
};

/**
 * True when the file system on an image has less than `sizeBytes`. One that is mounted may have grown since its
 * superblock was written. A rest too small for a group of its own (an eighth of one is more than its tables take)
 * counts as used.
 * @throws {RuntimeError} DATA_LOSS when there is no such file system
 */
export async function isFileSystemSmaller(image: string, fsType: FileSystem, sizeBytes: number): Promise<boolean> {
  const { bytes, groupBytes } = await extentOf(image, fsType);
  const endsWithGroup = Math.round(bytes / groupBytes) * groupBytes - bytes <= 1024;
  return bytes < sizeBytes && !(endsWithGroup && sizeBytes - bytes < groupBytes / 8);
}

async function extentOf(image: string, fsType: FileSystem): Promise<Extent> {
  const extent = READERS[fsType](await firstBytes(image));
  if (extent === undefined) throw new RuntimeError('DATA_LOSS', `${image} has no ${fsType} superblock`);
  return extent;
}

/** True when the file system on an image says so itself, or there is none. */
export async function hasFileSystemErrors(image: string, fsType: FileSystem): Promise<boolean> {
  const bytes = await firstBytes(image);
  if (READERS[fsType](bytes) === undefined) return true;
  return fsType === 'ext4' && (bytes.readUInt16LE(EXT4_OFFSET + 0x3a) & EXT4_ERROR_STATE) !== 0;
}

async function firstBytes(image: string): Promise<Buffer> {
  const file = await open(image, 'r');
  try {
    return (await file.read(Buffer.alloc(SUPERBLOCK_BYTES), 0, SUPERBLOCK_BYTES, 0)).buffer;
  } finally {
    await file.close();
  }
}
