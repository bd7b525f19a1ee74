/**
 * What the kernel holds of a volume, read from its mount list and its loop devices. Records say what was asked for; this
 * says what is so.
 */
import { type MountEntry, mountAt, readMounts } from '../../mountinfo.ts';
import { blockDeviceAt, type LoopDevice, loopDevicesBelow } from './loop-devices.ts';
import type { VolumeFiles } from './volume-files.ts';
import type { AccessType, VolumeRecord } from './volume-record.ts';

export class KernelView {
  readonly #files: VolumeFiles;

  constructor(files: VolumeFiles) {
    this.#files = files;
  }

  /** Loop devices in front of a volume's image. */
  loopsOf(volume: VolumeRecord): LoopDevice[] {
    return loopDevicesBelow(this.#files.dataOf(volume));
  }

  /** The loop device a volume staged for block access has. One that goes at its last close is not it. */
  blockLoopOf(volume: VolumeRecord): LoopDevice | undefined {
    return this.loopsOf(volume).find(({ autoclear }) => !autoclear);
  }

  /** True when the volume is ready to be published: mounted at `path`, or behind a loop device. */
  isStaged(volume: VolumeRecord, access: AccessType, path: string): boolean {
    return access === 'block' ? this.blockLoopOf(volume) !== undefined : this.mountOf(volume, path) !== undefined;
  }

  /** The topmost mount at exactly `path` when it is the volume's: its file system, its directory or its device node. */
  mountOf(volume: VolumeRecord, path: string): MountEntry | undefined {
    const entry = mountAt(path);
    if (entry === undefined) return undefined;
    const loops = this.loopsOf(volume);
    if (isDataOf(volume, loops, entry)) return entry;
    const device = loops.length > 0 ? blockDeviceAt(path) : undefined;
    return loops.some((loop) => loop.device === device) ? entry : undefined;
  }

  /** What uses the volume, for people; undefined when nothing does. */
  userOf(volume: VolumeRecord): string | undefined {
    const loops = this.loopsOf(volume);
    const mount = readMounts().find((entry) => isDataOf(volume, loops, entry));
    return mount === undefined ? loops[0]?.path : `the mount at ${mount.mountPoint}`;
  }
}

/** The id is random, so a mount whose root ends with it is of this volume. */
function isDataOf(volume: VolumeRecord, loops: readonly LoopDevice[], entry: MountEntry): boolean {
  if (volume.type === 'directory') return `/${entry.root}`.endsWith(`/${volume.id}/data`);
  return loops.some(({ device }) => device === entry.device);
}
