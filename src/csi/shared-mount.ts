/**
 * Mounts that reach other mount namespaces: whether those made below a directory do, and making a directory a place where
 * they do.
 */
import { mkdirSync, realpathSync } from 'node:fs';
import { posix } from 'node:path';
import { RuntimeError } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import { type MountEntry, mountAt, mountsBelow, readMounts } from '../mountinfo.ts';
import type { RunProgram } from '../run-program.ts';
import { Serial } from '../serial.ts';

/** The mount a path lies on, and whether it is shared. */
export interface MountPropagation {
  readonly mountPoint: string;
  readonly shared: boolean;
}

/** The mount that `path` (absolute, without links) lies on: the longest mount point, of several there the latest. */
export function propagationOf(mounts: readonly MountEntry[], path: string): MountPropagation | undefined {
  const entry = entryOf(mounts, path);
  if (entry === undefined) return undefined;
  return { mountPoint: entry.mountPoint, shared: isShared(entry) };
}

function isShared({ propagation }: MountEntry): boolean {
  return propagation.some((field) => field.startsWith('shared:'));
}

function entryOf(mounts: readonly MountEntry[], path: string): MountEntry | undefined {
  const above = mounts.filter(({ mountPoint }) => {
    return mountPoint === '/' || path === mountPoint || path.startsWith(`${mountPoint}/`);
  });
  const longest = Math.max(...above.map(({ mountPoint }) => mountPoint.length));
  return above.findLast(({ mountPoint }) => mountPoint.length === longest);
}

/**
 * A directory that is made a mount of its own, shared, where it does not lie on a shared one: what containers mount below
 * it is then seen on the host, and the other way round. The kernel's list of mounts is its only memory.
 */
export class SharedDirectory {
  /** Absolute, without links. */
  readonly dir: string;
  readonly #run: RunProgram | undefined;
  /** Two at once would both see that it is not shared, and mount it twice. */
  readonly #lane = new Serial();

  /** @param dir absolute, without links; made when absent */
  constructor(dir: string, run?: RunProgram) {
    this.dir = dir;
    this.#run = run;
  }

  /**
   * Mounts made below from now on are shared. Idempotent.
   * @throws {RuntimeError} FAILED_PRECONDITION when it lies on a private mount and something is mounted below already
   */
  share(signal: AbortSignal): Promise<void> {
    return this.#lane.run(this.dir, () => this.#share(signal), signal);
  }

  /** Undoes {@link share} unless something is mounted below. Returns false when it is still a mount of its own. */
  unshare(signal: AbortSignal): Promise<boolean> {
    return this.#lane.run(this.dir, () => this.#unshare(signal), signal);
  }

  async #share(signal: AbortSignal): Promise<void> {
    mkdirSync(this.dir, { recursive: true, mode: 0o700 });
    const dir = realpathSync(this.dir);
    const found = propagationOf(readMounts(), dir);
    if (found?.shared === true) return;
    if (found?.mountPoint === dir) {
      await this.#mount(['--make-shared', dir], signal);
      return;
    }
    const [below] = mountsBelow(dir);
    if (below !== undefined) {
      const advice = `end what uses it and its like, or: mount --make-shared ${found?.mountPoint ?? '/'}`;
      throw new RuntimeError(
        'FAILED_PRECONDITION',
        `mounts below ${dir} do not reach containers, and ${below.mountPoint} was mounted before that could be changed: ${advice}`,
      );
    }
    await this.#mount(['--bind', '--make-shared', dir, dir], signal);
  }

  async #unshare(signal: AbortSignal): Promise<boolean> {
    const own = mountAt(this.dir);
    if (own === undefined || !this.#isOurs(own)) return true;
    if (mountsBelow(this.dir).length > 1) return false;
    await hostCommand('umount', ['--no-canonicalize', this.dir], signal, this.#options());
    return true;
  }

  /** Bound from the very place at which it is mounted. */
  #isOurs({ root, device }: MountEntry): boolean {
    const above = entryOf(
      readMounts().filter(({ mountPoint }) => mountPoint !== this.dir),
      this.dir,
    );
    if (above === undefined || above.device !== device) return false;
    return posix.join(above.root, posix.relative(above.mountPoint, this.dir)) === root;
  }

  async #mount(args: readonly string[], signal: AbortSignal): Promise<void> {
    await hostCommand('mount', ['--no-canonicalize', ...args], signal, this.#options());
  }

  #options(): { run?: RunProgram } {
    return this.#run === undefined ? {} : { run: this.#run };
  }
}
