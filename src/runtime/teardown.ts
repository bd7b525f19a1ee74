/**
 * The one way down. A launch that failed, a container that exited, a stop, a removal and the recovery after a crash all
 * come here:
 *
 *   destroyedAt recorded -> launcher.terminate (no process left)
 *     -> launcher.destroy and every isolator's cleanup, side by side, each attempted, failures gathered
 *     -> releasedAt recorded; for a container that is to go: isolators' remove, log, record
 *
 * What fails stays on record and is tried again with growing pauses until it succeeds; other containers never wait for
 * it. Callers hold the container's lane. Nothing here runs on a caller's signal.
 */
import type { Logger } from 'pino';
import { gathered, RuntimeError } from '../errors.ts';
import type { Serial } from '../serial.ts';
import { type CleanupFailure, type ContainerId, type ContainerRecord, stateOf } from './container.ts';
import type { ContainerTable } from './container-table.ts';
import type { ExitBoard } from './exit-board.ts';
import type { Isolator } from './isolator.ts';
import type { Launcher } from './launcher.ts';

/** Longest time one attempt may take; a retry follows. */
const ATTEMPT_TIMEOUT_MS = 60_000;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;

export interface TeardownOptions {
  readonly launcher: Launcher;
  readonly isolators: readonly Isolator[];
  readonly table: ContainerTable;
  readonly lanes: Serial;
  readonly board: ExitBoard;
  readonly log: Logger;
}

/** A step of teardown with the name it is known by. */
interface NamedStep {
  readonly step: string;
  readonly run: (signal: AbortSignal) => Promise<void>;
}

export class Teardown {
  readonly #options: TeardownOptions;
  readonly #retries = new Map<ContainerId, { attempt: number; timer: NodeJS.Timeout }>();
  #closed = false;

  constructor(options: TeardownOptions) {
    this.#options = options;
  }

  /**
   * Releases everything a run holds and, if the container is to go, the container. Idempotent.
   * Returns false when something is left: it is on record and will be tried again.
   */
  async release(id: ContainerId): Promise<boolean> {
    const { table, log } = this.#options;
    const record = table.find(id);
    const startedAtMs = performance.now();
    if (record?.run !== undefined && record.run.releasedAt === undefined) {
      if (record.run.destroyedAt === undefined) table.amendRun(id, { destroyedAt: now() });
      const failures = await this.#releaseRun(id, goesWithRun(record));
      if (failures.length > 0) return this.#keep(id, failures);
      this.#released(id);
      const durationMs = Math.round(performance.now() - startedAtMs);
      log.info({ containerId: id, from: 'stopping', to: 'exited', durationMs }, 'container state changed');
      return this.#removeIfDue(id, goesWithRun(record));
    }
    return this.#removeIfDue(id, false);
  }

  #released(id: ContainerId): void {
    const { table } = this.#options;
    const record = table.get(id);
    if (record.run === undefined) throw new RuntimeError('INTERNAL', `container ${id} has no run`);
    const released = { ...record, run: { ...record.run, releasedAt: now() }, cleanupFailures: [] };
    // The exit code goes to the disk with it, unless the record is about to go.
    table.write(released, isToGo(released) ? 'process' : 'power');
  }

  /** Releases what is held for an id that has no record; retried like any other. */
  async releaseOrphan(id: ContainerId): Promise<boolean> {
    const failures = await this.#releaseRun(id, true);
    if (failures.length === 0) {
      this.#settle(id);
      return true;
    }
    return this.#keep(id, failures);
  }

  /** Stops retrying; what is left is found again at the next start. */
  close(): void {
    this.#closed = true;
    for (const { timer } of this.#retries.values()) clearTimeout(timer);
    this.#retries.clear();
  }

  /** With `entirely` each part also gives back what outlives a run, as soon as its own cleanup is done. */
  async #releaseRun(id: ContainerId, entirely: boolean): Promise<CleanupFailure[]> {
    const { launcher, isolators } = this.#options;
    const ended = await attempt([{ step: 'launcher', run: (signal) => launcher.terminate(id, signal) }]);
    // A process that lives still uses its addresses and mounts: nothing may be taken from under it.
    if (ended.length > 0) return ended;
    const cleanups = isolators.toReversed().map((isolator) => ({
      step: isolator.name,
      run: async (signal: AbortSignal) => {
        await isolator.cleanup(id, signal);
        if (entirely) await isolator.remove?.(id, signal);
      },
    }));
    const destroy = async (signal: AbortSignal): Promise<void> => {
      await launcher.destroy(id, signal);
      if (entirely) await launcher.remove(id);
    };
    return attempt([...cleanups, { step: 'launcher', run: destroy }]);
  }

  #removalSteps(id: ContainerId): NamedStep[] {
    const { launcher, isolators } = this.#options;
    const removals = isolators.toReversed().flatMap((isolator) => {
      const remove = isolator.remove?.bind(isolator);
      return remove === undefined ? [] : [{ step: isolator.name, run: (signal: AbortSignal) => remove(id, signal) }];
    });
    return [...removals, { step: 'launcher', run: () => launcher.remove(id) }];
  }

  /** `released`: what outlives a run was given back with the run. */
  async #removeIfDue(id: ContainerId, released: boolean): Promise<boolean> {
    const { table, board, log } = this.#options;
    const record = table.find(id);
    if (record === undefined || !isToGo(record)) {
      this.#settle(id);
      return true;
    }
    if (record.removedAt === undefined) table.write({ ...record, removedAt: now() });
    const failures = released ? [] : await attempt(this.#removalSteps(id));
    if (failures.length > 0) return this.#keep(id, failures);
    table.remove(id);
    this.#settle(id);
    board.removed(id);
    log.info({ containerId: id, name: record.spec.name, to: 'gone' }, 'container state changed');
    return true;
  }

  /** Keeps the failures on record and plans the next attempt. */
  #keep(id: ContainerId, failures: readonly CleanupFailure[]): false {
    const { table, log } = this.#options;
    const record = table.find(id);
    if (record !== undefined) table.write({ ...record, cleanupFailures: failures });
    const attemptNumber = (this.#retries.get(id)?.attempt ?? 0) + 1;
    const pauseMs = pause(attemptNumber);
    log.warn({ containerId: id, failures, attempt: attemptNumber, pauseMs }, 'cleanup incomplete, will be tried again');
    if (!this.#closed) this.#plan(id, attemptNumber, pauseMs);
    return false;
  }

  #plan(id: ContainerId, attemptNumber: number, pauseMs: number): void {
    clearTimeout(this.#retries.get(id)?.timer);
    const timer = setTimeout(() => {
      this.#retry(id).catch((error: unknown) => {
        this.#options.log.error({ containerId: id, err: error }, 'cleanup retry failed');
      });
    }, pauseMs);
    timer.unref();
    this.#retries.set(id, { attempt: attemptNumber, timer });
  }

  async #retry(id: ContainerId): Promise<void> {
    await this.#options.lanes.run(id, async () => {
      if (this.#closed) return;
      const record = this.#options.table.find(id);
      if (record === undefined) await this.releaseOrphan(id);
      else await this.release(id);
    });
  }

  #settle(id: ContainerId): void {
    clearTimeout(this.#retries.get(id)?.timer);
    this.#retries.delete(id);
  }
}

/** What a caller is told when something is left. */
export function incomplete(record: ContainerRecord): RuntimeError {
  const reasons = record.cleanupFailures.map(
    (failure) => new RuntimeError('UNAVAILABLE', `${failure.step}: ${failure.message}`),
  );
  const what = `container ${record.spec.name}: cleanup incomplete, it is tried again in the background`;
  return new RuntimeError('UNAVAILABLE', `${what}: ${gathered(reasons, 'several steps failed')?.message ?? 'unknown'}`);
}

function isToGo(record: ContainerRecord): boolean {
  if (record.removedAt !== undefined || record.provisional) return true;
  return record.spec.autoRemove && stateOf(record) === 'exited';
}

/** The container is to go once this run is released. */
function goesWithRun(record: ContainerRecord): boolean {
  return record.removedAt !== undefined || record.provisional || record.spec.autoRemove;
}

/** Runs every step, side by side, each with a fresh deadline; returns what failed. */
async function attempt(steps: readonly NamedStep[]): Promise<CleanupFailure[]> {
  const signal = AbortSignal.timeout(ATTEMPT_TIMEOUT_MS);
  const results = await Promise.all(
    steps.map(async ({ step, run }) => {
      try {
        await run(signal);
        return [];
      } catch (error) {
        return [{ step, message: RuntimeError.from(error, 'cleanup failed').message, failedAt: now() }];
      }
    }),
  );
  return results.flat();
}

function pause(attemptNumber: number): number {
  const ceilingMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attemptNumber - 1));
  return Math.round(ceilingMs * (0.5 + Math.random() / 2));
}

function now(): string {
  return new Date().toISOString();
}
