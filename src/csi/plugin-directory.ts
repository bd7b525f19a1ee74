/**
 * The sockets in the plugin directory, now and as they come and go:
 *
 *   DIR/NAME.sock        DIR/NAME/csi.sock        DIR/NAME/ANY.sock, unless there is a csi.sock beside it
 *
 * The kernel's notices only say "look again"; a slow rescan finds what they missed (a directory made anew, a watch that
 * died). Names that begin with a dot and everything that is no socket are passed over.
 */
import { type Dirent, type FSWatcher, lstatSync, watch } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import type { Logger } from 'pino';
import { RuntimeError, systemCode } from '../errors.ts';

/** Notices come in bursts; one look serves them all. */
const SETTLE_MS = 20;

export interface PluginDirectoryOptions {
  readonly dir: string;
  readonly log: Logger;
  readonly rescanMs: number;
  /** Called after each look with all sockets: path to identity. Another identity is another socket at the same path. */
  readonly found: (sockets: ReadonlyMap<string, string>) => void;
}

/** Watches one directory until closed. */
export class PluginDirectory {
  readonly #options: PluginDirectoryOptions;
  readonly #watchers = new Map<string, { id: string; watcher: FSWatcher }>();
  #rescan: NodeJS.Timeout | undefined;
  #settle: NodeJS.Timeout | undefined;
  #scan: Promise<void> | undefined;
  #again = false;
  #closed = false;

  constructor(options: PluginDirectoryOptions) {
    this.#options = options;
  }

  /** Makes the directory if need be and looks for the first time. */
  async start(): Promise<void> {
    const { dir, rescanMs } = this.#options;
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await this.scan();
    this.#rescan = setInterval(() => this.#look(), rescanMs).unref();
  }

  /** Looks now; settles when what was there at the time of the call has been reported. */
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
    const { dir, log, found } = this.#options;
    try {
      const dirs = new Map<string, string>();
      const sockets = new Map<string, string>();
      await this.#list(dir, dirs, sockets, true);
      if (this.#closed) return;
      this.#watchOnly(dirs);
      found(sockets);
    } catch (error) {
      log.warn({ dir, err: RuntimeError.from(error, 'plugin directory') }, 'plugin directory cannot be read');
    }
  }

  async #list(dir: string, dirs: Map<string, string>, sockets: Map<string, string>, top: boolean): Promise<void> {
    const self = identity(dir);
    if (self === undefined) return;
    dirs.set(dir, self);
    const entries = (await namesIn(dir)).filter((entry) => !entry.name.startsWith('.'));
    for (const entry of entries) {
      if (entry.isDirectory() && top) await this.#list(`${dir}/${entry.name}`, dirs, sockets, false);
    }
    for (const name of socketsAmong(entries, top)) {
      const path = `${dir}/${name}`;
      const id = identity(path);
      if (id !== undefined) sockets.set(path, id);
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
      this.scan().catch((error: unknown) => this.#options.log.error({ err: error }, 'plugin directory scan failed'));
    }, SETTLE_MS).unref();
  }
}

/** A plugin's own directory holds one plugin: other sockets in it belong to its side processes. */
function socketsAmong(entries: readonly Dirent[], top: boolean): string[] {
  const names = entries.filter((entry) => entry.isSocket() && entry.name.endsWith('.sock')).map(({ name }) => name);
  return !top && names.includes('csi.sock') ? ['csi.sock'] : names;
}

async function namesIn(dir: string): Promise<Dirent[]> {
  try {
    return await readdir(dir, { withFileTypes: true });
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}

/** Device, inode and birth of a file: inode numbers alone are used again. Undefined when it is gone. */
export function identity(path: string): string | undefined {
  const stats = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stats === undefined ? undefined : `${stats.dev}:${stats.ino}:${stats.birthtimeNs}`;
}
