/**
 * Directories and files of the host inside a container (`-v /host/path:/path[:ro]`): mounted nosuid, nodev and private,
 * never Berth's own directories, never the kernel's file systems, never the whole host. A missing source is refused, not
 * made. The inode that was checked is the one that is mounted: the mount source is a descriptor held until the run ends.
 */
import { statSync } from 'node:fs';
import { invalid, RuntimeError, systemCode } from '../../errors.ts';
import { mountsBelow } from '../../mountinfo.ts';
import type { ContainerId, ContainerRecord, MountRequest } from '../container.ts';
import type { Contribution, Isolator, Mount } from '../isolator.ts';
import { type PinnedPath, pinPath } from './path-walk.ts';

/** File systems of the kernel. */
const KERNEL_DIRECTORIES: readonly string[] = ['/proc', '/sys', '/dev'];

type BindRequest = Extract<MountRequest, { kind: 'bind' }>;

export interface HostPathIsolatorOptions {
  /** Berth's own directories: neither they nor what holds or lies in them is given to a container. */
  readonly protectedDirs: readonly string[];
}

export class HostPathIsolator implements Isolator {
  readonly name = 'volume/host-path';
  readonly #protectedDirs: readonly string[];
  readonly #held = new Map<ContainerId, readonly PinnedPath[]>();

  constructor(options: HostPathIsolatorOptions) {
    this.#protectedDirs = options.protectedDirs;
  }

  /** @throws {RuntimeError} NOT_FOUND for a missing source, INVALID_ARGUMENT for a forbidden one */
  validate({ spec }: ContainerRecord): void {
    for (const request of bindRequests(spec.mounts)) this.#pin(request).close();
  }

  async recover(): Promise<void> {
    // A descriptor does not outlive the daemon, a mount does not outlive its container.
  }

  async prepare({ id, spec }: ContainerRecord): Promise<Contribution> {
    const requests = bindRequests(spec.mounts);
    const pinned: PinnedPath[] = [];
    // Known before the first is taken: cleanup closes what a failure leaves open.
    this.#held.set(id, pinned);
    for (const request of requests) pinned.push(this.#pin(request));
    return { mounts: requests.flatMap((request, index) => mountOf(request, pinned[index])) };
  }

  async cleanup(id: ContainerId): Promise<void> {
    const pinned = this.#held.get(id) ?? [];
    this.#held.delete(id);
    for (const path of pinned) path.close();
  }

  #pin(request: BindRequest): PinnedPath {
    const pinned = pinPath(request.source);
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

function mountOf(request: BindRequest, pinned: PinnedPath | undefined): Mount[] {
  if (pinned === undefined) throw new RuntimeError('INTERNAL', `host path ${request.source} was not opened`);
  const flags = ['nosuid', 'nodev', ...(request.readOnly ? ['ro'] : [])];
  // Flags of a bind mount are its own; what is mounted below the source needs the recursive ones.
  const hasSubmounts = mountsBelow(pinned.realPath).some((entry) => entry.mountPoint !== pinned.realPath);
  const options = ['rbind', 'rprivate', ...flags, ...(hasSubmounts ? flags.map((flag) => `r${flag}`) : [])];
  return [{ destination: request.target, type: 'bind', source: pinned.magicPath, options }];
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
