/**
 * The places where plugins mount volumes, and what is really there. A plugin's word that something is mounted is checked
 * against the kernel's list; nothing outside the volume's own directory is ever touched.
 *
 *   ROOT/csi/mounts/KEY/stage     made by us before NodeStageVolume, always a directory
 *   ROOT/csi/mounts/KEY/target    made by the plugin in NodePublishVolume: a mounted directory, or a block device node
 *
 * KEY is a digest of plugin name and volume id: an id may be any text. Removal goes by rmdir and unlink alone, so that a
 * volume that is still mounted can never lose its files.
 */
import { createHash } from 'node:crypto';
import { constants, mkdirSync, readFileSync } from 'node:fs';
import { type FileHandle, lstat, open, rmdir, unlink } from 'node:fs/promises';
import type { Logger } from 'pino';
import { RuntimeError, systemCode } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import { mountAt } from '../mountinfo.ts';
import type { VolumeRecord } from './volume.ts';

/** open(2): a handle on the place itself, which neither opens the device nor waits for the file system. */
const O_PATH = 0o10000000;

/** Stage and target of one volume. */
export interface VolumePaths {
  readonly dir: string;
  readonly stage: string;
  readonly target: string;
}

export class VolumeMounts {
  readonly #base: string;
  readonly #log: Logger;

  constructor(rootDir: string, log: Logger) {
    this.#base = `${rootDir}/csi/mounts`;
    this.#log = log;
  }

  /** Where a volume that has an id is mounted on this machine. */
  pathsOf(record: VolumeRecord): VolumePaths {
    const { driver, volumeId } = record;
    if (volumeId === undefined) throw new RuntimeError('INTERNAL', `volume ${record.name} has no id yet`);
    const key = createHash('sha256').update(`${driver}\0${volumeId}`).digest('hex').slice(0, 32);
    const dir = `${this.#base}/${key}`;
    return { dir, stage: `${dir}/stage`, target: `${dir}/target` };
  }

  /** Makes the directory NodeStageVolume is given (CSI NodeStageVolume, staging_target_path). */
  makeStage({ stage }: VolumePaths): void {
    mkdirSync(stage, { recursive: true, mode: 0o700 });
  }

  /** Makes the parent of the target; the target itself is the plugin's to make. */
  makeTargetParent({ dir }: VolumePaths): void {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  }

  /**
   * Believes the kernel, not the plugin: the target is the mount point of a directory, or a block device node, reached
   * without following a link.
   * @throws {RuntimeError} INTERNAL saying what is there instead
   */
  async verifyTarget({ access }: VolumeRecord, { target }: VolumePaths): Promise<void> {
    const handle = await openPlace(target);
    if (handle === undefined) throw new RuntimeError('INTERNAL', `nothing is there at ${target}`);
    try {
      const stats = await handle.stat();
      if (stats.isSymbolicLink()) throw new RuntimeError('INTERNAL', `a symbolic link is there at ${target}`);
      if (access === 'block') {
        if (!stats.isBlockDevice()) throw new RuntimeError('INTERNAL', `no block device is there at ${target}`);
        return;
      }
      if (!stats.isDirectory()) throw new RuntimeError('INTERNAL', `no directory is there at ${target}`);
      if (mountIdOf(handle) !== mountAt(target)?.mountId) {
        throw new RuntimeError('INTERNAL', `nothing is mounted at ${target}`);
      }
    } finally {
      await handle.close();
    }
  }

  /**
   * Takes away what NodeUnpublishVolume ought to have taken away.
   * @throws {RuntimeError} when a mount is busy or a directory not empty: nothing is removed then
   */
  async clearTarget({ target }: VolumePaths, signal: AbortSignal): Promise<void> {
    await this.#unmount(target, signal);
    await removePlace(target);
  }

  /** Takes away the staging directory after NodeUnstageVolume, or when it was never used. */
  async clearStage({ stage }: VolumePaths, signal: AbortSignal): Promise<void> {
    await this.#unmount(stage, signal);
    await removePlace(stage);
  }

  /** Takes away the volume's directory once nothing is in it. */
  async clearDir({ dir }: VolumePaths): Promise<void> {
    await removePlace(dir);
  }

  async #unmount(path: string, signal: AbortSignal): Promise<void> {
    while (mountAt(path) !== undefined) {
      this.#log.warn({ path }, 'the plugin left a mount behind, unmounting it');
      await hostCommand('umount', ['--no-canonicalize', path], signal);
    }
  }
}

async function openPlace(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, O_PATH | constants.O_NOFOLLOW);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw RuntimeError.from(error, `look at ${path}`);
  }
}

/** The mount an open place lies on (proc_pid_fdinfo(5)). */
function mountIdOf(handle: FileHandle): number {
  const [, id] = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${handle.fd}`, 'utf8')) ?? [];
  return Number(id);
}

/** Removes one file, link or empty directory; never what is in it, never what a link leads to. */
async function removePlace(path: string): Promise<void> {
  try {
    if ((await lstat(path)).isDirectory()) await rmdir(path);
    else await unlink(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw RuntimeError.from(error, `remove ${path}`);
  }
}
