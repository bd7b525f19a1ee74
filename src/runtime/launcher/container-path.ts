/**
 * Paths as the container will see them, resolved before it exists: links are followed inside the root file system and
 * inside what is bind-mounted into it, never out of it. Nothing runs in the container yet, so nothing moves meanwhile;
 * what lies in a shared volume may, and there the runtime has the last word.
 */
import { lstatSync, readlinkSync, type Stats } from 'node:fs';
import { join, posix } from 'node:path';
import { systemCode } from '../../errors.ts';
import type { Contribution, Mount } from '../isolator.ts';

/** Links followed before it is called a loop (kernel: 40). */
const MAX_LINKS = 40;
/** Filled by the runtime when it makes the container. */
const PSEUDO_ROOTS: readonly string[] = ['/proc', '/sys', '/dev'];

/** Where a path leads. */
export type Resolved =
  | { readonly kind: 'found'; readonly path: string; readonly hostPath: string; readonly stats: Stats }
  | { readonly kind: 'missing'; readonly path: string }
  /** A loop of links, or a way back up from something that is missing. */
  | { readonly kind: 'astray'; readonly path: string }
  /** Inside something that exists only once the container does; `path` is where that begins. */
  | { readonly kind: 'hidden'; readonly path: string };

/** The tree a container will see. */
export class ContainerPaths {
  readonly #rootfs: string;
  readonly #mounts: readonly Mount[];

  constructor(contribution: Contribution) {
    this.#rootfs = contribution.rootfs ?? '';
    // The deepest mount decides.
    this.#mounts = (contribution.mounts ?? []).toSorted((a, b) => b.destination.length - a.destination.length);
  }

  /** Follows every link of an absolute path. */
  resolve(path: string): Resolved {
    let left = parts(path);
    let at = '/';
    for (let links = 0; ; ) {
      const here = this.#look(at);
      if (here.kind === 'missing') return missing(here.path, left);
      if (here.kind !== 'found') return here;
      if (here.stats.isSymbolicLink()) {
        links += 1;
        if (links > MAX_LINKS) return { kind: 'astray', path };
        const target = readlinkSync(here.hostPath);
        left = [...parts(target), ...left];
        at = target.startsWith('/') ? '/' : posix.dirname(at);
        continue;
      }
      const [next, ...rest] = left;
      if (next === undefined) return here;
      left = rest;
      at = posix.join(at, next);
    }
  }

  #look(path: string): Resolved {
    const hostPath = this.#hostPath(path);
    if (hostPath === undefined) return { kind: 'hidden', path };
    try {
      return { kind: 'found', path, hostPath, stats: lstatSync(hostPath) };
    } catch (error) {
      const code = systemCode(error);
      // What leads to a mount point the runtime makes.
      const isMade = code === 'ENOENT' && this.#mounts.some(({ destination }) => isWithin(destination, path));
      if (isMade) return { kind: 'found', path, hostPath: this.#rootfs, stats: lstatSync(this.#rootfs) };
      if (code === 'ENOENT' || code === 'ENOTDIR') return { kind: 'missing', path };
      throw error;
    }
  }

  /** Undefined where the tree is made by the runtime. */
  #hostPath(path: string): string | undefined {
    const mount = this.#mounts.find(({ destination }) => isWithin(path, destination));
    if (mount !== undefined) {
      const isBind = mount.type === 'bind' || mount.options.some((option) => option === 'bind' || option === 'rbind');
      return isBind ? join(mount.source, posix.relative(mount.destination, path)) : undefined;
    }
    return PSEUDO_ROOTS.some((root) => isWithin(path, root)) ? undefined : join(this.#rootfs, path);
  }
}

/** True for `root` itself and everything below it. Both are in normal form. */
export function isWithin(path: string, root: string): boolean {
  return path === root || path.startsWith(root.endsWith('/') ? root : `${root}/`);
}

/** What is missing at one step is missing for the whole path; ".." would make sense only of what is there. */
function missing(path: string, left: readonly string[]): Resolved {
  if (left.includes('..')) return { kind: 'astray', path };
  return { kind: 'missing', path: posix.join(path, ...left) };
}

function parts(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}
