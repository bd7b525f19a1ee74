/**
 * The sockets in the plugin directory, now and as they come and go:
 *
 *   DIR/NAME.sock                            one plugin
 *   DIR/NAME/csi.sock                        one plugin
 *   DIR/NAME/controller.sock, node.sock      one plugin in two parts, when there is no csi.sock beside them
 *   DIR/NAME/ANY.sock                        one plugin each, when there is none of these
 *
 * Names that begin with a dot and everything that is no socket are passed over.
 */
import type { Dirent } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import type { Logger } from 'pino';
import { systemCode } from '../errors.ts';
import type { PluginRegistration, PluginSocket } from './plugin-registration.ts';
import { identity, WatchedDirectory } from './watched-directory.ts';

/** A registration and what it was made of: another identity is another plugin at the same place. */
export interface FoundPlugin {
  readonly registration: PluginRegistration;
  readonly id: string;
}

export interface PluginDirectoryOptions {
  readonly dir: string;
  readonly log: Logger;
  readonly rescanMs: number;
  /** Called after each look with all plugins. */
  readonly found: (plugins: readonly FoundPlugin[]) => void;
}

/** Watches one directory until closed. */
export class PluginDirectory {
  readonly #options: PluginDirectoryOptions;
  readonly #watched: WatchedDirectory;

  constructor(options: PluginDirectoryOptions) {
    this.#options = options;
    this.#watched = new WatchedDirectory({ ...options, look: () => this.#look() });
  }

  /** Makes the directory if need be and looks for the first time. */
  async start(): Promise<void> {
    await mkdir(this.#options.dir, { recursive: true, mode: 0o700 });
    await this.#watched.start();
  }

  async close(): Promise<void> {
    await this.#watched.close();
  }

  async #look(): Promise<ReadonlyMap<string, string>> {
    const { dir, found } = this.#options;
    const dirs = new Map<string, string>();
    const plugins: FoundPlugin[] = [];
    const entries = await entriesOf(dir, dirs);
    for (const { name } of entries.filter(isSocket)) plugins.push(...alone(`${dir}/${name}`));
    for (const { name } of entries.filter((entry) => entry.isDirectory())) {
      const below = `${dir}/${name}`;
      const names = new Set((await entriesOf(below, dirs)).filter(isSocket).map((entry) => entry.name));
      plugins.push(...pluginsIn(below, names, dirs.get(below)));
    }
    found(plugins);
    return dirs;
  }
}

/** A plugin's own directory holds one plugin: other sockets beside its csi.sock belong to its side processes. */
function pluginsIn(dir: string, names: ReadonlySet<string>, id: string | undefined): FoundPlugin[] {
  if (names.has('csi.sock')) return alone(`${dir}/csi.sock`);
  const sockets = (['controller', 'node'] as const).flatMap((role): PluginSocket[] =>
    names.has(`${role}.sock`) ? [{ path: `${dir}/${role}.sock`, role }] : [],
  );
  if (sockets.length > 0 && id !== undefined) {
    return [{ registration: { key: `directory:${dir}`, source: 'directory', origin: dir, sockets }, id }];
  }
  return [...names].flatMap((name) => alone(`${dir}/${name}`));
}

/** The plugin of one socket; none when the socket has gone. */
function alone(path: string): FoundPlugin[] {
  const id = identity(path);
  if (id === undefined) return [];
  return [{ registration: { key: `directory:${path}`, source: 'directory', origin: path, sockets: [{ path }] }, id }];
}

function isSocket(entry: Dirent): boolean {
  return entry.isSocket() && entry.name.endsWith('.sock');
}

/** What lies in a directory, which is noted as one to watch; nothing when it has gone. */
async function entriesOf(dir: string, dirs: Map<string, string>): Promise<Dirent[]> {
  const id = identity(dir);
  if (id === undefined) return [];
  dirs.set(dir, id);
  try {
    return (await readdir(dir, { withFileTypes: true })).filter(({ name }) => !name.startsWith('.'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}
