/**
 * How runs ended, as conmon writes it down: RUN/exits/ID holds the exit code, its modification time is the instant.
 * One watch on the directory serves every container; a file is looked at when a wait begins and at each event, so that
 * nothing is missed. A run whose supervisor was killed gets its file from the launcher, with code -1.
 */
import { type FSWatcher, readFileSync, renameSync, rmSync, statSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { systemCode } from '../../errors.ts';
import type { ContainerId } from '../container.ts';

/** What an exit file says. */
export interface ExitFile {
  /** 0 to 255, or -1 when nobody could tell. */
  readonly code: number;
  readonly exitedAt: string;
}

/** Nobody saw how it ended. */
const UNKNOWN_CODE = -1;

export class ExitFiles {
  readonly #directory: string;
  readonly #log: Logger;
  readonly #waiting = new Map<ContainerId, Set<PromiseWithResolvers<ExitFile>>>();
  #watcher: FSWatcher | undefined;
  #holders = 0;

  constructor(options: { readonly directory: string; readonly log: Logger }) {
    this.#directory = options.directory;
    this.#log = options.log;
  }

  /** Begins to watch; the directory must exist. Idempotent. */
  open(): void {
    if (this.#watcher !== undefined) return;
    this.#watcher = watch(this.#directory, (_, name) => {
      // Without a name anything may have changed.
      for (const id of name === null ? [...this.#waiting.keys()] : [name]) this.check(id);
    });
    this.#watcher.on('error', (error) => this.#log.error({ err: error }, 'watch on exit files failed'));
    this.#hold(0);
  }

  close(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  /** The exit of a run that has ended. */
  read(id: ContainerId): ExitFile | undefined {
    const path = join(this.#directory, id);
    try {
      const text = readFileSync(path, 'utf8').trim();
      if (!/^-?[0-9]{1,3}$/.test(text)) return undefined;
      return { code: Number(text), exitedAt: statSync(path).mtime.toISOString() };
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** As {@link next}, and keeps the process running meanwhile. */
  async wait(id: ContainerId, signal: AbortSignal): Promise<ExitFile> {
    this.#hold(1);
    try {
      return await this.next(id, signal);
    } finally {
      this.#hold(-1);
    }
  }

  /** Settles when the run has ended. */
  async next(id: ContainerId, signal: AbortSignal): Promise<ExitFile> {
    signal.throwIfAborted();
    const waiter = Promise.withResolvers<ExitFile>();
    const waiters = this.#waiting.get(id) ?? new Set();
    this.#waiting.set(id, waiters.add(waiter));
    const onAbort = (): void => waiter.reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    this.check(id);
    try {
      return await waiter.promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
      waiters.delete(waiter);
      if (waiters.size === 0 && this.#waiting.get(id) === waiters) this.#waiting.delete(id);
    }
  }

  /** Looks for the file now and tells those who wait. */
  check(id: ContainerId): void {
    const waiters = this.#waiting.get(id);
    const exit = waiters === undefined ? undefined : this.read(id);
    if (exit === undefined) return;
    for (const waiter of waiters ?? []) waiter.resolve(exit);
  }

  /** Writes down that nobody knows how the run ended. A file of conmon's own stays. */
  writeUnknown(id: ContainerId): void {
    if (this.read(id) === undefined) {
      const path = join(this.#directory, id);
      writeFileSync(`${path}.unknown`, String(UNKNOWN_CODE), { mode: 0o600 });
      renameSync(`${path}.unknown`, path);
    }
    this.check(id);
  }

  /** Takes the file away and ends every wait for it with `reason`. */
  remove(id: ContainerId, reason: Error): void {
    rmSync(join(this.#directory, id), { force: true });
    for (const waiter of this.#waiting.get(id) ?? []) waiter.reject(reason);
  }

  /** The watch keeps the process running, but only while somebody waits. */
  #hold(change: number): void {
    this.#holders += change;
    if (this.#holders > 0) this.#watcher?.ref();
    else this.#watcher?.unref();
  }
}
