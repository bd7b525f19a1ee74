/**
 * DELs of running containers that failed, tried again with growing pauses until they succeed. A container that has exited
 * meanwhile is the engine's business: its teardown tries the same DEL.
 */
import type { Logger } from 'pino';
import { type Code, RuntimeError } from '../errors.ts';
import type { ContainerId } from '../runtime/container.ts';

export interface SettleLaterOptions {
  /** Runs what is due for a container. */
  readonly settle: (id: ContainerId, signal: AbortSignal) => Promise<void>;
  readonly log: Logger;
  /** 1,000 unless given; it doubles up to a minute. */
  readonly firstPauseMs?: number;
}

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;
/** The container does not run any more. */
const OVER: ReadonlySet<Code> = new Set<Code>(['FAILED_PRECONDITION', 'NOT_FOUND', 'ABORTED']);

/** See the module's head. */
export class SettleLater {
  readonly #options: SettleLaterOptions;
  readonly #timers = new Map<ContainerId, NodeJS.Timeout>();
  readonly #running = new Set<Promise<void>>();
  readonly #closing = new AbortController();

  constructor(options: SettleLaterOptions) {
    this.#options = options;
  }

  /** Plans the next attempt for a container, unless one is planned. */
  plan(id: ContainerId, attempt = 1): void {
    if (this.#closing.signal.aborted || this.#timers.has(id)) return;
    const pauseMs = Math.min(LONGEST_PAUSE_MS, (this.#options.firstPauseMs ?? FIRST_PAUSE_MS) * 2 ** (attempt - 1));
    const timer = setTimeout(() => {
      this.#timers.delete(id);
      const work = this.#attempt(id, attempt).finally(() => this.#running.delete(work));
      this.#running.add(work);
    }, pauseMs);
    timer.unref();
    this.#timers.set(id, timer);
  }

  /** Ends all attempts; what is left is found again at the next start. */
  async close(): Promise<void> {
    this.#closing.abort(new RuntimeError('UNAVAILABLE', 'berthd is shutting down'));
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    await Promise.all(this.#running);
  }

  async #attempt(id: ContainerId, attempt: number): Promise<void> {
    const { settle, log } = this.#options;
    try {
      await settle(id, this.#closing.signal);
      log.info({ containerId: id, attempt }, 'networks settled');
    } catch (error) {
      const failure = RuntimeError.from(error, `networks of container ${id}`);
      if (OVER.has(failure.code) || this.#closing.signal.aborted) return;
      log.warn({ containerId: id, err: failure, attempt }, 'DEL failed again, will be tried again');
      this.plan(id, attempt + 1);
    }
  }
}
