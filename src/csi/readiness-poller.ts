/** Asks about snapshots until each is ready, with growing pauses, one loop a snapshot. */
import { setTimeout as sleep } from 'node:timers/promises';

/** What one question has shown. */
export type Verdict = 'done' | 'again';

/** Pauses between two questions; they double. */
export interface PollPauses {
  readonly firstMs: number;
  readonly longestMs: number;
}

const PAUSES: PollPauses = { firstMs: 100, longestMs: 10_000 };

export class ReadinessPoller {
  readonly #ask: (name: string) => Promise<Verdict>;
  readonly #pauses: PollPauses;
  readonly #loops = new Map<string, Promise<void>>();
  readonly #closing = new AbortController();

  /** `ask` never fails: a question without an answer is asked again. */
  constructor(ask: (name: string) => Promise<Verdict>, pauses: PollPauses = PAUSES) {
    this.#ask = ask;
    this.#pauses = pauses;
  }

  /** Begins to ask about a snapshot. Idempotent. */
  follow(name: string): void {
    if (this.#loops.has(name) || this.#closing.signal.aborted) return;
    const loop = this.#loop(name).finally(() => this.#loops.delete(name));
    this.#loops.set(name, loop);
  }

  /** Settles when nothing is asked about a snapshot any more. @throws the signal's reason when it aborts before */
  async settled(name: string, signal: AbortSignal): Promise<void> {
    const { promise, reject } = Promise.withResolvers<never>();
    const stop = (): void => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    try {
      signal.throwIfAborted();
      await Promise.race([this.#loops.get(name), promise]);
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  /** Ends all loops and waits for questions under way. */
  async close(reason: Error): Promise<void> {
    this.#closing.abort(reason);
    await Promise.all(this.#loops.values());
  }

  async #loop(name: string): Promise<void> {
    const { firstMs, longestMs } = this.#pauses;
    for (let pauseMs = firstMs; await this.#slept(pauseMs); pauseMs = Math.min(longestMs, pauseMs * 2)) {
      if ((await this.#ask(name)) === 'done') return;
    }
  }

  /** False when it is time to close. */
  async #slept(ms: number): Promise<boolean> {
    const { signal } = this.#closing;
    try {
      await sleep(ms, undefined, { signal, ref: false });
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      throw error;
    }
  }
}
