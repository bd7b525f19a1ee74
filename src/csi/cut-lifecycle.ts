/**
 * Snapshots of one kind, through their states (cut.ts has the diagram). It owns their lanes and their background work;
 * how one is made and unmade at its plugin is cut-provisioning.ts, what is said there is the kind's own.
 *
 * One lane per snapshot: at most one call is in flight for it (CSI "Concurrency"). What could not be undone stays on
 * record as "deleting" and is tried again: when its plugin is back, after growing pauses, and when asked.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { Serial } from '../serial.ts';
import type { Store } from '../store.ts';
import { busyCut, type CutRecord } from './cut.ts';
import { CutJournal, failureOf } from './cut-journal.ts';
import { type CutKind, CutProvisioning, type HoldVolume, UnheardCut } from './cut-provisioning.ts';
import { isCreateUnsettled, isRefusal, isVague } from './error-reactions.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import { type PollPauses, ReadinessPoller, type Verdict } from './readiness-poller.ts';
import { VolumeBacklog } from './volume-backlog.ts';

export interface CutLifecycleOptions<R extends CutRecord> {
  readonly kind: CutKind<R>;
  readonly store: Store<R>;
  readonly registry: PluginRegistry;
  readonly hold: HoldVolume;
  readonly log: Logger;
  readonly pauses?: PollPauses | undefined;
}

/** What was asked for. */
export interface CutWords<R extends CutRecord> {
  /** Whether a record is the answer to it. */
  readonly same: (record: R) => boolean;
  /** The first record; @throws when it cannot be done. Runs when the name is free, right before the record is written. */
  readonly intend: () => R;
}

/** Longest time one attempt in the background may take. */
const ATTEMPT_TIMEOUT_MS = 300_000;
/** How many failures without a meaning, one after the other, make an end of waiting. */
const VAGUE_FAILURES = 3;

export class CutLifecycle<R extends CutRecord> {
  readonly #kind: CutKind<R>;
  readonly #store: Store<R>;
  readonly #log: Logger;
  readonly #journal: CutJournal<R>;
  readonly #provisioning: CutProvisioning<R>;
  readonly #lanes = new Serial();
  readonly #backlog: VolumeBacklog;
  readonly #poller: ReadinessPoller;
  readonly #vague = new Map<string, number>();
  readonly #closing = new AbortController();

  constructor({ kind, store, registry, hold, log, pauses }: CutLifecycleOptions<R>) {
    this.#kind = kind;
    this.#store = store;
    this.#log = log;
    this.#journal = new CutJournal(store, kind.title, log);
    this.#provisioning = new CutProvisioning({ kind, journal: this.#journal, hold, log });
    this.#backlog = new VolumeBacklog({
      log,
      settle: (name, signal) => this.#lanes.run(name, () => this.#settle(name, signal), signal),
      attemptMs: ATTEMPT_TIMEOUT_MS,
    });
    this.#backlog.follow(registry, (driver) => this.list().filter((record) => record.driver === driver));
    this.#poller = new ReadinessPoller((name) => this.#lanes.run(name, () => this.#ask(name)), pauses);
  }

  /** All records, by name. */
  list(): readonly R[] {
    return [...this.#store.entries().values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Undefined when there is none. @throws {RuntimeError} DATA_LOSS when its record does not decode */
  find(name: string): R | undefined {
    return this.#store.read(name);
  }

  /**
   * Cuts, unless that was done. What the name stood for and is not wanted any more is brought to its end before. A
   * refusal leaves nothing; a cut of which nothing was heard is deleted in the background.
   * @returns a record in state "processing" or "ready"
   */
  async cut(name: string, { same, intend }: CutWords<R>, signal: AbortSignal): Promise<R> {
    const work = async (): Promise<R> => {
      const existing = this.#store.read(name);
      if (existing !== undefined && isUsable(existing)) {
        if (same(existing)) return existing;
        const title = this.#kind.title;
        throw new RuntimeError('ALREADY_EXISTS', `${title} ${name} exists and was asked for in other words`);
      }
      if (existing !== undefined) await this.#backlog.run(name, () => this.#end(name, signal));
      return this.#make(this.#journal.begin(intend()), signal);
    };
    return this.#lanes.run(name, work, signal);
  }

  /** Takes on a snapshot that is there already. @throws {RuntimeError} ALREADY_EXISTS */
  async adopt(record: R, signal: AbortSignal): Promise<R> {
    const work = async (): Promise<R> => {
      const begun = this.#journal.begin(record);
      if (begun.state === 'processing') this.#poller.follow(begun.name);
      return begun;
    };
    return this.#lanes.run(record.name, work, signal);
  }

  /** Waits until a snapshot can be used. @throws {RuntimeError} what became of it instead, or the signal's reason */
  async untilReady(name: string, signal: AbortSignal): Promise<R> {
    await this.#poller.settled(name, signal);
    const record = this.#store.read(name);
    if (record?.state === 'ready') return record;
    if (record === undefined) throw new RuntimeError('NOT_FOUND', `${this.#kind.title} ${name} is gone`);
    this.#closing.signal.throwIfAborted();
    throw busyCut(this.#kind.title, record);
  }

  /**
   * Deletes a snapshot and forgets it; `guard` runs in its lane, right before the intent is on record. A plugin that
   * refuses leaves the snapshot as it was; after any other failure it is tried again. Succeeds when there is none.
   * @throws {RuntimeError} what the guard or the plugin says
   */
  async remove(name: string, guard: (record: R) => void, signal: AbortSignal): Promise<void> {
    const work = async (): Promise<void> => {
      const record = this.#store.read(name);
      if (record === undefined) return;
      guard(record);
      if (!this.#kind.isOwned(record)) return this.#journal.forget(record);
      const doomed = this.#journal.write(record, { ...record, failure: undefined, givenUp: undefined });
      try {
        await this.#backlog.run(name, () => this.#provisioning.unmake(doomed, signal));
      } catch (error) {
        this.#giveBack(record, error);
        throw error;
      }
    };
    await this.#lanes.run(name, work, signal);
  }

  /** Due once, before any other call: ends what a daemon that died had begun. What fails is logged and tried again. */
  async recover(signal: AbortSignal): Promise<void> {
    for (const [name, reason] of this.#store.damaged()) {
      this.#log.error({ snapshot: name, reason }, 'snapshot record does not decode: left alone');
    }
    const one = async (name: string): Promise<void> => {
      try {
        await this.#lanes.run(name, () => this.#backlog.run(name, () => this.#settle(name, signal)));
      } catch (error) {
        this.#log.warn({ snapshot: name, err: error }, 'snapshot recovery incomplete, will be tried again');
      }
    };
    await Promise.all(this.list().map(({ name }) => one(name)));
  }

  /** Ends the background's work and waits for what is under way. Snapshots stay as they are. */
  async close(): Promise<void> {
    const reason = new RuntimeError('CANCELLED', 'berthd is shutting down');
    this.#closing.abort(reason);
    await Promise.all([this.#backlog.close(), this.#poller.close(reason)]);
    await this.#lanes.drain();
  }

  async #make(record: R, signal: AbortSignal): Promise<R> {
    try {
      const cut = await this.#provisioning.make(record, signal);
      if (cut.state === 'processing') this.#poller.follow(cut.name);
      return cut;
    } catch (error) {
      if (error instanceof UnheardCut) this.#backlog.add(record.name);
      throw error;
    }
  }

  /** A plugin that said no has done nothing: the snapshot is what it was, and nothing is due. */
  #giveBack(before: R, error: unknown): void {
    const refused = isRefusal(error);
    const record = this.#store.read(before.name);
    if (!refused || record === undefined || !isUsable(before)) return;
    this.#backlog.done(before.name);
    this.#journal.turn(record, before.state);
    if (before.state === 'processing') this.#poller.follow(before.name);
  }

  /** Brings what is not wanted to its end, notes included. */
  async #end(name: string, signal: AbortSignal): Promise<void> {
    for (let left = this.#store.read(name); left !== undefined; left = this.#store.read(name)) {
      await this.#provisioning.unmake(left, signal);
    }
  }

  /** Finishes what is due. Nothing is due for a snapshot that can be used. */
  async #settle(name: string, signal: AbortSignal): Promise<void> {
    const record = this.#store.read(name);
    if (record?.state === 'cutting' || record?.state === 'deleting') await this.#provisioning.unmake(record, signal);
    if (record?.state === 'processing') this.#poller.follow(name);
  }

  /** One question whether a snapshot is ready. */
  async #ask(name: string): Promise<Verdict> {
    const { signal } = this.#closing;
    const record = this.#store.read(name);
    if (record?.state !== 'processing') return 'done';
    try {
      const told = await this.#kind.look(record, signal);
      this.#vague.delete(name);
      return this.#journal.write(record, { ...told, failure: undefined }).state === 'ready' ? 'done' : 'again';
    } catch (error) {
      if (signal.aborted) return 'done';
      return this.#unanswered(record, error, signal);
    }
  }

  /** A failure that may pass is waited out; any other ends the snapshot. */
  async #unanswered(record: R, error: unknown, signal: AbortSignal): Promise<Verdict> {
    const reason = this.#journal.fail(record, error);
    const vague = isVague(reason.code) ? (this.#vague.get(record.name) ?? 0) + 1 : 0;
    this.#vague.set(record.name, vague);
    if (isCreateUnsettled(reason.code, true) || (vague > 0 && vague < VAGUE_FAILURES)) return 'again';
    this.#vague.delete(record.name);
    await this.#giveUp(record, reason, signal);
    return 'done';
  }

  /** The plugin cannot finish it: what it made is deleted (CSI CreateSnapshot), the reason is kept. */
  async #giveUp(record: R, reason: RuntimeError, signal: AbortSignal): Promise<void> {
    this.#log.error({ snapshot: record.name, err: reason }, 'the plugin gave the snapshot up');
    const givenUp = failureOf(reason);
    if (!this.#kind.isOwned(record)) {
      this.#journal.turn(record, 'failed', { failure: givenUp });
      return;
    }
    const doomed = this.#journal.turn(record, 'deleting', { failure: givenUp, givenUp });
    try {
      await this.#backlog.run(record.name, () => this.#provisioning.unmake(doomed, signal));
    } catch (error) {
      this.#log.warn({ snapshot: record.name, err: error }, 'snapshot is not deleted, will be tried again');
    }
  }
}

function isUsable({ state }: CutRecord): boolean {
  return state === 'processing' || state === 'ready';
}
