/** Writes what becomes of volumes: every state before the call it is about, every failure with its reason. */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { Durability, Store } from '../store.ts';
import type { VolumeRecord } from './volume.ts';

export class VolumeJournal {
  readonly #store: Store<VolumeRecord>;
  readonly #log: Logger;
  /** When each volume came to its state, by this process's clock. */
  readonly #since = new Map<string, number>();

  constructor(store: Store<VolumeRecord>, log: Logger) {
    this.#store = store;
    this.#log = log;
  }

  /** A first record. @throws {RuntimeError} ALREADY_EXISTS */
  begin(record: VolumeRecord): VolumeRecord {
    this.#store.create(record.name, record);
    this.#since.set(record.name, performance.now());
    this.#log.info({ volume: record.name, plugin: record.driver, to: record.state }, 'volume state changed');
    return record;
  }

  /** The record as it was last written. */
  current(record: VolumeRecord): VolumeRecord {
    return this.#store.read(record.name) ?? record;
  }

  /** False for a record that is forgotten. */
  knows({ name }: VolumeRecord): boolean {
    return this.#store.read(name) !== undefined;
  }

  /**
   * Durable when it returns; a change of state is logged. "process" is enough for what a power failure makes void, and for
   * what comes back as the state before: mounts, the outcome of a call that may be sent again. What is due before a call
   * is "power", and takes all earlier writes with it.
   */
  write(record: VolumeRecord, changes: Partial<VolumeRecord>, durability: Durability = 'power'): VolumeRecord {
    const next = { ...record, ...changes };
    this.#store.write(record.name, next, durability);
    if (next.state !== record.state) this.#changed(record, next.state);
    return next;
  }

  /** Remembers why a step ("NodeStageVolume") failed, and how often in a row; returns the reason. */
  fail(record: VolumeRecord, error: unknown, step: string, changes: Partial<VolumeRecord> = {}): RuntimeError {
    const failure = RuntimeError.from(error, `volume ${record.name}`);
    const { code, message } = failure;
    const before = record.failure?.step === step ? (record.failure.attempts ?? 1) : 0;
    const failedAt = new Date().toISOString();
    this.write(record, { ...changes, failure: { code, message, failedAt, step, attempts: before + 1 } });
    return failure;
  }

  /** Runs a step and remembers its failure. */
  async noting<T>(record: VolumeRecord, step: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.fail(record, error, step);
    }
  }

  /** The record goes. */
  forget(record: VolumeRecord): void {
    this.#store.remove(record.name);
    this.#changed(record, 'gone');
    this.#since.delete(record.name);
  }

  /** `durationMs` is the time spent in the state that was left. */
  #changed({ name, driver, state }: VolumeRecord, to: string): void {
    const nowMs = performance.now();
    const sinceMs = this.#since.get(name);
    this.#since.set(name, nowMs);
    const took = sinceMs === undefined ? {} : { durationMs: Math.round(nowMs - sinceMs) };
    this.#log.info({ volume: name, plugin: driver, from: state, to, ...took }, 'volume state changed');
  }
}
