/**
 * The effects of staging and publishing, each idempotent: what is there already is left as it is.
 *
 *   mount, image       staging: the file system, through a loop device that the kernel detaches with the last mount
 *   mount, directory   staging: bind mount of the directory
 *   block              staging: a loop device, nothing at the path; target: bind mount of its device node on a file
 *
 * Targets of mounts are bind mounts of the staging path.
 */
import { lstat, mkdir, open, rmdir, unlink } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import type { Logger } from 'pino';
import { RuntimeError, systemCode } from '../../errors.ts';
import { bindFlagsOf, type Capability } from './capability.ts';
import type { KernelView } from './kernel-view.ts';
import { attachLoop, detachLoop, isGone, type LoopDevice, loopDevicesBelow } from './loop-devices.ts';
import { volumeCommand } from './volume-command.ts';
import type { VolumeFiles } from './volume-files.ts';
import type { VolumeRecord } from './volume-record.ts';

/** A place where a volume shall appear. */
export interface Target {
  readonly path: string;
  readonly stagingPath: string;
  readonly readonly: boolean;
}

export class VolumeMounts {
  readonly #files: VolumeFiles;
  readonly #kernel: KernelView;
  readonly #log: Logger;

  constructor(files: VolumeFiles, kernel: KernelView, log: Logger) {
    this.#files = files;
    this.#kernel = kernel;
    this.#log = log;
  }

  /** @throws {RuntimeError} UNAVAILABLE when a process still has the volume's previous block device open */
  async stage(volume: VolumeRecord, path: string, capability: Capability): Promise<void> {
    if (this.#kernel.isStaged(volume, capability.access, path)) return;
    const data = this.#files.dataOf(volume);
    if (capability.access === 'block') return this.#attach(volume);
    if (volume.type === 'directory') return this.#mount(volume, ['--bind'], data, path);
    // One that stays would be taken for the mount, and stay after it.
    await this.#detachAll(volume);
    // xfs mounts no two file systems of one UUID, unless told that it is meant so. A copy has its original's.
    const identity = volume.source !== undefined && volume.fsType === 'xfs' ? ['nouuid'] : [];
    const options = ['loop', ...identity, ...capability.mountFlags].join(',');
    await this.#mount(volume, ['--types', volume.fsType ?? 'auto', '--options', options], data, path);
    if (!capability.mountFlags.includes('ro')) await this.#makeWritable(volume, path);
  }

  /** mount(8) takes a device that somebody left read-only for a reason to mount read-only, and calls that a success. */
  async #makeWritable(volume: VolumeRecord, path: string): Promise<void> {
    const mounted = this.#kernel.mountOf(volume, path);
    if (mounted?.options.includes('ro') !== true) return;
    this.#log.warn(
      { volumeId: volume.id, device: mounted.source },
      'loop device was left read-only, making it writable',
    );
    await this.#command(volume, 'blockdev', ['--setrw', mounted.source]);
    await this.#command(volume, 'mount', ['--options', 'remount,rw', path]);
  }

  async unstage(volume: VolumeRecord, path: string): Promise<void> {
    await this.#unmountAll(volume, path);
    await this.#detachAll(volume);
  }

  async publish(volume: VolumeRecord, target: Target, capability: Capability): Promise<void> {
    if (capability.access === 'block') return this.#publishBlock(volume, target);
    await makeDirectory(target.path);
    const flags = [...bindFlagsOf(capability), ...(target.readonly ? ['ro'] : [])];
    const mounted = this.#kernel.mountOf(volume, target.path);
    if (mounted === undefined) {
      return this.#mount(volume, ['--options', ['bind', ...flags].join(',')], target.stagingPath, target.path);
    }
    // Left by a driver that was killed between the two steps of a read-only bind mount.
    if (!target.readonly || mounted.options.includes('ro')) return;
    await this.#command(volume, 'mount', ['--options', ['remount', 'bind', ...flags].join(','), target.path]);
  }

  /** Leaves nothing at the path, unless what is there is not the driver's. */
  async unpublish(volume: VolumeRecord, path: string): Promise<void> {
    await this.#unmountAll(volume, path);
    await removeTarget(path);
  }

  /**
   * Detaches loop devices that no volume is staged with: a killed driver's, or those of a removed volume. One that cannot
   * be judged, or does not go, is reported and left for the volume's next call.
   */
  async sweep(): Promise<void> {
    for (const loop of loopDevicesBelow(this.#files.dataDir)) {
      try {
        if (!loop.autoclear) await this.#sweepLoop(loop);
      } catch (error) {
        this.#log.error({ device: loop.path, backingFile: loop.backingFile, err: error }, 'loop device is left over');
      }
    }
  }

  async #sweepLoop(loop: LoopDevice): Promise<void> {
    const id = basename(dirname(loop.backingFile));
    const volume = this.#files.find(id);
    if (volume !== undefined && (await this.#files.readNodeRecord(id)).staged?.access === 'block') return;
    const lock = volume === undefined ? `${this.#files.dataDir}/lock` : this.#files.lockOf(volume);
    await detachLoop(lock, loop);
    this.#log.info({ volumeId: id, device: loop.path }, 'detached a loop device that nothing uses');
  }

  async #attach(volume: VolumeRecord): Promise<void> {
    const [leaving] = this.#kernel.loopsOf(volume);
    if (leaving !== undefined) {
      // Two devices on one image would not see each other's writes.
      throw new RuntimeError('UNAVAILABLE', `${leaving.path} of volume ${volume.id} is still held by a process`);
    }
    await attachLoop(this.#files.lockOf(volume), this.#files.dataOf(volume));
  }

  async #detachAll(volume: VolumeRecord): Promise<void> {
    for (const loop of this.#kernel.loopsOf(volume)) {
      // One that goes by itself may be looked at by somebody at this moment (udev, a copy of the mount namespace).
      if (await (loop.autoclear ? isGone(loop) : detachLoop(this.#files.lockOf(volume), loop))) continue;
      this.#log.warn({ volumeId: volume.id, device: loop.path }, 'loop device stays until a process closes it');
    }
  }

  async #publishBlock(volume: VolumeRecord, target: Target): Promise<void> {
    const loop = this.#kernel.blockLoopOf(volume);
    if (loop === undefined) throw new RuntimeError('FAILED_PRECONDITION', `volume ${volume.id} is not staged`);
    // A read-only mount does not keep anyone from writing to a device: the device itself must refuse.
    if (loop.readonly !== target.readonly) {
      await this.#command(volume, 'blockdev', [target.readonly ? '--setro' : '--setrw', loop.path]);
    }
    await makeFile(target.path);
    if (this.#kernel.mountOf(volume, target.path) !== undefined) return;
    await this.#mount(volume, ['--bind'], loop.path, target.path);
  }

  /** @throws {RuntimeError} UNAVAILABLE when a process uses the mount */
  async #unmountAll(volume: VolumeRecord, path: string): Promise<void> {
    for (let mount = this.#kernel.mountOf(volume, path); mount !== undefined; ) {
      const failure = await this.#command(volume, 'umount', [path]).catch((error: unknown) => error);
      const next = this.#kernel.mountOf(volume, path);
      if (failure !== undefined && next?.mountId === mount.mountId) {
        if (failure instanceof RuntimeError && failure.code !== 'INTERNAL') throw failure;
        throw new RuntimeError('UNAVAILABLE', `${path} of volume ${volume.id} is in use`, { cause: failure });
      }
      mount = next;
    }
  }

  async #mount(volume: VolumeRecord, options: readonly string[], source: string, path: string): Promise<void> {
    await this.#command(volume, 'mount', ['--internal-only', ...options, source, path]);
  }

  async #command(volume: VolumeRecord, file: string, args: readonly string[]): Promise<void> {
    await volumeCommand(this.#files.lockOf(volume), file, args);
  }
}

async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o750 });
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw RuntimeError.from(error, `make target ${path}`);
    if ((await lstat(path)).isDirectory()) return;
    throw new RuntimeError('FAILED_PRECONDITION', `target_path: ${path} exists and is not a directory`);
  }
}

async function makeFile(path: string): Promise<void> {
  try {
    await (await open(path, 'wx', 0o600)).close();
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw RuntimeError.from(error, `make target ${path}`);
    const found = await lstat(path);
    if (found.isFile() || found.isBlockDevice()) return;
    throw new RuntimeError('FAILED_PRECONDITION', `target_path: ${path} exists and is not a file`);
  }
}

/** Removes what publishing made: an empty directory or an empty file. Anything else is not ours. */
async function removeTarget(path: string): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return undefined;
    throw RuntimeError.from(error, `remove target ${path}`);
  });
  if (found === undefined) return;
  if (found.isDirectory()) {
    await rmdir(path);
  } else if (found.isFile() && found.size === 0) {
    await unlink(path);
  } else {
    throw new RuntimeError('FAILED_PRECONDITION', `target_path: what is at ${path} was not made by this driver`);
  }
}
