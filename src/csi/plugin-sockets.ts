/**
 * Who registered what, and a connection for each socket: opened when it is first registered, kept while somebody's
 * registration names it, closed afterwards. Decides which socket may be taken for which plugin:
 *
 *   - a registration that demands a name takes no other;
 *   - a registration belongs to the plugin that answered it first, until it is taken back and made anew;
 *   - two registrations of one name may add up, one with the controller, one with the node, but what one serves that is
 *     ready the other must not serve, too.
 */
import type { Logger } from 'pino';
import type { MetSocket } from './plugin.ts';
import { PluginConnection } from './plugin-connection.ts';
import type { PluginRegistration, PluginSocket, RegistrationSource } from './plugin-registration.ts';
import type { Csi } from './protocol.ts';

/** A registration that nobody can use, and why. */
export interface Misfit {
  readonly key: string;
  readonly source: RegistrationSource;
  readonly origin: string;
  /** The plugin's name where it is known. */
  readonly name?: string;
  readonly reason: string;
  readonly sinceAt: string;
}

export interface PluginSocketsOptions {
  readonly csi: Csi;
  readonly log: Logger;
  readonly deadlineMs?: number | undefined;
  readonly probeMs?: number | undefined;
  /** Called after each change; with the connection, when it is one's that still counts. */
  readonly changed: (connection: PluginConnection | undefined) => void;
}

/** A registration and the plugin it belongs to. */
interface Entry {
  readonly registration: PluginRegistration;
  /** Name that answered first. */
  identity: string | undefined;
}

/** See the module's head. */
export class PluginSockets {
  readonly #options: PluginSocketsOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #misfits = new Map<string, Misfit>();
  /** By socket path. */
  readonly #connections = new Map<string, PluginConnection>();
  readonly #closing = new Set<Promise<void>>();

  constructor(options: PluginSocketsOptions) {
    this.#options = options;
  }

  /** By socket path. */
  get connections(): ReadonlyMap<string, PluginConnection> {
    return this.#connections;
  }

  get misfits(): readonly Misfit[] {
    return [...this.#misfits.values()];
  }

  registrations(): readonly PluginRegistration[] {
    return [...this.#entries.values()].map(({ registration }) => registration);
  }

  /** Registrations that name this socket. */
  registrationsOf(path: string): readonly PluginRegistration[] {
    return this.#entriesOf(path).map(({ registration }) => registration);
  }

  /** The name of the plugin this socket is for, as far as it is known before or after it answered. */
  nameOf(connection: PluginConnection): string | undefined {
    if (connection.state === 'refused') return undefined;
    if (connection.state === 'ready') return connection.met?.name;
    for (const { registration, identity } of this.#entriesOf(connection.socketPath)) {
      const name = registration.name ?? identity;
      if (name !== undefined) return name;
    }
    return connection.met?.name;
  }

  /** Adds a registration, or replaces the one of the same key, whose other sockets go. Idempotent. */
  register(registration: PluginRegistration): void {
    const before = this.#entries.get(registration.key);
    this.#misfits.delete(registration.key);
    if (before !== undefined && JSON.stringify(before.registration) === JSON.stringify(registration)) return;
    const kept = before?.registration.name === registration.name ? before?.identity : undefined;
    this.#entries.set(registration.key, { registration, identity: kept });
    this.#tidy();
    for (const { path } of registration.sockets) this.#open(path);
    this.#options.changed(undefined);
  }

  /** Takes a registration back. Succeeds when there is none. */
  deregister(key: string): void {
    const known = this.#entries.delete(key);
    const listed = this.#misfits.delete(key);
    if (!known && !listed) return;
    this.#tidy();
    this.#options.changed(undefined);
  }

  /** Lists what was meant to be a registration, with what is wrong with it. What it registered before stays. */
  list(misfit: Omit<Misfit, 'sinceAt'>): void {
    const before = this.#misfits.get(misfit.key);
    if (before?.reason === misfit.reason) return;
    this.#misfits.set(misfit.key, { ...misfit, sinceAt: new Date().toISOString() });
    this.#options.changed(undefined);
  }

  /** Strikes from the list of what cannot be used. */
  unlist(key: string): void {
    if (this.#misfits.delete(key)) this.#options.changed(undefined);
  }

  async close(): Promise<void> {
    this.#entries.clear();
    this.#tidy();
    await Promise.all(this.#closing);
  }

  #entriesOf(path: string): Entry[] {
    return [...this.#entries.values()].filter(({ registration }) =>
      registration.sockets.some((socket) => socket.path === path),
    );
  }

  /** Opens what is not open; a socket whose role changed is met anew. */
  #open(path: string): void {
    const role = this.#roleOf(path);
    const before = this.#connections.get(path);
    if (before?.role === role && before !== undefined) return;
    if (before !== undefined) this.#drop(path, before);
    const { csi, log, deadlineMs, probeMs, changed } = this.#options;
    const connection: PluginConnection = new PluginConnection({
      csi,
      log,
      deadlineMs,
      probeMs,
      socketPath: path,
      role,
      refusal: (met) => this.#refusal(connection, met),
      changed: () => changed(this.#connections.get(path) === connection ? connection : undefined),
    });
    this.#connections.set(path, connection);
    connection.open();
  }

  /** Two registrations of one socket: the one that says what it is for counts. */
  #roleOf(path: string): PluginSocket['role'] {
    const sockets = this.#entriesOf(path).flatMap(({ registration }) => registration.sockets);
    return sockets.find((socket) => socket.path === path && socket.role !== undefined)?.role;
  }

  /** Closes what no registration names any more, and lets those who waited for its place try again. */
  #tidy(): void {
    for (const [path, connection] of this.#connections) {
      if (this.#entriesOf(path).length > 0) this.#open(path);
      else this.#drop(path, connection);
    }
  }

  #drop(path: string, connection: PluginConnection): void {
    this.#connections.delete(path);
    const closing = connection.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
    this.hurryRefused();
  }

  /** A place may have become free. */
  hurryRefused(): void {
    for (const connection of this.#connections.values()) if (connection.state === 'refused') connection.hurry();
  }

  #refusal(connection: PluginConnection, met: MetSocket): string | undefined {
    const entries = this.#entriesOf(connection.socketPath);
    const mismatches = entries.map((entry) => mismatchOf(entry, met.name));
    // One registration that fits is enough: another's mistake about the socket must not end a plugin.
    if (mismatches.every((mismatch) => mismatch !== undefined)) return mismatches[0];
    const taken = this.#holder(connection, entries, met);
    if (taken !== undefined) return taken;
    for (const [index, entry] of entries.entries()) if (mismatches[index] === undefined) entry.identity = met.name;
    return undefined;
  }

  /** What of a plugin's name is another's: the first to be ready has it, another gets it when that one is gone. */
  #holder(connection: PluginConnection, entries: readonly Entry[], met: MetSocket): string | undefined {
    for (const other of this.#connections.values()) {
      if (other === connection || other.state !== 'ready' || other.met?.name !== met.name) continue;
      const related = this.#entriesOf(other.socketPath).some((entry) => entries.includes(entry));
      const shared = [...met.parts].filter((part) => other.met?.parts.has(part));
      if (related || shared.length === 0) continue;
      return `the name ${met.name} is taken by the plugin at ${other.socketPath}, which serves ${shared.join(' and ')}, too`;
    }
    return undefined;
  }
}

/** Why a registration is not this plugin's; undefined when it is. */
function mismatchOf({ registration, identity }: Entry, name: string): string | undefined {
  const { source, origin } = registration;
  if (registration.name !== undefined && registration.name !== name) {
    return `the plugin calls itself ${name}, but was registered as ${registration.name} (${source} ${origin})`;
  }
  if (identity === undefined || identity === name) return undefined;
  const advice = 'if that is meant, take the registration back and make it anew';
  return `the plugin calls itself ${name} now, but was ${identity} before (${source} ${origin}); ${advice}`;
}
