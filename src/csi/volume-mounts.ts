/**
 * The places where plugins mount volumes, and what is really there. A plugin's word that something is mounted is checked
 * against the kernel's list; nothing outside the volume's own directory is ever touched.
 *
 *   ROOT/csi/mounts/KEY/stage     made by us before NodeStageVolume, always a directory
 *   ROOT/csi/mounts/KEY/target    made by the plugin in NodePublishVolume: a mounted directory, or a block device node
 *   ROOT/csi/mounts/KEY/t-ID      the same for one container, where each has a target of its own
 *
 * KEY is a digest of plugin name and volume id, ID one of the container's: an id may be any text, and a path must stay
 * short. Removal goes by rmdir and unlink alone, so that a volume that is still mounted can never lose its files.
 *
 * A mount may hang for ever (a dead server, a stopped FUSE process), and so does whoever looks at it. So this process
 * reads the kernel's list of mounts and makes and removes names in directories of its own, which never looks at what is
 * mounted there; the rest is done by small programs with a deadline (stat, umount).
 */
import { createHash } from 'node:crypto';
import { mkdirSync, rmdirSync, unlinkSync } from 'node:fs';
import type { Logger } from 'pino';
import { RuntimeError, systemCode } from '../errors.ts';
import { own } from '../group-ownership.ts';
import { hostCommand } from '../host-command.ts';
import { type MountEntry, mountAt, mountsBelow } from '../mountinfo.ts';
import type { RunProgram } from '../run-program.ts';
import type { OwnershipPolicy, VolumeRecord } from './volume.ts';

/** Longest time that looking at a place, or taking it away, may take. */
const LOOK_MS = 5000;
/** What every plugin takes for a path; more is the plugin's own choice (CSI "Size Limits"). */
const MAX_PATH_BYTES = 128;
/** Longest time that giving all files of a volume to a group may take. */
const OWN_MS = 10 * 60_000;

/** Stage and targets of one volume. */
export interface VolumePaths {
  readonly dir: string;
  readonly stage: string;
  /** The target of a publication. */
  target(key: string): string;
}

/** What a container is given. */
export interface PublishedPlace {
  /** The mounted directory, or the device node, as the host sees it. */
  readonly path: string;
  /** The device itself; block volumes only. */
  readonly device?: { readonly major: number; readonly minor: number };
}

export interface VolumeMountsOptions {
  readonly rootDir: string;
  readonly log: Logger;
  /** Who starts programs; this process unless given. */
  readonly run?: RunProgram | undefined;
  /** Longest time to look at a place; 5,000 unless given. */
  readonly lookMs?: number | undefined;
}

export class VolumeMounts {
  readonly #base: string;
  readonly #log: Logger;
  readonly #options: VolumeMountsOptions;

  constructor(options: VolumeMountsOptions) {
    this.#base = `${options.rootDir}/csi/mounts`;
    this.#log = options.log;
    this.#options = options;
  }

  /** Where a volume that has an id is mounted on this machine. */
  pathsOf(record: VolumeRecord): VolumePaths {
    const { driver, volumeId } = record;
    if (volumeId === undefined) throw new RuntimeError('INTERNAL', `volume ${record.name} has no id yet`);
    const dir = `${this.#base}/${digest(`${driver}\0${volumeId}`, 32)}`;
    return {
      dir,
      stage: `${dir}/stage`,
      target: (key) => (key === '' ? `${dir}/target` : `${dir}/t-${digest(key, 16)}`),
    };
  }

  /** @throws {RuntimeError} FAILED_PRECONDITION when the volume's paths are longer than plugins must take */
  checkPaths(record: VolumeRecord): void {
    const { dir, target } = this.pathsOf(record);
    const bytes = Buffer.byteLength(target('x'));
    if (bytes <= MAX_PATH_BYTES) return;
    const most = MAX_PATH_BYTES - (bytes - Buffer.byteLength(this.#options.rootDir));
    const reason = `its paths below ${dir} have ${bytes} bytes, CSI plugins take ${MAX_PATH_BYTES}`;
    throw new RuntimeError(
      'FAILED_PRECONDITION',
      `volume ${record.name}: ${reason}: start berthd with a --root of at most ${most} bytes`,
    );
  }

  /** Makes the directory NodeStageVolume is given (CSI NodeStageVolume, staging_target_path). */
  makeStage({ dir, stage }: VolumePaths): void {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    // A mount that is there already is not looked at: it may hang.
    if (mountAt(stage) === undefined) mkdirSync(stage, { recursive: true, mode: 0o700 });
  }

  /** Makes the parent of the targets; a target itself is the plugin's to make. */
  makeTargetParent({ dir }: VolumePaths): void {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  }

  /** Mounts of targets, by the kernel's list: none of them may be there when the volume is unstaged. */
  targetsMounted({ dir, stage }: VolumePaths): readonly MountEntry[] {
    return mountsBelow(dir).filter(({ mountPoint }) => mountPoint !== stage && !mountPoint.startsWith(`${stage}/`));
  }

  /** True when the kernel shows the mount of a published file system. Devices need not be mounts. */
  looksPublished({ access }: VolumeRecord, target: string): boolean {
    return access === 'block' || mountAt(target) !== undefined;
  }

  /**
   * Believes the kernel, not the plugin: the target is the mount point of a directory, or a block device node, reached
   * without following a link.
   * @throws {RuntimeError} INTERNAL saying what is there instead, DEADLINE_EXCEEDED when it hangs
   */
  async verifyTarget({ access }: VolumeRecord, path: string, signal: AbortSignal): Promise<PublishedPlace> {
    const before = mountAt(path);
    const found = await this.#look(path, signal);
    if (found === undefined) throw new RuntimeError('INTERNAL', `nothing is there at ${path}`);
    if (found.kind === 'link') throw new RuntimeError('INTERNAL', `a symbolic link is there at ${path}`);
    if (access === 'block') {
      if (found.kind !== 'block') throw new RuntimeError('INTERNAL', `no block device is there at ${path}`);
      return { path, device: { major: found.major, minor: found.minor } };
    }
    if (found.kind !== 'directory') throw new RuntimeError('INTERNAL', `no directory is there at ${path}`);
    // Looked up before and after: what was looked at is the mount, not what lies below or came over it.
    if (before === undefined || mountAt(path)?.mountId !== before.mountId) {
      throw new RuntimeError('INTERNAL', `nothing is mounted at ${path}`);
    }
    return { path };
  }

  /**
   * Gives the files of a mounted volume to a group. @throws {RuntimeError} when it takes too long or is refused
   */
  async own(path: string, group: number, policy: OwnershipPolicy, signal: AbortSignal): Promise<void> {
    await own({ path, group, policy }, signal, { timeoutMs: OWN_MS, ...this.#runner() });
  }

  /**
   * Takes away what NodeUnpublishVolume ought to have taken away.
   * @throws {RuntimeError} when a mount is busy or a directory not empty: nothing is removed then
   */
  async clearTarget(target: string, signal: AbortSignal): Promise<void> {
    await this.#unmount(target, signal);
    removeName(target);
  }

  /** Takes away the staging directory after NodeUnstageVolume, or when it was never used. */
  async clearStage({ stage }: VolumePaths, signal: AbortSignal): Promise<void> {
    await this.#unmount(stage, signal);
    removeName(stage);
  }

  /** Takes away the volume's directory once nothing is in it. */
  clearDir({ dir }: VolumePaths): void {
    removeName(dir);
  }

  /**
   * Gives up a target, or, without a key, the stage and all that is mounted beside it: also what is busy or hangs. A mount
   * goes for good when its last user lets go.
   */
  async abandon(paths: VolumePaths, key: string | undefined, signal: AbortSignal): Promise<void> {
    const place = key === undefined ? paths.dir : paths.target(key);
    for (const { mountPoint } of mountsBelow(place)) {
      this.#log.warn({ path: mountPoint }, 'a mount is given up');
      await this.#program('umount', ['--lazy', '--no-canonicalize', mountPoint], signal);
    }
    for (const path of key === undefined ? [paths.stage, paths.dir] : [place]) removeName(path);
  }

  async #unmount(path: string, signal: AbortSignal): Promise<void> {
    while (mountAt(path) !== undefined) {
      this.#log.warn({ path }, 'the plugin left a mount behind, unmounting it');
      await this.#program('umount', ['--no-canonicalize', path], signal);
    }
  }

  /** Undefined when there is nothing. A link is not followed. */
  async #look(path: string, signal: AbortSignal): Promise<Place | undefined> {
    try {
      return placeOf(await this.#program('stat', ['--format=%f %t %T', '--', path], signal));
    } catch (error) {
      const { code, message } = RuntimeError.from(error, 'stat');
      if (code === 'INTERNAL' && message.endsWith('No such file or directory')) return undefined;
      throw error;
    }
  }

  async #program(file: string, args: readonly string[], signal: AbortSignal): Promise<string> {
    return hostCommand(file, args, signal, { timeoutMs: this.#options.lookMs ?? LOOK_MS, ...this.#runner() });
  }

  #runner(): { run?: RunProgram } {
    const { run } = this.#options;
    return run === undefined ? {} : { run };
  }
}

/**
 * Removes one file, link or empty directory; never what is in it, never what a link leads to. These two calls work on the
 * name in our own directory: a mount that is there is refused as busy without being looked at.
 */
function removeName(path: string): void {
  try {
    if (!removed(path)) unlinkSync(path);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new RuntimeError('INTERNAL', `${path} cannot be removed: ${reason}`, { cause: error });
  }
}

/** False for what is no directory. */
function removed(path: string): boolean {
  try {
    rmdirSync(path);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOTDIR') return false;
    if (code !== 'ENOENT') throw error;
  }
  return true;
}

function digest(text: string, length: number): string {
  return createHash('sha256').update(text).digest('hex').slice(0, length);
}

type Place =
  | { readonly kind: 'directory' | 'link' | 'other' }
  | { readonly kind: 'block'; readonly major: number; readonly minor: number };

/** Type bits of st_mode (inode(7)). */
const TYPE_MASK = 0o170000;
const TYPES: ReadonlyMap<number, 'directory' | 'link'> = new Map([
  [0o040000, 'directory'],
  [0o120000, 'link'],
]);
const BLOCK = 0o060000;

/** Reads "MODE MAJOR MINOR", all hexadecimal. */
function placeOf(line: string): Place {
  const [mode = 0, major = 0, minor = 0] = line.split(' ').map((field) => Number.parseInt(field, 16));
  if ((mode & TYPE_MASK) === BLOCK) return { kind: 'block', major, minor };
  return { kind: TYPES.get(mode & TYPE_MASK) ?? 'other' };
}
