/** What belongs to one daemon, and the small readers of /proc and /sys that every finder needs. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { systemCode } from '../../../src/errors.ts';

/** What is looked at. Paths are absolute and free of symlinks. */
export interface Scope {
  /** Root and run directories of the daemon, and any further directory it may use. */
  readonly dirs: readonly string[];
  /** Name of the daemon's cgroup in every hierarchy. */
  readonly cgroupParent: string;
  /** Bridges of the daemon's networks. They stay; what hangs on them must go. */
  readonly bridges: readonly string[];
  /** Names of the daemon's networks: plugins build chain names from them. */
  readonly networks: readonly string[];
  /** "10.87.100.0/24", "fd00:be::/64" */
  readonly subnets: readonly string[];
  /** Data directories of host-local. */
  readonly leaseDirs: readonly string[];
  /** Container ids seen so far; the caller may go on adding to the set. */
  readonly ids: ReadonlySet<string>;
  /** Files below `dirs` that are no leak whoever wrote them: image content, logs of the daemon. */
  readonly ignoreFiles?: (path: string) => boolean;
  /**
   * Command lines of processes that may be started anew: the daemon itself, plugins it supervises. They are named
   * without their pid, and a second one of the same command line is another name.
   */
  readonly restartable?: (commandLine: string) => boolean;
}

/** True when `path` is one of the scope's directories or below one. */
export function isInside(scope: Pick<Scope, 'dirs'>, path: string): boolean {
  return scope.dirs.some((dir) => path === dir || path.startsWith(`${dir}/`));
}

/** True when a text holds one of the scope's directories or container ids. */
export function mentions(scope: Scope, text: string): boolean {
  if ([...scope.ids].some((id) => text.includes(id))) return true;
  return scope.dirs.some((dir) => {
    for (let at = text.indexOf(dir); at >= 0; at = text.indexOf(dir, at + 1)) {
      if (!/[\w.-]/.test(text.charAt(at + dir.length))) return true;
    }
    return false;
  });
}

/** Text of a file of /proc or /sys; empty when it is gone or not ours to read. */
export function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    return vanished(error, '');
  }
}

/** Target of a link of /proc; empty when it is gone. */
export function readLink(path: string): string {
  try {
    return readlinkSync(path);
  } catch (error) {
    return vanished(error, '');
  }
}

/** Names in a directory; none when it is gone. */
export function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (error) {
    return vanished(error, []);
  }
}

const GONE: ReadonlySet<string> = new Set(['ENOENT', 'ESRCH', 'ENOTDIR', 'EACCES', 'EPERM', 'EINVAL', 'ENODEV']);

/** Things come and go while they are looked at; anything else is an error of the oracle. */
function vanished<T>(error: unknown, instead: T): T {
  if (GONE.has(systemCode(error) ?? '')) return instead;
  throw error;
}
