/**
 * One lane per key: work for the same key runs one after another in the order it was asked for, work for different
 * keys runs side by side. The only lock in Berth (CNI 1.1.0 "Lifecycle & Ordering", CSI "Concurrency").
 */

/** Runs work in lanes; a lane lives only while it has work. */
export class Serial {
  readonly #tails = new Map<string, Promise<unknown>>();

  /**
   * Runs `work` after everything queued before it under `key` has settled. A failure reaches this caller only, the
   * lane goes on. When `signal` aborts before the turn comes, the work never starts and the signal's reason is thrown.
   */
  async run<T>(key: string, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const turn = before.then(() => {
      signal?.throwIfAborted();
      return work();
    });
    const tail = turn.catch(() => undefined);
    this.#tails.set(key, tail);
    try {
      return await turn;
    } finally {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }

  /** True while there is work in a lane, under way or waiting. */
  isBusy(key: string): boolean {
    return this.#tails.has(key);
  }

  /** Settles when all work queued so far has settled. */
  async drain(): Promise<void> {
    await Promise.all(this.#tails.values());
  }
}
