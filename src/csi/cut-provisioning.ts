/**
 * How a snapshot comes to be and ends at its plugin (Create…, Delete…). Callers hold the snapshot's lane; the lanes of
 * its volumes are held here, for the cut only, and always taken in the order of their names.
 *
 * A cut has no opposite until it has told an id. So its outcome is found by repeating it with the same name, and a
 * snapshot nobody was told of is found that way before it is deleted.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { CutRecord } from './cut.ts';
import { type CutJournal, failureOf } from './cut-journal.ts';
import { isOpen, isVague } from './error-reactions.ts';

/** How one kind of snapshot is spoken about with plugins. */
export interface CutKind<R extends CutRecord> {
  /** "snapshot", "group snapshot". */
  readonly title: string;
  /** Berth's names of the volumes that must stand still for the cut. */
  volumes(record: R): readonly string[];
  /** Whether the plugin's id is on record. */
  isIdentified(record: R): boolean;
  /** Whether it ends at the plugin too when its record ends. */
  isOwned(record: R): boolean;
  /**
   * Create…: the same words each time. Returns what the plugin tells, "processing" or "ready" included.
   * @throws {RuntimeError} what the plugin says
   */
  cut(record: R, signal: AbortSignal): Promise<Partial<R>>;
  /** Asks how a snapshot of state "processing" is doing. */
  look(record: R, signal: AbortSignal): Promise<Partial<R>>;
  /** Delete…: what is absent is as good as deleted. */
  delete(record: R, signal: AbortSignal): Promise<void>;
}

/** Holds a volume's lane while work runs. */
export type HoldVolume = <T>(name: string, work: () => Promise<T>, signal: AbortSignal) => Promise<T>;

export interface CutProvisioningOptions<R extends CutRecord> {
  readonly kind: CutKind<R>;
  readonly journal: CutJournal<R>;
  readonly hold: HoldVolume;
  readonly log: Logger;
}

/** How often a cut whose failure tells nothing is asked about. */
const ATTEMPTS = 3;

/** A cut of which nothing was heard: it is on record as "deleting", and deleting it is due. */
export class UnheardCut extends RuntimeError {}

export class CutProvisioning<R extends CutRecord> {
  readonly #kind: CutKind<R>;
  readonly #journal: CutJournal<R>;
  readonly #hold: HoldVolume;
  readonly #log: Logger;

  constructor(options: CutProvisioningOptions<R>) {
    this.#kind = options.kind;
    this.#journal = options.journal;
    this.#hold = options.hold;
    this.#log = options.log;
  }

  /**
   * The first cut of a record of state "cutting" that was just written. A refusal removes the record.
   * @throws {UnheardCut} when the outcome is unknown
   * @throws {RuntimeError} what the plugin says
   */
  async make(record: R, signal: AbortSignal): Promise<R> {
    const sent = { yet: false };
    const ask = (): Promise<Partial<R>> => {
      sent.yet = true;
      return this.#kind.cut(record, signal);
    };
    try {
      const told = await this.#standing(record, () => this.#persist(record, ask, signal), signal);
      return this.#journal.write(record, { ...told, failure: undefined });
    } catch (error) {
      const reason = RuntimeError.from(error, `${this.#kind.title} ${record.name}`);
      if (!sent.yet || !isOpen(error, !signal.aborted)) {
        this.#journal.forget(record);
        throw reason;
      }
      // It may be cut yet, but later than its caller believes: nobody must take it for what was asked.
      this.#journal.turn(record, 'deleting', { failure: failureOf(reason) });
      const text = `${reason.message}; what the plugin may still cut will be deleted`;
      throw new UnheardCut(reason.code, text, { cause: reason });
    }
  }

  /**
   * Brings to its end what is not wanted, from any state: finds it, deletes it, forgets it.
   * @throws {RuntimeError} what the plugin says; the record stays "deleting"
   */
  async unmake(start: R, signal: AbortSignal): Promise<void> {
    if (start.state === 'failed') return this.#journal.forget(start);
    let doomed = start.state === 'deleting' ? start : this.#journal.turn(start, 'deleting');
    try {
      const told = this.#kind.isIdentified(doomed) ? {} : await this.#find(doomed, signal);
      if (told !== undefined) {
        doomed = this.#journal.turn(doomed, 'deleting', told);
        await this.#kind.delete(doomed, signal);
      }
    } catch (error) {
      throw this.#journal.fail(doomed, error);
    }
    if (doomed.givenUp === undefined) return this.#journal.forget(doomed);
    this.#journal.turn(doomed, 'failed', { failure: doomed.givenUp });
  }

  /** A cut whose id nobody heard is asked for by its name once more. Undefined: there is none. */
  async #find(doomed: R, signal: AbortSignal): Promise<Partial<R> | undefined> {
    const ask = (): Promise<Partial<R>> => this.#kind.cut(doomed, signal);
    try {
      return await this.#standing(doomed, () => this.#persist(doomed, ask, signal), signal);
    } catch (error) {
      if (isOpen(error, !signal.aborted)) throw error;
      return undefined;
    }
  }

  /** Asks again, with the same words, while the answer tells nothing and there is time. */
  async #persist<T>(record: R, ask: () => Promise<T>, signal: AbortSignal): Promise<T> {
    for (let failures = 1; ; failures += 1) {
      try {
        return await ask();
      } catch (error) {
        const { code } = RuntimeError.from(error, 'cut');
        const silent = code === 'DEADLINE_EXCEEDED' || isVague(code);
        if (signal.aborted || !silent || failures >= ATTEMPTS) throw error;
        this.#log.warn({ snapshot: record.name, err: error, failures }, 'the cut has no outcome, asking again');
      }
    }
  }

  /** Work in the lanes of the volumes. */
  #standing<T>(record: R, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const names = [...this.#kind.volumes(record)].sort();
    return names.reduceRight((inner, name) => () => this.#hold(name, inner, signal), work)();
  }
}
