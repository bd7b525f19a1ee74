/**
 * How volumes fare, as their plugins tell from time to time (CSI ControllerGetVolume, NodeGetVolumeStats). What was told
 * last is kept in memory, for lists: nothing acts on it, a condition is for people (CSI "VolumeCondition").
 *
 * A question holds the volume's lane, since one call at a time is made for a volume, but not for long. A volume that is
 * not answered for is asked about less and less often.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import type { VolumeRecord } from './volume.ts';
import type { VolumeCondition } from './volume-condition.ts';
import type { VolumeManager } from './volume-manager.ts';
import { askCondition } from './volume-stats.ts';

/** A condition, and since when it has been told with these words. */
export interface KnownCondition extends VolumeCondition {
  readonly sinceAt: string;
}

export interface VolumeHealthOptions {
  readonly volumes: Pick<VolumeManager, 'list' | 'exclusive'>;
  readonly registry: Pick<PluginRegistry, 'onReady'>;
  readonly log: Logger;
  /** Pause between two rounds; 60,000 unless given. 0: nobody asks. */
  readonly intervalMs?: number | undefined;
  /** Longest time for one volume; 5,000 unless given. */
  readonly timeoutMs?: number | undefined;
}

/** A volume that fails is passed over in all but each 2^nth round, at most this n. */
const LONGEST_SKIP = 4;

export class VolumeHealth {
  readonly #options: VolumeHealthOptions;
  readonly #log: Logger;
  readonly #known = new Map<string, KnownCondition>();
  readonly #failures = new Map<string, number>();
  readonly #closing = new AbortController();
  #unfollow: () => void = () => undefined;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #rounds = 0;

  constructor(options: VolumeHealthOptions) {
    this.#options = options;
    this.#log = options.log.child({ component: 'volume-health' });
  }

  /** Begins to ask: now and then, and about the volumes of a plugin that becomes ready. */
  start(): void {
    const { registry, intervalMs = 60_000 } = this.#options;
    if (intervalMs === 0) return;
    this.#unfollow = registry.onReady((driver) => {
      for (const { name, driver: own } of this.#options.volumes.list()) if (own === driver) this.#failures.delete(name);
      this.#begin((record) => record.driver === driver);
    });
    this.#timer = setInterval(() => {
      this.#rounds += 1;
      this.#begin(({ name }) => this.#rounds % 2 ** Math.min(LONGEST_SKIP, this.#failures.get(name) ?? 0) === 0);
    }, intervalMs).unref();
  }

  /** What is known of a volume; undefined when its plugin has told nothing. */
  of(name: string): KnownCondition | undefined {
    return this.#known.get(name);
  }

  async close(): Promise<void> {
    this.#closing.abort(new RuntimeError('CANCELLED', 'berthd is shutting down'));
    this.#unfollow();
    clearInterval(this.#timer);
    await this.#running;
  }

  /** One round at a time: while one is under way no other begins. */
  #begin(wanted: (record: VolumeRecord) => boolean): void {
    if (this.#closing.signal.aborted) return;
    this.#running ??= this.#round(wanted).finally(() => {
      this.#running = undefined;
    });
  }

  async #round(wanted: (record: VolumeRecord) => boolean): Promise<void> {
    const records = this.#options.volumes.list();
    const names = new Set(records.map(({ name }) => name));
    for (const map of [this.#known, this.#failures])
      for (const name of map.keys()) if (!names.has(name)) map.delete(name);
    for (const record of records.filter(wanted)) {
      if (this.#closing.signal.aborted) return;
      await this.#look(record);
    }
  }

  async #look({ name }: VolumeRecord): Promise<void> {
    const { volumes, timeoutMs = 5000 } = this.#options;
    const signal = AbortSignal.any([this.#closing.signal, AbortSignal.timeout(timeoutMs)]);
    try {
      const told = await volumes.exclusive(name, (record, tools) => askCondition(record, tools, signal), signal);
      this.#failures.delete(name);
      this.#learn(name, told);
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#failures.set(name, (this.#failures.get(name) ?? 0) + 1);
      this.#log.debug({ volume: name, err: error }, 'condition of the volume is not known');
    }
  }

  #learn(name: string, told: VolumeCondition | undefined): void {
    const before = this.#known.get(name);
    if (told === undefined) {
      this.#known.delete(name);
      return;
    }
    const same = before?.abnormal === told.abnormal && before.message === told.message && before.from === told.from;
    if (same) return;
    this.#known.set(name, { ...told, sinceAt: new Date().toISOString() });
    const { abnormal, message, from } = told;
    if (abnormal) this.#log.warn({ volume: name, from, reason: message }, 'volume is in an abnormal condition');
    else if (before?.abnormal === true) this.#log.info({ volume: name, from }, 'volume is in a normal condition again');
  }
}
