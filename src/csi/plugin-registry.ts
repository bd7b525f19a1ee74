/**
 * The CSI plugins of this machine. A plugin is known by its sockets, however they came to be known: one lies in the plugin
 * directory, a file names it, a registrar announced it, a command or the daemon itself registered it; all are equal
 * (plugin-registration.ts). Each socket is dialled and watched for itself (plugin-connection.ts), sockets of one name are
 * one plugin (plugin-assembly.ts); a plugin that is slow or dead holds up no other.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { ChangeSignal } from './change-signal.ts';
import type { Plugin } from './plugin.ts';
import { type Assembly, assemble } from './plugin-assembly.ts';
import type { PluginConnection } from './plugin-connection.ts';
import { type FoundPlugin, PluginDirectory } from './plugin-directory.ts';
import { checkSocketPath, type PluginRegistration } from './plugin-registration.ts';
import { type Misfit, PluginSockets } from './plugin-sockets.ts';
import { bySocket, misfitSummary, type PluginSummary, summaryOf } from './plugin-summary.ts';
import { type Csi, loadCsi } from './protocol.ts';

export type { PluginSummary };

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
  /** Pause between two Probes of a plugin that is ready; 30,000 unless given. */
  readonly probeMs?: number;
}

/** How long start() waits for the sockets it finds to answer; those that do not are waited for in the background. */
const FIRST_VERDICT_MS = 2000;

/** See the module's head. */
export class PluginRegistry {
  readonly #options: PluginRegistryOptions;
  readonly #csi: Csi;
  readonly #log: Logger;
  readonly #directory: PluginDirectory;
  readonly #sockets: PluginSockets;
  readonly #changes = new ChangeSignal();
  readonly #listeners = new Set<(plugin: string) => void>();
  readonly #ready = new Set<PluginConnection>();
  /** When a plugin that was ready, or a part of it, was lost last, by this process's clock. */
  readonly #lostMs = new Map<string, number>();
  /** What the directory registered: key to identity. */
  #found: ReadonlyMap<string, string> = new Map();

  constructor(options: PluginRegistryOptions) {
    const { deadlineMs, probeMs, rescanMs = 5000 } = options;
    this.#options = options;
    this.#csi = options.csi ?? loadCsi();
    this.#log = options.log.child({ component: 'csi' });
    this.#sockets = new PluginSockets({
      csi: this.#csi,
      log: this.#log,
      deadlineMs,
      probeMs,
      changed: (connection) => this.#changed(connection),
    });
    this.#directory = new PluginDirectory({
      dir: options.pluginDir,
      log: this.#log,
      rescanMs,
      found: (plugins) => this.#reconcile(plugins),
    });
  }

  /** Where a plugin registers by its socket. */
  get pluginDir(): string {
    return this.#options.pluginDir;
  }

  /** Begins to watch the directory. Settles when each socket known was tried once, or after two seconds. */
  async start(signal: AbortSignal): Promise<void> {
    await this.#directory.start();
    const patience = AbortSignal.any([signal, AbortSignal.timeout(FIRST_VERDICT_MS)]);
    const all = this.#sockets.connections;
    await this.#changes.until(
      () => ([...all.values()].every(({ verdicts }) => verdicts > 0) ? true : undefined),
      patience,
    );
    signal.throwIfAborted();
  }

  /**
   * Makes a plugin known, whether its sockets are there yet or not; replaces the registration of the same key. Idempotent.
   * Sockets are dialled until it is taken back.
   */
  register(registration: PluginRegistration): void {
    this.#sockets.register(registration);
  }

  /** Takes a registration back; another one of the same plugin goes on. Succeeds when there is none. */
  deregister(key: string): void {
    this.#sockets.deregister(key);
  }

  /** Shows in lists what was meant to register a plugin but cannot; what it registered before stays. */
  report(misfit: Omit<Misfit, 'sinceAt'>): void {
    this.#sockets.list(misfit);
  }

  /** Ends what {@link report} began. */
  unreport(key: string): void {
    this.#sockets.unlist(key);
  }

  /** All plugins, and all sockets and files that are no part of one, by socket path. */
  list(): readonly PluginSummary[] {
    const rows = [...this.#groups()].map(([name, connections]) => this.#summary(name, connections));
    const alone = [...this.#sockets.connections.values()].filter((one) => this.#sockets.nameOf(one) === undefined);
    const others = alone.map((one) => this.#summary(one.met?.name ?? '', [one]));
    return [...rows, ...others, ...this.#sockets.misfits.map(misfitSummary)].sort(bySocket);
  }

  /**
   * One row of {@link list}, by the plugin's name, a socket or a file; of several the one that has the name.
   * @throws {RuntimeError} NOT_FOUND when no socket has given this name and none has this path
   */
  inspect(nameOrSocket: string): PluginSummary {
    const rows = this.list().filter(
      ({ name, socket, sockets }) =>
        name === nameOrSocket || socket === nameOrSocket || sockets.some(({ path }) => path === nameOrSocket),
    );
    const row = rows.find(({ state }) => state === 'ready') ?? rows.find(({ state }) => state !== 'refused') ?? rows[0];
    if (row === undefined) throw this.#absence(nameOrSocket);
    return row;
  }

  /**
   * Asks all sockets of a plugin anew and settles when all have answered or failed.
   * @throws {RuntimeError} NOT_FOUND as {@link inspect}
   */
  async probe(nameOrSocket: string, signal: AbortSignal): Promise<PluginSummary> {
    const paths = this.inspect(nameOrSocket).sockets.map(({ path }) => path);
    const asked = paths.flatMap((path) => this.#sockets.connections.get(path) ?? []);
    const before = new Map(asked.map((connection) => [connection, connection.verdicts]));
    for (const connection of asked) connection.hurry();
    await this.#changes.until(
      () => ([...before].every(([{ verdicts, closed }, then]) => closed || verdicts > then) ? true : undefined),
      signal,
    );
    signal.throwIfAborted();
    return this.inspect(nameOrSocket);
  }

  /**
   * Waits until the sockets of a registration are ready.
   * @returns the name the plugin gives itself
   * @throws {RuntimeError} ALREADY_EXISTS when one is refused, UNAVAILABLE with the reason when the signal aborts before,
   * CANCELLED when the registration was taken back meanwhile
   */
  async settled(key: string, signal: AbortSignal): Promise<string> {
    const verdict = await this.#changes.until((): string | RuntimeError | undefined => {
      const connections = this.#connectionsOf(key);
      const wanted = this.#sockets.registrations().find((one) => one.key === key)?.name;
      if (connections === undefined) return new RuntimeError('CANCELLED', 'the registration was taken back meanwhile');
      const refused = connections.find(({ state }) => state === 'refused');
      if (refused !== undefined) return new RuntimeError('ALREADY_EXISTS', refused.reason ?? 'refused');
      if (connections.some(({ state }) => state !== 'ready')) return undefined;
      const name = connections[0]?.met?.name;
      if (wanted === undefined || name === wanted) return name;
      return new RuntimeError('ALREADY_EXISTS', `the plugin calls itself ${name}, but was registered as ${wanted}`);
    }, signal);
    if (typeof verdict === 'string') return verdict;
    if (verdict !== undefined) throw verdict;
    const late = this.#connectionsOf(key)?.find(({ state }) => state !== 'ready');
    const reason = `the plugin at ${late?.socketPath} is ${late?.state}: ${late?.reason ?? 'no reason known'}`;
    throw new RuntimeError('UNAVAILABLE', reason, { cause: signal.reason });
  }

  /**
   * The plugin of this name, ready for calls.
   * @throws {RuntimeError} NOT_FOUND when no socket has given this name, UNAVAILABLE when the plugin is not ready
   */
  get(name: string): Plugin {
    const plugin = this.#assemble(name)?.plugin;
    if (plugin !== undefined) return plugin;
    throw this.#absence(name);
  }

  /**
   * The same, as soon as it is ready.
   * @throws {RuntimeError} UNAVAILABLE with what to do when the signal aborts before
   */
  async waitFor(name: string, signal: AbortSignal): Promise<Plugin> {
    const plugin = await this.#changes.until(() => this.#assemble(name)?.plugin, signal);
    if (plugin !== undefined) return plugin;
    throw new RuntimeError('UNAVAILABLE', this.#absence(name).message, { cause: signal.reason });
  }

  /** True for a plugin that was lost a moment ago: whoever runs it is likely to start it again. */
  wasLostWithin(name: string, ms: number): boolean {
    return performance.now() - (this.#lostMs.get(name) ?? Number.NEGATIVE_INFINITY) < ms;
  }

  /** Calls back with the name each time a plugin, or a part of it, becomes ready. Returns what ends it. */
  onReady(listener: (plugin: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends all watching. Plugins go on running. */
  async close(): Promise<void> {
    await this.#directory.close();
    await this.#sockets.close();
  }

  /** Connections by name of the plugin, in the order in which they were registered. */
  #groups(): Map<string, PluginConnection[]> {
    const groups = new Map<string, PluginConnection[]>();
    for (const connection of this.#sockets.connections.values()) {
      const name = this.#sockets.nameOf(connection);
      if (name !== undefined) groups.set(name, [...(groups.get(name) ?? []), connection]);
    }
    return groups;
  }

  #assemble(name: string): Assembly | undefined {
    const members = this.#groups().get(name);
    return members === undefined ? undefined : this.#assembled(name, members);
  }

  /** A socket that was registered as one of several has to be met before the plugin is known. */
  #assembled(name: string, members: readonly PluginConnection[]): Assembly {
    return assemble(this.#csi, name, members, ({ role, socketPath }) => {
      if (role !== undefined) return true;
      return this.#sockets.registrationsOf(socketPath).some(({ sockets }) => sockets.length > 1);
    });
  }

  #summary(name: string, connections: readonly PluginConnection[]): PluginSummary {
    const [first] = connections;
    const assembly: Assembly =
      first?.state === 'refused' ? { state: 'refused', ...lackOf(first) } : this.#assembled(name, connections);
    const registrations = new Set(connections.flatMap(({ socketPath }) => this.#sockets.registrationsOf(socketPath)));
    return summaryOf(name, connections, assembly, [...registrations]);
  }

  #connectionsOf(key: string): PluginConnection[] | undefined {
    const registration = this.#sockets.registrations().find((one) => one.key === key);
    return registration?.sockets.flatMap(({ path }) => this.#sockets.connections.get(path) ?? []);
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
    const advice = `start it so that its socket appears in ${this.#options.pluginDir}, or see berth csi register`;
    return new RuntimeError('NOT_FOUND', `no CSI plugin ${name}: ${others}; ${advice}`);
  }

  /** Brings the registrations of the directory in line with what is there. */
  #reconcile(plugins: readonly FoundPlugin[]): void {
    const now = new Map(plugins.map(({ registration, id }) => [registration.key, id]));
    for (const [key, id] of this.#found) if (now.get(key) !== id) this.#sockets.deregister(key);
    this.#found = now;
    for (const { registration } of plugins) {
      const { key, source, origin } = registration;
      try {
        for (const { path } of registration.sockets) checkSocketPath('socket', path);
        this.#sockets.register(registration);
      } catch (error) {
        this.#sockets.list({ key, source, origin, reason: RuntimeError.from(error, 'socket').message });
      }
    }
  }

  #changed(connection: PluginConnection | undefined): void {
    for (const one of this.#ready) {
      if (one.state === 'ready' && !one.closed) continue;
      this.#ready.delete(one);
      if (one.met !== undefined) this.#lostMs.set(one.met.name, performance.now());
      if (one === connection) this.#sockets.hurryRefused();
    }
    this.#changes.notify();
    if (connection?.state !== 'ready') return;
    this.#ready.add(connection);
    const name = connection.met?.name;
    if (name === undefined || this.#assemble(name)?.plugin === undefined) return;
    for (const listener of this.#listeners) listener(name);
  }
}

function lackOf({ reason }: PluginConnection): { lack?: string } {
  return reason === undefined ? {} : { lack: reason };
}
