/**
 * The drop-in files of CSI plugins as they come, change and go. A file that turns bad while the daemon runs keeps the
 * meaning it had, so that a half-written file ends no plugin; its fault is told beside it.
 */
import type { Logger } from 'pino';
import { dropInRegistration, type PluginDropIn, type PluginDropIns, readPluginDropIns } from './plugin-drop-ins.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import { identity, WatchedDirectory } from './watched-directory.ts';

export interface PluginDropInDirectoryOptions {
  /** Need not be there. */
  readonly dir: string;
  readonly registry: Pick<PluginRegistry, 'register' | 'deregister' | 'report' | 'unreport'>;
  readonly log: Logger;
  readonly rescanMs?: number;
  /** Called once at the start and after each change with what all files mean now, after the registry has it. */
  readonly changed?: (dropIns: PluginDropIns) => void;
}

/** Watches one directory until closed. */
export class PluginDropInDirectory {
  readonly #options: PluginDropInDirectoryOptions;
  readonly #watched: WatchedDirectory;
  /** What was told last, as text. */
  #told: string | undefined;
  #good: readonly PluginDropIn[] = [];
  #registered: ReadonlySet<string> = new Set();
  #bad: ReadonlySet<string> = new Set();

  constructor(options: PluginDropInDirectoryOptions) {
    this.#options = options;
    const { dir, log, rescanMs = 5000 } = options;
    this.#watched = new WatchedDirectory({ dir, log, rescanMs, look: () => this.#look() });
  }

  /** Reads all files and begins to watch. */
  async start(): Promise<void> {
    await this.#watched.start();
  }

  async close(): Promise<void> {
    await this.#watched.close();
  }

  async #look(): Promise<ReadonlyMap<string, string>> {
    const { dir, log, changed } = this.#options;
    const id = identity(dir);
    const { good, bad } = readPluginDropIns(dir);
    const kept = this.#good.filter((before) => bad.some(({ file }) => file === before.file));
    this.#good = [...good, ...kept];
    const now = { good: this.#good, bad };
    const text = JSON.stringify(now);
    if (text !== this.#told) {
      this.#told = text;
      for (const { file, reason } of bad) log.error({ file, reason }, 'CSI plugin file is not understood');
      this.#apply(now);
      changed?.(now);
    }
    return new Map(id === undefined ? [] : [[dir, id]]);
  }

  /** Brings the registry in line. A file by which Berth starts a plugin is registered by whoever starts it. */
  #apply({ good, bad }: PluginDropIns): void {
    const { registry } = this.#options;
    const wanted = good.filter(({ sockets }) => sockets.length > 0).map(dropInRegistration);
    const keys = new Set(wanted.map(({ key }) => key));
    for (const key of this.#registered) if (!keys.has(key)) registry.deregister(key);
    this.#registered = keys;
    for (const registration of wanted) registry.register(registration);
    const files = new Set(bad.map(({ file }) => file));
    for (const file of this.#bad) if (!files.has(file)) registry.unreport(`bad:${file}`);
    this.#bad = files;
    for (const { file, reason } of bad) registry.report({ key: `bad:${file}`, source: 'file', origin: file, reason });
  }
}
