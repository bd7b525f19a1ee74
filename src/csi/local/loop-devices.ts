/**
 * Loop devices as the kernel lists them under /sys/block. The backing file names the volume, so a device needs no record
 * and none is lost: devices of a driver that was killed are found like any other.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError, systemCode } from '../../errors.ts';
import { volumeCommand } from './volume-command.ts';

/** A loop device with a file behind it. */
export interface LoopDevice {
  /** "loop3" */
  readonly name: string;
  /** "/dev/loop3" */
  readonly path: string;
  /** "7:3", as in mountinfo. */
  readonly device: string;
  readonly backingFile: string;
  /** The kernel detaches it at the last close: a mount's own device, or one being taken away. */
  readonly autoclear: boolean;
  readonly readonly: boolean;
  readonly sizeBytes: number;
}

const DETACH_PATIENCE_MS = 1000;
const DETACH_PAUSE_MS = 10;

/** All loop devices in use whose file lies at or below `path`. A deleted file keeps its path. */
export function loopDevicesBelow(path: string): LoopDevice[] {
  return readdirSync('/sys/block')
    .filter((name) => /^loop\d+$/.test(name))
    .flatMap((name) => readLoop(name) ?? [])
    .filter(({ backingFile }) => isBelow(backingFile, path));
}

/**
 * A file that was attached in a container that is gone has only the end of its path left, from the mount on that went
 * with the container: "/volumes/ID/data". An id is random, so the end with it names one file.
 */
function isBelow(file: string, path: string): boolean {
  if (file === path || file.startsWith(`${path}/`)) return true;
  return path.endsWith(file) && /\/[0-9a-f]{32}\/[^/]+$/.test(file);
}

/** Puts a loop device in front of `file` that stays until it is detached. */
export async function attachLoop(lockFile: string, file: string): Promise<LoopDevice> {
  const path = await volumeCommand(lockFile, 'losetup', ['--find', '--show', file]);
  const loop = readLoop(path.replace('/dev/', ''));
  if (loop?.backingFile !== file) throw new RuntimeError('INTERNAL', `losetup made ${path}, which is not on ${file}`);
  return loop;
}

/**
 * Takes a loop device away. One that a process still has open goes when that process closes it; false then, after a
 * short wait for those who only look (udev).
 */
export async function detachLoop(lockFile: string, loop: LoopDevice): Promise<boolean> {
  try {
    // A device that was made read-only stays so, whatever is attached to it next and by whom.
    if (loop.readonly) await volumeCommand(lockFile, 'blockdev', ['--setrw', loop.path]);
    await volumeCommand(lockFile, 'losetup', ['--detach', loop.path]);
  } catch (error) {
    if (readLoop(loop.name)?.backingFile === loop.backingFile) throw error;
  }
  return isGone(loop);
}

/** True once the device has no file behind it any more; false when it has after a short wait. */
export async function isGone(loop: LoopDevice): Promise<boolean> {
  const giveUpAt = performance.now() + DETACH_PATIENCE_MS;
  // The kernel reports no event for this.
  while (readLoop(loop.name)?.backingFile === loop.backingFile) {
    if (performance.now() > giveUpAt) return false;
    await sleep(DETACH_PAUSE_MS);
  }
  return true;
}

/** "7:3" of the block device node at `path`; undefined when it is none. */
export function blockDeviceAt(path: string): string | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined || !stat.isBlockDevice()) return undefined;
  // Linux spreads both numbers over the device word (makedev(3)); Node hands the word on as it is.
  const major = (stat.rdev >>> 8) & 0xfff;
  const minor = (stat.rdev & 0xff) | ((stat.rdev >>> 12) & 0xfff00);
  return `${major}:${minor}`;
}

function readLoop(name: string): LoopDevice | undefined {
  const attribute = (file: string): string => readFileSync(`/sys/block/${name}/${file}`, 'utf8').trim();
  try {
    return {
      name,
      path: `/dev/${name}`,
      backingFile: attribute('loop/backing_file').replace(/ \(deleted\)$/, ''),
      device: attribute('dev'),
      autoclear: attribute('loop/autoclear') === '1',
      readonly: attribute('ro') === '1',
      // In sectors of 512 bytes, whatever the device's own are.
      sizeBytes: Number(attribute('size')) * 512,
    };
  } catch (error) {
    // No file behind it, or it went away between two reads.
    if (['ENOENT', 'ENXIO', 'ENODEV'].includes(systemCode(error) ?? '')) return undefined;
    throw RuntimeError.from(error, `read loop device ${name}`);
  }
}
