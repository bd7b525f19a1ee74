/**
 * The CSI plugins of this machine. A plugin is known by its socket, however that came to be known: it lies in the plugin
 * directory, a drop-in file names it, or the daemon started it; all are equal. Each is dialled and watched for itself
 * (plugin-connection.ts); a plugin that is slow or dead holds up no other.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { capabilityNames, type Plugin } from './plugin.ts';
import { PluginConnection, type PluginState } from './plugin-connection.ts';
import { identity, PluginDirectory } from './plugin-directory.ts';
import { type Csi, loadCsi } from './protocol.ts';

/** A plugin as lists show it. */
export interface PluginSummary {
  /** Empty while nobody has answered on the socket. */
  readonly name: string;
  readonly socket: string;
  readonly state: PluginState;
  /** Why it is not ready. */
  readonly reason?: string;
  readonly vendorVersion: string;
  /** "controller:CREATE_DELETE_VOLUME", "node:STAGE_UNSTAGE_VOLUME", "plugin:CONTROLLER_SERVICE", sorted. */
  readonly capabilities: readonly string[];
  /** This machine as the plugin knows it. */
  readonly nodeId?: string;
}

export interface PluginRegistryOptions {
  /** Absolute path; made when it is missing. */
  readonly pluginDir: string;
  readonly log: Logger;
  /** The loaded protocol; loaded here when absent. */
  readonly csi?: Csi;
  /** One deadline for all calls instead of the ones of each call. */
  readonly deadlineMs?: number;
  /** Pause between looks into the directory that no notice asked for; 5,000 unless given. */
  readonly rescanMs?: number;
}

/** How long start() waits for the sockets it finds to answer; those that do not are waited for in the background. */
const FIRST_VERDICT_MS = 2000;

/** See the module's head. */
export class PluginRegistry {
  readonly #options: PluginRegistryOptions;
  readonly #csi: Csi;
  readonly #log: Logger;
  readonly #directory: PluginDirectory;
  readonly #connections = new Map<string, { id: string | undefined; connection: PluginConnection }>();
  /** Sockets that were named to us: kept whether the file is there or not. */
  readonly #pinned = new Set<string>();
  readonly #waiters = new Set<() => void>();
  readonly #listeners = new Set<(plugin: string) => void>();
  readonly #closing = new Set<Promise<void>>();
  /** Sockets that were complained about. */
  readonly #unusable = new Set<string>();
  #inDirectory: ReadonlyMap<string, string> = new Map();

  constructor(options: PluginRegistryOptions) {
    this.#options = options;
    this.#csi = options.csi ?? loadCsi();
    this.#log = options.log.child({ component: 'csi' });
    this.#directory = new PluginDirectory({
      dir: options.pluginDir,
      log: this.#log,
      rescanMs: options.rescanMs ?? 5000,
      found: (sockets) => this.#reconcile(sockets),
    });
  }

  /** Where a plugin registers by its socket. */
  get pluginDir(): string {
    return this.#options.pluginDir;
  }

  /** Begins to watch the directory. Settles when each socket found was tried once, or after two seconds. */
  async start(signal: AbortSignal): Promise<void> {
    await this.#directory.start();
    const patience = AbortSignal.any([signal, AbortSignal.timeout(FIRST_VERDICT_MS)]);
    await this.#until(
      () => ([...this.#connections.values()].every((one) => one.connection.hasVerdict) ? true : undefined),
      patience,
    );
    signal.throwIfAborted();
  }

  /** Also watches this socket, wherever it lies and whether it is there yet or not. Idempotent. */
  addSocket(path: string): void {
    this.#pinned.add(path);
    this.#reconcile(this.#inDirectory);
  }

  /** All known sockets, by socket path. */
  list(): readonly PluginSummary[] {
    return [...this.#connections.values()].map(({ connection }) => summary(connection)).sort(bySocket);
  }

  /**
   * The plugin of this name, ready for calls.
   * @throws {RuntimeError} NOT_FOUND when no socket has given this name, UNAVAILABLE when the plugin is not ready
   */
  get(name: string): Plugin {
    const plugin = this.#ready(name);
    if (plugin !== undefined) return plugin;
    throw this.#absence(name);
  }

  /**
   * The same, as soon as it is ready.
   * @throws {RuntimeError} UNAVAILABLE with what to do when the signal aborts before
   */
  async waitFor(name: string, signal: AbortSignal): Promise<Plugin> {
    const plugin = await this.#until(() => this.#ready(name), signal);
    if (plugin !== undefined) return plugin;
    throw new RuntimeError('UNAVAILABLE', this.#absence(name).message, { cause: signal.reason });
  }

  /** Calls back with the name each time a plugin becomes ready. Returns what ends it. */
  onReady(listener: (plugin: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends all watching. Plugins go on running. */
  async close(): Promise<void> {
    await this.#directory.close();
    const all = [...this.#connections.values()];
    this.#connections.clear();
    await Promise.all([...all.map(({ connection }) => connection.close()), ...this.#closing]);
  }

  #ready(name: string): Plugin | undefined {
    return [...this.#connections.values()]
      .map(({ connection }) => connection)
      .find(({ state, plugin }) => state === 'ready' && plugin?.name === name)?.plugin;
  }

  #absence(name: string): RuntimeError {
    const known = this.list();
    const same = known.find((plugin) => plugin.name === name);
    if (same !== undefined) {
      const reason = `${same.state}: ${same.reason ?? 'no reason known'}`;
      return new RuntimeError('UNAVAILABLE', `CSI plugin ${name} at ${same.socket} is ${reason}; start it again`);
    }
    const names = known.flatMap((plugin) => (plugin.name === '' ? [] : [plugin.name]));
    const others = names.length === 0 ? 'none is known' : `known are ${names.join(', ')}`;
    const advice = `start it so that its socket appears in ${this.#options.pluginDir}`;
    return new RuntimeError('NOT_FOUND', `no CSI plugin ${name}: ${others}; ${advice}`);
  }

  /** Brings the connections in line with the sockets there are. */
  #reconcile(inDirectory: ReadonlyMap<string, string>): void {
    this.#inDirectory = inDirectory;
    for (const path of [...this.#connections.keys()]) {
      if (inDirectory.has(path) || this.#pinned.has(path)) continue;
      this.#log.info({ socket: path }, 'plugin socket is gone');
      this.#drop(path);
    }
    for (const [path, id] of inDirectory) this.#track(path, id);
    for (const path of this.#pinned) {
      if (!inDirectory.has(path)) this.#track(path, identity(path));
    }
  }

  #track(path: string, id: string | undefined): void {
    const known = this.#connections.get(path);
    if (known !== undefined && (known.id === id || id === undefined)) return;
    if (known !== undefined) this.#drop(path);
    const connection = this.#connect(path);
    if (connection === undefined) return;
    this.#connections.set(path, { id, connection });
    connection.open();
  }

  #connect(path: string): PluginConnection | undefined {
    try {
      return new PluginConnection({
        csi: this.#csi,
        socketPath: path,
        log: this.#log,
        deadlineMs: this.#options.deadlineMs,
        refusal: (name) => this.#refusal(name, path),
        changed: () => this.#changed(path),
      });
    } catch (error) {
      if (!this.#unusable.has(path)) this.#log.error({ socket: path, err: error }, 'plugin socket cannot be used');
      this.#unusable.add(path);
      return undefined;
    }
  }

  #drop(path: string): void {
    const known = this.#connections.get(path);
    if (known === undefined) return;
    this.#connections.delete(path);
    const closing = known.connection.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  /** The first to be ready has the name; another gets it when that one is gone. */
  #refusal(name: string, path: string): string | undefined {
    const holder = this.#ready(name);
    if (holder === undefined || holder.socketPath === path) return undefined;
    return `the name ${name} is taken by the plugin at ${holder.socketPath}`;
  }

  #changed(path: string): void {
    for (const waiter of [...this.#waiters]) waiter();
    const connection = this.#connections.get(path)?.connection;
    if (connection?.state !== 'ready' || connection.plugin === undefined) return;
    for (const listener of this.#listeners) listener(connection.plugin.name);
  }

  /** The first value that is not undefined, looked for after each change; undefined when the signal aborts. */
  async #until<T>(look: () => T | undefined, signal: AbortSignal): Promise<T | undefined> {
    let found = look();
    while (found === undefined && !signal.aborted) {
      await this.#nextChange(signal);
      found = look();
    }
    return found;
  }

  #nextChange(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        this.#waiters.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#waiters.add(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }
}

function summary(connection: PluginConnection): PluginSummary {
  const { plugin, reason } = connection;
  return {
    name: plugin?.name ?? '',
    socket: connection.socketPath,
    state: connection.state,
    ...(reason === undefined ? {} : { reason }),
    vendorVersion: plugin?.vendorVersion ?? '',
    capabilities: plugin === undefined ? [] : capabilityNames(plugin.capabilities),
    ...(plugin?.nodeId === undefined ? {} : { nodeId: plugin.nodeId }),
  };
}

function bySocket(a: PluginSummary, b: PluginSummary): number {
  return a.socket < b.socket ? -1 : 1;
}
