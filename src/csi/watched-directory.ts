/**
 * Directories that are looked into now, whenever the kernel says that something changed there, and from time to time for
 * what it did not say: a directory made anew, a watch that died. What there is to see is the owner's business.
 */
import { type FSWatcher, lstatSync, watch } from 'node:fs';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';

/** Notices come in bursts; one look serves them all. */
const SETTLE_MS = 20;

export interface WatchedDirectoryOptions {
  readonly dir: string;
  readonly log: Logger;
  /** Pause between looks that no notice asked for. */
  readonly rescanMs: number;
  /** One look. Returns the directories to watch from now on: path to identity. May throw: then it is tried again. */
  readonly look: () => Promise<ReadonlyMap<string, string>>;
}

/** Watches until closed. */
export class WatchedDirectory {
  readonly #options: WatchedDirectoryOptions;
  readonly #watchers = new Map<string, { id: string; watcher: FSWatcher }>();
  #rescan: NodeJS.Timeout | undefined;
  #settle: NodeJS.Timeout | undefined;
  #scan: Promise<void> | undefined;
  #again = false;
  #closed = false;

  constructor(options: WatchedDirectoryOptions) {
    this.#options = options;
  }

  /** Looks for the first time, then keeps looking. */
  async start(): Promise<void> {
    await this.scan();
    this.#rescan = setInterval(() => this.#look(), this.#options.rescanMs).unref();
  }

  /** Looks now; settles when what was there at the time of the call has been seen. */
  async scan(): Promise<void> {
    if (this.#scan !== undefined) {
      this.#again = true;
      await this.#scan;
      return;
    }
    this.#scan = this.#scanAll();
    try {
      await this.#scan;
    } finally {
      this.#scan = undefined;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#rescan);
    clearTimeout(this.#settle);
    for (const { watcher } of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    await this.#scan;
  }

  async #scanAll(): Promise<void> {
    do {
      this.#again = false;
      await this.#scanOnce();
    } while (this.#again && !this.#closed);
  }

  async #scanOnce(): Promise<void> {
    const { dir, log, look } = this.#options;
    try {
      const dirs = await look();
      if (!this.#closed) this.#watchOnly(dirs);
    } catch (error) {
      log.warn({ dir, err: RuntimeError.from(error, 'directory') }, 'directory cannot be read');
    }
  }

  /** Watches exactly these directories; one that was made anew is watched anew. */
  #watchOnly(dirs: ReadonlyMap<string, string>): void {
    for (const [dir, { id, watcher }] of this.#watchers) {
      if (dirs.get(dir) === id) continue;
      watcher.close();
      this.#watchers.delete(dir);
    }
    for (const [dir, id] of dirs) {
      if (!this.#watchers.has(dir)) this.#watch(dir, id);
    }
  }

  #watch(dir: string, id: string): void {
    try {
      const watcher = watch(dir, { persistent: false }, () => this.#look());
      watcher.on('error', (error) => {
        this.#options.log.debug({ dir, err: error }, 'watch ended, the next rescan renews it');
        watcher.close();
        this.#watchers.delete(dir);
      });
      this.#watchers.set(dir, { id, watcher });
      // What came between reading the directory and watching it is seen by one more look.
      this.#look();
    } catch (error) {
      this.#options.log.debug({ dir, err: error }, 'directory cannot be watched, the rescan has to do');
    }
  }

  #look(): void {
    if (this.#closed) return;
    this.#settle ??= setTimeout(() => {
      this.#settle = undefined;
      this.scan().catch((error: unknown) => this.#options.log.error({ err: error }, 'directory scan failed'));
    }, SETTLE_MS).unref();
  }
}

/** Device, inode and birth of a file: inode numbers alone are used again. Undefined when it is gone. */
export function identity(path: string): string | undefined {
  const stats = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stats === undefined ? undefined : `${stats.dev}:${stats.ino}:${stats.birthtimeNs}`;
}
