/**
 * The directory in which registrars of the plugin registration protocol put their sockets, as kubelet has one; drivers
 * that are deployed with node-driver-registrar need nothing else. Sockets lie in it or in directories below; names that
 * begin with a dot and everything that is no socket are passed over.
 */
import type { Dirent } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { systemCode } from '../errors.ts';
import { loadRegistration } from './registrar-client.ts';
import { RegistrarSession, type RegistrarSessionOptions } from './registrar-session.ts';
import { identity, WatchedDirectory } from './watched-directory.ts';

/** Deeper directories are not looked into. */
const MAX_DEPTH = 4;
/** How long start() waits for the registrars it finds. */
const FIRST_VERDICT_MS = 2000;

export interface RegistrarDirectoryOptions extends Pick<RegistrarSessionOptions, 'registry' | 'answerMs'> {
  /** Absolute path; made when it is missing. */
  readonly dir: string;
  readonly log: Logger;
  /** Pause between looks that no notice asked for; 5,000 unless given. */
  readonly rescanMs?: number;
}

/** Serves all registrars of one directory until closed. */
export class RegistrarDirectory {
  readonly #options: RegistrarDirectoryOptions;
  readonly #definition = loadRegistration();
  readonly #watched: WatchedDirectory;
  /** By path; another identity is another registrar. */
  readonly #sessions = new Map<string, { readonly id: string; readonly session: RegistrarSession }>();

  constructor(options: RegistrarDirectoryOptions) {
    this.#options = options;
    const { dir, log, rescanMs = 5000 } = options;
    this.#watched = new WatchedDirectory({ dir, log, rescanMs, look: () => this.#look() });
  }

  /** Begins to watch; waits a moment for the verdicts on registrars that are there. */
  async start(signal: AbortSignal): Promise<void> {
    await mkdir(this.#options.dir, { recursive: true, mode: 0o700 });
    await this.#watched.start();
    const all = Promise.all([...this.#sessions.values()].map(({ session }) => session.tried));
    await Promise.race([all, sleep(FIRST_VERDICT_MS, undefined, { ref: false, signal })]);
  }

  /** Ends all sessions; registrars are told nothing. */
  async close(): Promise<void> {
    await this.#watched.close();
    await this.#keepOnly(new Map());
  }

  async #look(): Promise<ReadonlyMap<string, string>> {
    const dirs = new Map<string, string>();
    const sockets = new Map<string, string>();
    await list(this.#options.dir, MAX_DEPTH, dirs, sockets);
    await this.#keepOnly(sockets);
    for (const [path, id] of sockets) this.#serve(path, id);
    return dirs;
  }

  async #keepOnly(sockets: ReadonlyMap<string, string>): Promise<void> {
    const gone = [...this.#sessions].filter(([path, { id }]) => sockets.get(path) !== id);
    for (const [path] of gone) this.#sessions.delete(path);
    await Promise.all(gone.map(([, { session }]) => session.close()));
  }

  #serve(path: string, id: string): void {
    if (this.#sessions.has(path)) return;
    const { registry, log, answerMs } = this.#options;
    const session = new RegistrarSession({ socketPath: path, definition: this.#definition, registry, log, answerMs });
    this.#sessions.set(path, { id, session });
    session.open();
  }
}

async function list(
  dir: string,
  depth: number,
  dirs: Map<string, string>,
  sockets: Map<string, string>,
): Promise<void> {
  const self = identity(dir);
  if (self === undefined) return;
  dirs.set(dir, self);
  for (const entry of await entriesOf(dir)) {
    const path = `${dir}/${entry.name}`;
    if (entry.isDirectory() && depth > 0) await list(path, depth - 1, dirs, sockets);
    const id = entry.isSocket() ? identity(path) : undefined;
    if (id !== undefined) sockets.set(path, id);
  }
}

async function entriesOf(dir: string): Promise<Dirent[]> {
  try {
    return (await readdir(dir, { withFileTypes: true })).filter(({ name }) => !name.startsWith('.'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}
