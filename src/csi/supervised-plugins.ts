/**
 * The plugins that Berth itself runs: brought in line with the drop-in files, found again after a restart of the daemon,
 * and kept as long as a volume needs them.
 *
 * A plugin is never ended because the daemon ends: volumes of running containers may need its processes. A plugin whose
 * file is gone is ended once none of its volumes is in use.
 */
import { basename } from 'node:path';
import type { Logger } from 'pino';
import { invalid, RuntimeError } from '../errors.ts';
import type { LogOptions } from '../runtime/launcher.ts';
import { Serial } from '../serial.ts';
import type { Store } from '../store.ts';
import { type Containers, PluginContainers } from './plugin-container.ts';
import type { PluginDropIn, PluginDropIns } from './plugin-drop-ins.ts';
import type { PluginPlaces } from './plugin-places.ts';
import { PluginProcesses } from './plugin-process.ts';
import type { PluginRegistration, PluginSocket } from './plugin-registration.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import type { PluginRunner } from './plugin-run.ts';
import type { PluginSummary } from './plugin-summary.ts';
import type { PluginPlace, SupervisedSocketName, Supervision } from './plugin-supervision.ts';
import type { SharedDirectory } from './shared-mount.ts';
import { RESTART_PAUSES, type RestartPauses, SupervisedPlugin } from './supervised-plugin.ts';
import type { SupervisedRecord } from './supervised-record.ts';
import { type PluginView, viewOf } from './supervision-status.ts';

export interface SupervisedPluginsOptions {
  readonly store: Store<SupervisedRecord>;
  readonly registry: Pick<PluginRegistry, 'register' | 'deregister' | 'report' | 'unreport' | 'list' | 'onReady'>;
  readonly places: PluginPlaces;
  /** Where volumes are mounted. */
  readonly volumes: SharedDirectory;
  /** What plugins are told to call this machine. */
  readonly nodeId: string;
  readonly bootId: string;
  /** Names of volumes of a plugin that are in use. */
  readonly inUse: (plugin: string) => readonly string[];
  readonly log: Logger;
  readonly pauses?: RestartPauses;
  /** Pause between looks at logs that grow and at plugins that shall go; 1,000 unless given. */
  readonly lookMs?: number;
}

const UNSHARE_TIMEOUT_MS = 10_000;

/** See the module's head. */
export class SupervisedPlugins {
  readonly #options: SupervisedPluginsOptions;
  readonly #places: PluginPlaces;
  readonly #log: Logger;
  readonly #lanes = new Serial();
  readonly #plugins = new Map<string, SupervisedPlugin>();
  readonly #containers = Promise.withResolvers<Containers>();
  readonly #runners: Readonly<Record<Supervision['kind'], PluginRunner>>;
  /** Why plugins are kept that should go. */
  readonly #kept = new Map<string, string>();
  #wanted: ReadonlyMap<string, PluginDropIn> = new Map();
  #bad: ReadonlySet<string> = new Set();
  #misfits: ReadonlySet<string> = new Set();
  /** The directory of volumes may be a mount of its own, also by an earlier daemon. */
  #mayBeShared = true;
  #unsharing: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #forget: (() => void) | undefined;
  readonly #closing = new AbortController();

  constructor(options: SupervisedPluginsOptions) {
    this.#options = options;
    this.#places = options.places;
    this.#log = options.log.child({ component: 'csi' });
    const placeOf = (record: SupervisedRecord): PluginPlace => this.#placeOf(record);
    this.#runners = {
      process: new PluginProcesses({ placeOf, logOf: ({ name }) => this.#places.log(name) }),
      container: new PluginContainers({
        containers: this.#containers.promise,
        placeOf,
        socketDirOf: ({ name }) => this.#places.socketDir(name),
        volumes: options.volumes,
      }),
    };
  }

  /** Finds the plugins on record that still run, and keeps them running. Before {@link apply} and before sockets are dialled. */
  recover(): void {
    const { store, registry, lookMs = 1000 } = this.#options;
    for (const record of store.entries().values()) this.#keep(record);
    for (const [name, reason] of store.damaged()) {
      registry.report({ key: `supervised:${name}`, source: 'berthd', origin: name, reason: `record: ${reason}` });
    }
    this.#forget = registry.onReady(() => this.#learnNames());
    this.#timer = setInterval(() => this.#look(), lookMs).unref();
  }

  /** Containers were found again: from now on plugins may run as containers. */
  useContainers(containers: Containers): void {
    this.#containers.resolve(containers);
  }

  /** Brings the plugins in line with what all drop-in files say. What follows goes on in the background. */
  apply({ good, bad }: PluginDropIns): void {
    this.#bad = new Set(bad.map(({ file }) => file));
    const wanted = new Map<string, PluginDropIn>();
    const misfits = new Set<string>();
    for (const dropIn of good) {
      if (dropIn.supervision === undefined) continue;
      const name = basename(dropIn.file, '.toml');
      try {
        this.#places.check(name, dropIn.supervision);
        wanted.set(name, dropIn);
      } catch (error) {
        const key = `supervised:${dropIn.file}`;
        const { message: reason } = RuntimeError.from(error, 'file');
        this.#options.registry.report({ key, source: 'file', origin: dropIn.file, reason });
        misfits.add(key);
      }
    }
    for (const key of this.#misfits) if (!misfits.has(key)) this.#options.registry.unreport(key);
    this.#misfits = misfits;
    this.#wanted = wanted;
    for (const name of new Set([...wanted.keys(), ...this.#plugins.keys()])) this.#reconcile(name);
  }

  /** Stops looking after the plugins, which run on. */
  async close(): Promise<void> {
    this.#closing.abort(new RuntimeError('CANCELLED', 'berthd is shutting down'));
    clearInterval(this.#timer);
    this.#forget?.();
    await this.#lanes.drain();
    await Promise.all([...this.#plugins.values()].map((plugin) => plugin.release()));
    await this.#unshareVolumes();
  }

  /** A row of the registry with what is known here about it. */
  viewOf(summary: PluginSummary): PluginView {
    const files = summary.registrations.filter(({ source }) => source === 'berthd').map(({ origin }) => origin);
    const plugins = [...this.#plugins.values()].filter(({ record }) => files.includes(record.file));
    return viewOf(summary, plugins, this.#kept);
  }

  /** A socket of the plugin of a drop-in file, by the file's name without ".toml"; undefined when there is none. */
  socketOf(name: string): string | undefined {
    const plugin = this.#plugins.get(name);
    return plugin && this.#places.sockets(name, plugin.record.supervision)[0]?.path;
  }

  /**
   * What a plugin wrote, by the name it gives itself or that of its file without ".toml".
   * @throws {RuntimeError} NOT_FOUND when Berth runs no such plugin, INVALID_ARGUMENT when it runs in several processes
   */
  logs(ref: string, options: LogOptions, signal: AbortSignal): AsyncIterable<Uint8Array> {
    const all = [...this.#plugins.values()].map(({ record }) => record);
    const named = all.filter(({ pluginName, wantedName }) => pluginName === ref || wantedName === ref);
    const found = all.find(({ name }) => name === ref) ?? named[0];
    if (found?.name !== ref && named.length > 1) {
      const parts = named.map(({ name }) => name).sort();
      throw invalid('name', `${ref} runs in several processes, each with its own log: name one of ${parts.join(', ')}`);
    }
    if (found !== undefined) return this.#runnerOf(found).logs(found, options, signal);
    const names = all.map(({ name }) => name).sort();
    const known = names.length === 0 ? 'it starts none' : `it starts ${names.join(', ')}`;
    throw new RuntimeError('NOT_FOUND', `Berth starts no CSI plugin ${ref} (${known}); others keep their own logs`);
  }

  #reconcile(name: string): void {
    const work = this.#lanes.run(name, async () => {
      if (this.#closing.signal.aborted) return;
      const wanted = this.#wanted.get(name);
      if (wanted !== undefined) await this.#ensure(name, wanted);
      else await this.#dismiss(name);
    });
    work.catch((error: unknown) => {
      if (this.#closing.signal.aborted) return;
      const reason = RuntimeError.from(error, 'end').message;
      const record = this.#plugins.get(name)?.record;
      if (record !== undefined) this.#reportEnding(record, `it cannot be ended: ${reason}`);
      this.#log.error({ err: error, supervised: name }, 'plugin could not be brought in line with its file');
    });
  }

  /** The plugin of a file runs, and as the file says. */
  async #ensure(name: string, { file, name: wantedName, supervision }: PluginDropIn): Promise<void> {
    if (supervision === undefined) return;
    const current = this.#plugins.get(name);
    const said = { file, ...(wantedName === undefined ? {} : { wantedName }), supervision };
    if (current !== undefined && current.state !== 'stopping') {
      const { record } = current;
      const isSame =
        JSON.stringify([record.file, record.wantedName, record.supervision]) ===
        JSON.stringify([file, wantedName, supervision]);
      if (isSame) {
        this.#kept.delete(name);
        return;
      }
    }
    await current?.end(this.#closing.signal);
    // A container would stay; what a process left running may serve volumes.
    const before = current?.record;
    if (before?.supervision.kind === 'container' && supervision.kind !== 'container') {
      await this.#runnerOf(before).sweep(before, this.#closing.signal);
    }
    this.#kept.delete(name);
    const { wantedName: _, ...facts } = before ?? { restarts: 0, quickEnds: 0 };
    this.#keep({ ...facts, name, ...said });
  }

  /** The plugin of a file that is gone goes, too, when no volume needs it. */
  async #dismiss(name: string): Promise<void> {
    const { store, registry, inUse } = this.#options;
    const plugin = this.#plugins.get(name);
    if (plugin === undefined || this.#bad.has(plugin.record.file)) return;
    const { record } = plugin;
    const names = new Set([record.pluginName, record.wantedName].filter((one) => one !== undefined));
    const volumes = [...names].flatMap((one) => inUse(one));
    if (volumes.length > 0 && plugin.state !== 'stopping') {
      const shown = volumes.slice(0, 5).join(', ') + (volumes.length > 5 ? ', ...' : '');
      this.#kept.set(name, `its file is gone; it runs until these volumes are not in use: ${shown}`);
      return;
    }
    // From here on nobody can begin to use it.
    registry.deregister(keyOf(name));
    this.#reportEnding(record, 'its file is gone, it is being ended');
    await plugin.end(this.#closing.signal);
    await this.#runnerOf(record).sweep(record, this.#closing.signal);
    this.#places.remove(name);
    store.remove(name, 'process');
    this.#plugins.delete(name);
    this.#kept.delete(name);
    registry.unreport(`supervised:${name}`);
    this.#log.info({ supervised: name }, 'plugin is gone with its file');
  }

  /** Records the plugin, makes it known, and keeps it running. */
  #keep(record: SupervisedRecord): void {
    const { store, registry, bootId, pauses = RESTART_PAUSES, log } = this.#options;
    const { name } = record;
    store.write(name, record, 'process');
    registry.unreport(`supervised:${name}`);
    this.#places.make(name);
    registry.register(registrationOf(record, this.#places.sockets(name, record.supervision)));
    const plugin = new SupervisedPlugin({
      record,
      store,
      runner: this.#runnerOf(record),
      bootId,
      pauses,
      makeRoom: () => this.#places.removeSockets(name),
      log,
    });
    this.#plugins.set(name, plugin);
    plugin.start();
  }

  /** From time to time: logs that grew, plugins that may go by now, and what failed before. */
  #look(): void {
    if (this.#closing.signal.aborted) return;
    void this.#unshareVolumes();
    for (const name of new Set([...this.#wanted.keys(), ...this.#plugins.keys()])) {
      if (this.#isDue(name) && !this.#lanes.isBusy(name)) this.#reconcile(name);
    }
    for (const name of this.#plugins.keys()) {
      try {
        this.#places.log(name).rotate();
      } catch (error) {
        this.#log.warn({ err: error, supervised: name }, 'log of the plugin was not cut');
      }
    }
  }

  /** True when a plugin is not as its file says: what was to be done failed, or may be done only now. */
  #isDue(name: string): boolean {
    const plugin = this.#plugins.get(name);
    if (plugin === undefined) return true;
    return this.#wanted.has(name) ? plugin.state === 'stopping' : !this.#bad.has(plugin.record.file);
  }

  /** The directory of volumes is as it was once no container needs it otherwise. Never rejects. */
  async #unshareVolumes(): Promise<void> {
    const needed = [...this.#plugins.values()].some(({ record }) => record.supervision.kind === 'container');
    if (needed) this.#mayBeShared = true;
    if (needed || !this.#mayBeShared) return;
    this.#unsharing ??= this.#unshare().finally(() => {
      this.#unsharing = undefined;
    });
    await this.#unsharing;
  }

  async #unshare(): Promise<void> {
    try {
      this.#mayBeShared = !(await this.#options.volumes.unshare(AbortSignal.timeout(UNSHARE_TIMEOUT_MS)));
    } catch (error) {
      this.#mayBeShared = false;
      this.#log.warn({ err: error }, 'directory of volumes stays a mount of its own');
    }
  }

  /** The name a plugin gives itself tells, also after its file is gone, which volumes are its. */
  #learnNames(): void {
    for (const { name, registrations } of this.#options.registry.list()) {
      for (const { source, origin } of registrations) {
        if (name === '' || source !== 'berthd') continue;
        const plugin = [...this.#plugins.values()].find(({ record }) => record.file === origin);
        if (plugin !== undefined && plugin.record.pluginName !== name) plugin.amend({ pluginName: name });
      }
    }
  }

  /** A plugin that is no longer registered is in the list until it is gone. */
  #reportEnding({ name, file, pluginName }: SupervisedRecord, reason: string): void {
    const named = pluginName === undefined ? {} : { name: pluginName };
    this.#options.registry.report({ key: `supervised:${name}`, source: 'berthd', origin: file, ...named, reason });
  }

  #runnerOf({ supervision }: SupervisedRecord): PluginRunner {
    return this.#runners[supervision.kind];
  }

  #placeOf({ name, supervision }: SupervisedRecord): PluginPlace {
    const at = (socket: SupervisedSocketName): string => `unix://${this.#places.socketPath(name, socket)}`;
    const nodeId = supervision.nodeId ?? this.#options.nodeId;
    return { endpoint: at('csi'), controllerEndpoint: at('controller'), nodeEndpoint: at('node'), nodeId };
  }
}

function keyOf(name: string): string {
  return `berthd:${name}`;
}

function registrationOf(
  { name, file, wantedName }: SupervisedRecord,
  sockets: readonly PluginSocket[],
): PluginRegistration {
  const wanted = wantedName === undefined ? {} : { name: wantedName };
  return { key: keyOf(name), source: 'berthd', origin: file, ...wanted, sockets };
}
