/**
 * Empties a volume: no container may begin to use it any more, and those that use it are stopped, as their users would
 * stop them. What a container has claimed is given back by its own teardown, so the last one takes the volume down.
 * Who cannot be stopped is tried again with growing pauses, also after a start of the daemon, for as long as the volume
 * is to be drained.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { gathered, RuntimeError } from '../errors.ts';
import type { VolumeRecord } from './volume.ts';
import type { VolumeManager } from './volume-manager.ts';
import { activeClaims } from './volume-states.ts';

/** What a container gets before it is killed, unless somebody says otherwise: as `berth stop`. */
export const STOP_TIMEOUT_MS = 10_000;

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 60_000;

export interface VolumeDrainOptions {
  readonly volumes: Pick<VolumeManager, 'list' | 'get' | 'update'>;
  /**
   * Ends a container and has it give back what it holds; one that does not run is no error.
   * @throws {RuntimeError} NOT_FOUND for one that is not there
   */
  readonly stop: (containerId: string, timeoutMs: number, signal: AbortSignal) => Promise<void>;
  readonly log: Logger;
  /** First pause between two rounds; 500 unless given. */
  readonly firstPauseMs?: number | undefined;
}

/** Told what failed in a round. */
type Told = (failures: readonly unknown[]) => void;

/** One volume that is being emptied. */
interface Emptying {
  /** What a container gets before it is killed: what was said last. */
  timeoutMs: number;
  /** Who waits for a round that has not begun yet. */
  readonly waiting: Told[];
  /** Ends the pause before the next round. */
  pause: AbortController;
  over: Promise<void>;
}

export class VolumeDrain {
  readonly #options: VolumeDrainOptions;
  readonly #log: Logger;
  readonly #emptying = new Map<string, Emptying>();
  readonly #closing = new AbortController();

  constructor(options: VolumeDrainOptions) {
    this.#options = options;
    this.#log = options.log.child({ component: 'volumes' });
  }

  /**
   * Stops who uses a volume and lets nobody begin. Returns when each container was tried once. When the caller leaves
   * earlier, the stopping goes on.
   * @throws {RuntimeError} NOT_FOUND; what kept a container from being stopped, which is tried again
   */
  async drain(name: string, timeoutMs: number, signal: AbortSignal): Promise<VolumeRecord> {
    await this.#options.volumes.update(name, 'drain', signal);
    const failures = await beforeAbort(this.#begin(name, timeoutMs), signal);
    const failure = gathered(failures, 'several containers');
    if (failure !== undefined) {
      const text = `volume ${name} is being drained, what could not be stopped is tried again: ${failure.message}`;
      throw new RuntimeError(failure.code, text, { cause: failure });
    }
    return this.#options.volumes.get(name);
  }

  /** Goes on with what a daemon before this one had begun. */
  recover(): void {
    for (const record of this.#options.volumes.list()) {
      if (usersOf(record).length > 0) void this.#begin(record.name, STOP_TIMEOUT_MS);
    }
  }

  /** Ends the stopping; volumes that are to be drained stay so. */
  async close(): Promise<void> {
    this.#closing.abort(new RuntimeError('CANCELLED', 'berthd is shutting down'));
    await Promise.all([...this.#emptying.values()].map(({ over }) => over));
  }

  /** Asks for a round, now; settles with what failed in it. One at a time for each volume. */
  #begin(name: string, timeoutMs: number): Promise<readonly unknown[]> {
    const { promise, resolve } = Promise.withResolvers<readonly unknown[]>();
    const under = this.#emptying.get(name);
    if (under !== undefined) {
      under.timeoutMs = timeoutMs;
      under.waiting.push(resolve);
      under.pause.abort();
      return promise;
    }
    const begun: Emptying = { timeoutMs, waiting: [resolve], pause: new AbortController(), over: Promise.resolve() };
    this.#emptying.set(name, begun);
    begun.over = this.#empty(name, begun);
    return promise;
  }

  /** Never rejects. */
  async #empty(name: string, emptying: Emptying): Promise<void> {
    const { signal } = this.#closing;
    let pauseMs = this.#options.firstPauseMs ?? FIRST_PAUSE_MS;
    while (!signal.aborted) {
      emptying.pause = new AbortController();
      const told = emptying.waiting.splice(0);
      const failures = await this.#round(name, emptying.timeoutMs);
      for (const tell of told) tell(failures);
      if (emptying.waiting.length > 0) continue;
      if (this.#users(name).length === 0) break;
      const joint = AbortSignal.any([signal, emptying.pause.signal]);
      // An abort only ends the pause.
      await sleep(pauseMs, undefined, { ref: false, signal: joint }).catch(() => undefined);
      pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2);
    }
    // Without a turn of the loop between the last look and this: who comes later begins anew.
    this.#emptying.delete(name);
    for (const tell of emptying.waiting) tell([]);
  }

  /** Stops all users side by side; returns what failed. */
  async #round(name: string, timeoutMs: number): Promise<readonly unknown[]> {
    const results = await Promise.all(
      this.#users(name).map(async (containerId) => {
        try {
          this.#log.info({ volume: name, containerId }, 'container is stopped: its volume is being drained');
          await this.#options.stop(containerId, timeoutMs, this.#closing.signal);
          return [];
        } catch (error) {
          // A claim without a container is the teardown's to end.
          if (RuntimeError.from(error, 'stop').code === 'NOT_FOUND') return [];
          this.#log.warn({ volume: name, containerId, err: error }, 'container is not stopped, will be tried again');
          return [error];
        }
      }),
    );
    return results.flat();
  }

  /** None when the volume has gone or is no longer to be drained. */
  #users(name: string): readonly string[] {
    const record = this.#options.volumes.list().find((one) => one.name === name);
    return record === undefined ? [] : usersOf(record);
  }
}

function usersOf(record: VolumeRecord): readonly string[] {
  return record.availability === 'drain' ? activeClaims(record).map(({ containerId }) => containerId) : [];
}

/** @throws the signal's reason when it aborts first */
async function beforeAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const stop = (): void => reject(RuntimeError.from(signal.reason, 'volume is being drained', 'CANCELLED'));
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
