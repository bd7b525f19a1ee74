/**
 * The plugins that Berth itself runs: brought in line with the drop-in files, found again after a restart of the daemon,
 * and kept as long as a volume needs them.
 *
 *   RUN/plugins/NAME/csi.sock    where the plugin of NAME.toml listens
 *   ROOT/plugin-logs/NAME.log    what it wrote
 *
 * A plugin is never ended because the daemon ends: volumes of running containers may need its processes. A plugin whose
 * file is gone is ended once none of its volumes is in use.
 */
import { mkdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Logger } from 'pino';
import { RuntimeError, systemCode } from '../errors.ts';
import { Serial } from '../serial.ts';
import type { Store } from '../store.ts';
import type { PluginDropIn, PluginDropIns } from './plugin-drop-ins.ts';
import { PluginLog } from './plugin-log.ts';
import { PluginProcesses } from './plugin-process.ts';
import { checkSocketPath, type PluginRegistration } from './plugin-registration.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import type { PluginRunner } from './plugin-run.ts';
import type { PluginSummary } from './plugin-summary.ts';
import type { PluginPlace, Supervision } from './plugin-supervision.ts';
import { RESTART_PAUSES, type RestartPauses, SupervisedPlugin } from './supervised-plugin.ts';
import type { PluginEnd, SupervisedRecord } from './supervised-record.ts';

export interface SupervisedPluginsOptions {
  readonly store: Store<SupervisedRecord>;
  readonly registry: Pick<PluginRegistry, 'register' | 'deregister' | 'report' | 'unreport' | 'list' | 'onReady'>;
  /** Holds a directory for each plugin. */
  readonly socketsDir: string;
  readonly logsDir: string;
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

/** How a plugin that Berth runs is. */
export interface SupervisionStatus {
  /** The drop-in file without ".toml". */
  readonly name: string;
  readonly kind: Supervision['kind'];
  readonly state: SupervisedPlugin['state'];
  readonly pid?: number;
  readonly startedAt?: string;
  /** Starts after an end nobody asked for. */
  readonly restarts: number;
  readonly lastEnd?: PluginEnd;
  readonly nextStartAt?: string;
  /** Why it is still there although its file is gone, or why it could not be ended. */
  readonly kept?: string;
}

/** A plugin as lists show it, with how Berth runs it where it does. */
export interface PluginView extends PluginSummary {
  readonly supervision?: SupervisionStatus;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** See the module's head. */
export class SupervisedPlugins {
  readonly #options: SupervisedPluginsOptions;
  readonly #log: Logger;
  readonly #lanes = new Serial();
  readonly #plugins = new Map<string, SupervisedPlugin>();
  readonly #runner: PluginRunner;
  /** Why plugins are kept that should go. */
  readonly #kept = new Map<string, string>();
  #wanted: ReadonlyMap<string, PluginDropIn> = new Map();
  #bad: ReadonlySet<string> = new Set();
  #misfits: ReadonlySet<string> = new Set();
  #timer: NodeJS.Timeout | undefined;
  #forget: (() => void) | undefined;
  readonly #closing = new AbortController();

  constructor(options: SupervisedPluginsOptions) {
    this.#options = options;
    this.#log = options.log.child({ component: 'csi' });
    this.#runner = new PluginProcesses({
      placeOf: (record) => this.#placeOf(record),
      logOf: ({ name }) => this.#logFile(name),
    });
  }

  /** Finds the plugins on record that still run, and keeps them running. Before {@link apply} and before sockets are dialled. */
  recover(): void {
    const { store, registry, socketsDir, logsDir, lookMs = 1000 } = this.#options;
    for (const dir of [socketsDir, logsDir]) mkdirSync(dir, { recursive: true, mode: 0o700 });
    for (const record of store.entries().values()) this.#keep(record);
    for (const [name, reason] of store.damaged()) {
      registry.report({ key: `supervised:${name}`, source: 'berthd', origin: name, reason: `record: ${reason}` });
    }
    this.#forget = registry.onReady(() => this.#learnNames());
    this.#timer = setInterval(() => this.#look(), lookMs).unref();
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
        this.#checkName(name);
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
  }

  /** A row of the registry with what is known here about it. */
  viewOf(summary: PluginSummary): PluginView {
    const files = summary.registrations.filter(({ source }) => source === 'berthd').map(({ origin }) => origin);
    const plugin = [...this.#plugins.values()].find(({ record }) => files.includes(record.file));
    if (plugin === undefined) return summary;
    const supervision = statusOf(plugin, this.#kept.get(plugin.record.name));
    const reason = reasonOf(summary, supervision);
    return { ...summary, ...(reason === undefined ? {} : { reason }), supervision };
  }

  /** The socket of the plugin of a drop-in file, by the file's name without ".toml"; undefined when there is none. */
  socketOf(name: string): string | undefined {
    return this.#plugins.has(name) ? this.#socketPath(name) : undefined;
  }

  /**
   * What a plugin wrote, by the name it gives itself or that of its file without ".toml".
   * @throws {RuntimeError} NOT_FOUND when Berth runs no such plugin
   */
  logOf(ref: string): PluginLog {
    const all = [...this.#plugins.values()].map(({ record }) => record);
    const found =
      all.find(({ name }) => name === ref) ??
      all.find(({ pluginName, wantedName }) => pluginName === ref || wantedName === ref);
    if (found !== undefined) return this.#logFile(found.name);
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
      this.#kept.set(name, `it cannot be ended: ${reason}`);
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
    this.#kept.delete(name);
    const { wantedName: _before, ...before } = current?.record ?? { restarts: 0, quickEnds: 0 };
    this.#keep({ ...before, name, ...said });
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
    await plugin.end(this.#closing.signal);
    await this.#runner.sweep(record);
    this.#removePlace(name);
    this.#logFile(name).remove();
    store.remove(name, 'process');
    this.#plugins.delete(name);
    this.#kept.delete(name);
    this.#log.info({ supervised: name }, 'plugin is gone with its file');
  }

  /** Records the plugin, makes it known, and keeps it running. */
  #keep(record: SupervisedRecord): void {
    const { store, registry, bootId, pauses = RESTART_PAUSES, log } = this.#options;
    const { name } = record;
    store.write(name, record, 'process');
    registry.unreport(`supervised:${name}`);
    mkdirSync(join(this.#options.socketsDir, name), { recursive: true, mode: 0o700 });
    registry.register(registrationOf(record, this.#socketPath(name)));
    const plugin = new SupervisedPlugin({
      record,
      store,
      runner: this.#runner,
      bootId,
      pauses,
      makeRoom: () => removeFile(this.#socketPath(name)),
      log,
    });
    this.#plugins.set(name, plugin);
    plugin.start();
  }

  /** From time to time: logs that grew, plugins that may go by now. */
  #look(): void {
    for (const [name, { record }] of this.#plugins) {
      if (!this.#wanted.has(name) && !this.#bad.has(record.file)) this.#reconcile(name);
      try {
        this.#logFile(name).rotate();
      } catch (error) {
        this.#log.warn({ err: error, supervised: name }, 'log of the plugin was not cut');
      }
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

  /** @throws {RuntimeError} INVALID_ARGUMENT when no socket can be named after the file */
  #checkName(name: string): void {
    if (!NAME.test(name)) {
      throw new RuntimeError(
        'INVALID_ARGUMENT',
        `file: the plugin's socket is named after it: call it 1 to 63 letters, digits, ".", "_" and "-", then .toml`,
      );
    }
    checkSocketPath('file', this.#socketPath(name));
  }

  #socketPath(name: string): string {
    return join(this.#options.socketsDir, name, 'csi.sock');
  }

  #logFile(name: string): PluginLog {
    return new PluginLog(join(this.#options.logsDir, `${name}.log`));
  }

  #placeOf({ name, supervision }: SupervisedRecord): PluginPlace {
    return { endpoint: `unix://${this.#socketPath(name)}`, nodeId: supervision.nodeId ?? this.#options.nodeId };
  }

  #removePlace(name: string): void {
    removeFile(this.#socketPath(name));
    const dir = join(this.#options.socketsDir, name);
    try {
      rmdirSync(dir);
    } catch (error) {
      // What else the plugin put there is its own.
      this.#log.debug({ err: error, dir }, 'directory of the plugin stays');
    }
  }
}

function keyOf(name: string): string {
  return `berthd:${name}`;
}

function registrationOf({ name, file, wantedName }: SupervisedRecord, path: string): PluginRegistration {
  const wanted = wantedName === undefined ? {} : { name: wantedName };
  return { key: keyOf(name), source: 'berthd', origin: file, ...wanted, sockets: [{ path }] };
}

function statusOf(plugin: SupervisedPlugin, kept: string | undefined): SupervisionStatus {
  const { name, supervision, run, restarts, lastEnd, nextStartAt } = plugin.record;
  const pid = run?.process?.pid;
  return {
    name,
    kind: supervision.kind,
    state: plugin.state,
    ...(pid === undefined ? {} : { pid }),
    ...(run === undefined ? {} : { startedAt: run.startedAt }),
    restarts,
    ...(lastEnd === undefined ? {} : { lastEnd }),
    ...(nextStartAt === undefined ? {} : { nextStartAt }),
    ...(kept === undefined ? {} : { kept }),
  };
}

/** What is worth more than that the socket does not answer: why nobody is there. */
function reasonOf({ state, reason }: PluginSummary, status: SupervisionStatus): string | undefined {
  const { kept, lastEnd, nextStartAt, restarts, name } = status;
  if (status.state === 'waiting' && lastEnd !== undefined) {
    const due = nextStartAt === undefined ? '' : `, next start at ${nextStartAt}`;
    return `${lastEnd.reason} (restarts: ${restarts}${due}); see berth csi logs ${name}`;
  }
  if (kept !== undefined) return kept;
  return state === 'ready' || lastEnd === undefined ? reason : `${reason ?? 'not ready'}; before, ${lastEnd.reason}`;
}

function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove ${path}`);
  }
}
