/** Writes what becomes of snapshots: every state before the call it is about, every failure with its reason. */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { Store } from '../store.ts';
import type { CutFailure, CutRecord, CutState } from './cut.ts';

export class CutJournal<R extends CutRecord> {
  readonly #store: Store<R>;
  /** "snapshot", "group snapshot". */
  readonly #title: string;
  readonly #log: Logger;

  constructor(store: Store<R>, title: string, log: Logger) {
    this.#store = store;
    this.#title = title;
    this.#log = log;
  }

  /** A first record. @throws {RuntimeError} ALREADY_EXISTS */
  begin(record: R): R {
    this.#store.create(record.name, record);
    this.#changed(record, undefined, record.state);
    return record;
  }

  /** Durable when it returns; a change of state is logged. */
  write(record: R, changes: Partial<R>): R {
    const next = { ...record, ...changes };
    this.#store.write(record.name, next);
    if (next.state !== record.state) this.#changed(record, record.state, next.state);
    return next;
  }

  /** Into another state, with what is learned on the way. */
  turn(record: R, state: CutState, learned: Partial<R> | Pick<CutRecord, 'failure' | 'givenUp'> = {}): R {
    const next = { ...record, ...learned, state };
    this.#store.write(record.name, next);
    if (state !== record.state) this.#changed(record, record.state, state);
    return next;
  }

  /** Remembers why a step failed and returns the reason. */
  fail(record: R, error: unknown): RuntimeError {
    const reason = RuntimeError.from(error, `${this.#title} ${record.name}`);
    this.#store.write(record.name, { ...record, failure: failureOf(reason) });
    return reason;
  }

  /** The record goes. */
  forget(record: R): void {
    this.#store.remove(record.name);
    this.#changed(record, record.state, 'gone');
  }

  #changed({ name, driver }: R, from: string | undefined, to: string): void {
    this.#log.info({ snapshot: name, kind: this.#title, plugin: driver, from, to }, 'snapshot state changed');
  }
}

/** A failure as records keep it. */
export function failureOf({ code, message }: RuntimeError): CutFailure {
  return { code, message, failedAt: new Date().toISOString() };
}
