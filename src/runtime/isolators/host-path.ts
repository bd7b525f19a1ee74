/**
 * Directories and files of the host inside a container (`-v /host/path:/path[:ro]`): mounted nosuid, nodev and private,
 * never Berth's own directories, never the kernel's file systems, never the whole host. A missing source is refused, not
 * made. The inode that was checked is the one that is mounted, whatever happens to its name meanwhile: it is bound to a
 * place of Berth's own first (a runtime cannot mount a descriptor of another mount namespace), and from there into the
 * container.
 *
 *   RUN/host-paths/ID/<n>   the n-th path of a run
 */
import { mkdirSync, readdirSync, rmdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { invalid, RuntimeError, systemCode } from '../../errors.ts';
import { hostCommand } from '../../host-command.ts';
import { mountAt, mountsBelow } from '../../mountinfo.ts';
import type { ContainerId, ContainerRecord, MountRequest } from '../container.ts';
import type { Contribution, Isolator, Mount } from '../isolator.ts';
import { type PinnedPath, pinPath } from './path-walk.ts';

/** File systems of the kernel. */
const KERNEL_DIRECTORIES: readonly string[] = ['/proc', '/sys', '/dev'];
const CONTAINER_ID = /^[0-9a-f]{32}$/;

type BindRequest = Extract<MountRequest, { kind: 'bind' }>;

export interface HostPathIsolatorOptions {
  /** Berth's own directories: neither they nor what holds or lies in them is given to a container. */
  readonly protectedDirs: readonly string[];
  /** Run directory of the daemon: the paths of a run are bound below it. */
  readonly runDir: string;
}

export class HostPathIsolator implements Isolator {
  readonly name = 'volume/host-path';
  readonly #protectedDirs: readonly string[];
  readonly #stage: string;
  #pending: ReadonlySet<ContainerId> = new Set();

  constructor(options: HostPathIsolatorOptions) {
    this.#protectedDirs = options.protectedDirs;
    this.#stage = join(options.runDir, 'host-paths');
  }

  /** @throws {RuntimeError} NOT_FOUND for a missing source, INVALID_ARGUMENT for a forbidden one */
  validate({ spec }: ContainerRecord): void {
    for (const request of bindRequests(spec.mounts)) this.#pin(request).close();
  }

  async recover(running: ReadonlySet<ContainerId>, _: ReadonlySet<ContainerId>, signal: AbortSignal): Promise<void> {
    const ended = namesIn(this.#stage).filter((name) => CONTAINER_ID.test(name) && !running.has(name));
    this.#pending = new Set(ended);
    for (const id of ended) await this.cleanup(id, signal);
  }

  async prepare({ id, spec }: ContainerRecord, signal: AbortSignal): Promise<Contribution> {
    const requests = bindRequests(spec.mounts);
    if (requests.length === 0) return {};
    mkdirSync(join(this.#stage, id), { recursive: true, mode: 0o700 });
    const mounts = await Promise.all(
      requests.map((request, index) => this.#bind(request, join(this.#stage, id, String(index)), signal)),
    );
    return { mounts };
  }

  pending(): ReadonlySet<ContainerId> {
    return this.#pending;
  }

  async cleanup(id: ContainerId, signal: AbortSignal): Promise<void> {
    const directory = join(this.#stage, id);
    for (const name of namesIn(directory)) await release(join(directory, name), signal);
    removeDirectory(directory);
    if (this.#pending.has(id)) this.#pending = new Set([...this.#pending].filter((other) => other !== id));
  }

  /** Binds one path to its place of Berth's own and says how it goes on from there. */
  async #bind(request: BindRequest, place: string, signal: AbortSignal): Promise<Mount> {
    const pinned = this.#pin(request);
    try {
      if (pinned.stats.isDirectory()) mkdirSync(place, { mode: 0o700 });
      else writeFileSync(place, '', { flag: 'wx', mode: 0o600 });
      // Private at once: taken away as a peer of the host's own mounts it would take those with it.
      const options = ['--no-canonicalize', '--rbind', '--make-rprivate'];
      await hostCommand('mount', [...options, pinned.magicPath, place], signal);
      return mountOf(request, place);
    } finally {
      pinned.close();
    }
  }

  #pin(request: BindRequest): PinnedPath {
    const pinned = pinPath('volume', request.source);
    const objection = this.#objection(pinned);
    if (objection === undefined) return pinned;
    pinned.close();
    throw invalid('volume', `host path ${request.source} ${objection}`);
  }

  #objection({ realPath, stats }: PinnedPath): string | undefined {
    if (realPath === '/') return 'is the whole host';
    const kernel = KERNEL_DIRECTORIES.find((directory) => isWithin(realPath, directory));
    if (kernel !== undefined) return `lies in ${kernel}, which belongs to the kernel`;
    if (!stats.isDirectory() && !stats.isFile() && !stats.isSocket()) {
      return 'is neither a directory nor a file nor a socket';
    }
    const own = this.#protectedDirs.find((directory) => overlaps(realPath, stats, directory));
    return own === undefined ? undefined : `reaches ${own}, which belongs to Berth`;
  }
}

function bindRequests(mounts: readonly MountRequest[]): BindRequest[] {
  return mounts.filter((mount): mount is BindRequest => mount.kind === 'bind');
}

function mountOf(request: BindRequest, place: string): Mount {
  const flags = ['nosuid', 'nodev', ...(request.readOnly ? ['ro'] : [])];
  // Flags of a bind mount are its own; what is mounted below the source needs the recursive ones.
  const hasSubmounts = mountsBelow(place).some((entry) => entry.mountPoint !== place);
  const options = ['rbind', 'rprivate', ...flags, ...(hasSubmounts ? flags.map((flag) => `r${flag}`) : [])];
  return { destination: request.target, type: 'bind', source: place, options };
}

/** Takes one bound path away, with all that is mounted below it. Idempotent. */
async function release(place: string, signal: AbortSignal): Promise<void> {
  while (mountAt(place) !== undefined) {
    // Again, in case the daemon died between the two steps of the mount.
    await hostCommand('mount', ['--make-rprivate', place], signal);
    await hostCommand('umount', ['--lazy', '--no-canonicalize', place], signal);
  }
  try {
    unlinkSync(place);
  } catch (error) {
    if (systemCode(error) !== 'EISDIR' && systemCode(error) !== 'EPERM') throw RuntimeError.from(error, 'host path');
    removeDirectory(place);
  }
}

/** Empty ones only: what is mounted is never removed. */
function removeDirectory(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove ${path}`);
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}

/** True when one of the two holds the other, under this name or as the same directory under another. */
function overlaps(path: string, stats: { readonly dev: number; readonly ino: number }, directory: string): boolean {
  if (isWithin(path, directory) || isWithin(directory, path)) return true;
  try {
    const own = statSync(directory);
    return own.dev === stats.dev && own.ino === stats.ino;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

function isWithin(path: string, directory: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}
