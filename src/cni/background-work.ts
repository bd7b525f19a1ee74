/**
 * Work for a container that was begun ahead of the call that needs it: started in one step of a launch, awaited in a
 * later one, and ended for certain before anything is undone.
 */

interface Piece {
  readonly stop: AbortController;
  readonly done: Promise<void>;
}

/** At most one piece of work a key. */
export class BackgroundWork {
  readonly #pieces = new Map<string, Piece>();

  /** Begins work that ends early when `signal` aborts. Its failure is kept for whoever calls `finish`. */
  start(key: string, work: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): void {
    const stop = new AbortController();
    const done = work(AbortSignal.any([signal, stop.signal]));
    done.catch(() => undefined);
    this.#pieces.set(key, { stop, done });
  }

  has(key: string): boolean {
    return this.#pieces.has(key);
  }

  /** Waits for the work of a key, if there is any; ends it when `signal` aborts. @throws what the work threw */
  async finish(key: string, signal: AbortSignal): Promise<void> {
    const piece = this.#pieces.get(key);
    if (piece === undefined) return;
    const end = (): void => piece.stop.abort(signal.reason);
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) end();
    try {
      await piece.done;
    } finally {
      signal.removeEventListener('abort', end);
      this.#pieces.delete(key);
    }
  }

  /** Ends the work of a key, if there is any, and waits until it has ended. Its failure is of no interest any more. */
  async abandon(key: string): Promise<void> {
    const piece = this.#pieces.get(key);
    if (piece === undefined) return;
    piece.stop.abort();
    this.#pieces.delete(key);
    await Promise.allSettled([piece.done]);
  }
}
