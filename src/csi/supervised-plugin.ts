/**
 * Keeps one plugin running: finds the run of an earlier daemon or starts one, waits for its end, starts it again after a
 * pause that grows as long as it keeps ending soon. What it is about to do is on record before it does it.
 *
 *   found or started --> runs --ends--> waits --pause--> started ...
 *
 * `release` lets go of it and leaves it running; `end` ends it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { Store } from '../store.ts';
import type { PluginRun, PluginRunner } from './plugin-run.ts';
import type { PluginEnd, SupervisedRecord } from './supervised-record.ts';

export interface RestartPauses {
  /** Before the first restart; doubles with each end that comes soon. */
  readonly firstMs: number;
  readonly longestMs: number;
  /** A run at least this long, and longer than the pause before it, makes the next pause the first one again. */
  readonly stableMs: number;
}

export const RESTART_PAUSES: RestartPauses = { firstMs: 100, longestMs: 300_000, stableMs: 10_000 };

export interface SupervisedPluginOptions {
  readonly record: SupervisedRecord;
  readonly store: Store<SupervisedRecord>;
  readonly runner: PluginRunner;
  readonly bootId: string;
  readonly pauses: RestartPauses;
  /** Takes a dead socket away. */
  readonly makeRoom: (record: SupervisedRecord) => void;
  readonly log: Logger;
}

/** See the module's head. */
export class SupervisedPlugin {
  readonly #options: SupervisedPluginOptions;
  readonly #log: Logger;
  readonly #letGo = new AbortController();
  #record: SupervisedRecord;
  #run: PluginRun | undefined;
  #work: Promise<void> | undefined;
  #stopping = false;

  constructor(options: SupervisedPluginOptions) {
    this.#options = options;
    this.#record = options.record;
    this.#log = options.log.child({ component: 'csi', supervised: options.record.name });
  }

  get record(): SupervisedRecord {
    return this.#record;
  }

  /** "stopping" until {@link end} is through. */
  get state(): 'running' | 'starting' | 'waiting' | 'stopping' {
    if (this.#stopping) return 'stopping';
    if (this.#run !== undefined) return 'running';
    return this.#record.run === undefined ? 'waiting' : 'starting';
  }

  /** Keeps it running until {@link release} or {@link end}. Does nothing the second time. */
  start(): void {
    this.#work ??= this.#keepRunning().catch((error: unknown) => {
      this.#log.error({ err: error }, 'plugin is no longer kept running');
    });
  }

  /** Changes the record. */
  amend(change: Partial<SupervisedRecord>): void {
    this.#write({ ...this.#record, ...change });
  }

  /** Lets go; the plugin runs on, and its record tells the next daemon of it. */
  async release(): Promise<void> {
    this.#letGo.abort();
    await this.#work;
  }

  /**
   * Ends the plugin. May be repeated when it failed.
   * @throws {RuntimeError} DEADLINE_EXCEEDED when it does not die
   * @throws the signal's reason when that aborts before
   */
  async end(signal: AbortSignal): Promise<void> {
    this.#stopping = true;
    await this.release();
    const run = this.#run ?? (await this.#find(signal));
    await run?.stop(this.#record.supervision.graceSeconds * 1000, signal);
    this.#run = undefined;
    const { run: _over, nextStartAt: _next, ...rest } = this.#record;
    this.#write(rest);
    this.#options.makeRoom(this.#record);
    this.#log.info('plugin was ended');
  }

  /** Never gives up: what fails beside the plugin itself is tried again. */
  async #keepRunning(): Promise<void> {
    const { signal } = this.#letGo;
    let isLookedFor = false;
    for (let failures = 0; !signal.aborted; ) {
      try {
        if (!isLookedFor) this.#run = await this.#adopt();
        isLookedFor = true;
        if (this.#run === undefined && (await this.#pause())) await this.#begin();
        const end = await this.#run?.ended(signal);
        failures = 0;
        if (end === undefined) continue;
        this.#run = undefined;
        this.#ended(end);
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        const pauseMs = ceilingMs(this.#options.pauses, failures);
        this.#log.warn({ err: error, pauseMs }, 'plugin cannot be followed, will be tried again');
        await this.#sleep(pauseMs);
      }
    }
  }

  /** What an earlier daemon left. */
  async #adopt(): Promise<PluginRun | undefined> {
    const before = this.#record.run;
    if (before === undefined) return undefined;
    const found = await this.#find(this.#letGo.signal);
    if (found === undefined) {
      const { run: _over, ...rest } = this.#record;
      this.#write(rest);
      this.#log.warn('plugin ended while no berthd ran, it is started');
      return undefined;
    }
    this.#write({ ...this.#record, run: { ...before, process: found.process } });
    this.#log.info({ pid: found.process.pid }, 'plugin found running');
    return found;
  }

  /** May wait for the containers to be found again, which takes as long as there are many of them. */
  async #find(signal: AbortSignal): Promise<PluginRun | undefined> {
    const { run } = this.#record;
    if (run === undefined || run.bootId !== this.#options.bootId) return undefined;
    return this.#options.runner.find(this.#record, run, signal);
  }

  async #begin(): Promise<void> {
    const { runner, bootId, makeRoom } = this.#options;
    const { nextStartAt: _due, ...rest } = this.#record;
    const run = { bootId, startedAt: new Date().toISOString() };
    let started: PluginRun;
    try {
      makeRoom(this.#record);
      this.#write({ ...rest, run });
      started = await runner.start(this.#record, this.#letGo.signal);
    } catch (error) {
      if (this.#letGo.signal.aborted) return;
      this.#ended({ reason: RuntimeError.from(error, 'start').message });
      return;
    }
    // From here on it runs, whatever becomes of the record.
    this.#run = started;
    this.#write({ ...this.#record, run: { ...run, process: started.process } });
    this.#log.info({ pid: started.process.pid, restarts: this.#record.restarts }, 'plugin started');
  }

  #ended(end: Omit<PluginEnd, 'at'>): void {
    const { pauses } = this.#options;
    const { run, restarts, ...rest } = this.#record;
    const ranMs = run === undefined ? 0 : Date.now() - Date.parse(run.startedAt);
    const before = rest.quickEnds === 0 ? 0 : ceilingMs(pauses, rest.quickEnds);
    const quickEnds = ranMs >= Math.max(pauses.stableMs, before) ? 1 : rest.quickEnds + 1;
    const pauseMs = Math.round(ceilingMs(pauses, quickEnds) * (0.5 + Math.random() / 2));
    const at = new Date();
    const nextStartAt = new Date(at.getTime() + pauseMs).toISOString();
    this.#write({
      ...rest,
      quickEnds,
      restarts: restarts + 1,
      lastEnd: { ...end, at: at.toISOString() },
      nextStartAt,
    });
    this.#log.error({ ...end, ranMs, pauseMs }, 'plugin ended by itself, it is started again');
  }

  /** Waits until the next start is due. False when there will be none. */
  async #pause(): Promise<boolean> {
    const { nextStartAt } = this.#record;
    const { longestMs } = this.#options.pauses;
    // A clock that was set back must not make it wait for years.
    const ms = nextStartAt === undefined ? 0 : Math.min(longestMs, Date.parse(nextStartAt) - Date.now());
    if (ms > 0) await this.#sleep(ms);
    return !this.#letGo.signal.aborted;
  }

  /** Shorter when it is let go of. */
  async #sleep(ms: number): Promise<void> {
    const { signal } = this.#letGo;
    await sleep(ms, undefined, { signal, ref: false }).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  }

  /** Facts about processes: a power failure ends them as well. */
  #write(record: SupervisedRecord): void {
    this.#record = record;
    this.#options.store.write(record.name, record, 'process');
  }
}

function ceilingMs({ firstMs, longestMs }: RestartPauses, quickEnds: number): number {
  return Math.min(longestMs, firstMs * 2 ** Math.min(30, quickEnds - 1));
}
