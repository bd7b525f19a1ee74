/** Waiting for something to be so, looked at again after each change. */
export class ChangeSignal {
  readonly #waiters = new Set<() => void>();

  /** Something changed: all who wait look again. */
  notify(): void {
    for (const waiter of [...this.#waiters]) waiter();
  }

  /** The first value that is not undefined; undefined when the signal aborts before. */
  async until<T>(look: () => T | undefined, signal: AbortSignal): Promise<T | undefined> {
    let found = look();
    while (found === undefined && !signal.aborted) {
      await this.#next(signal);
      found = look();
    }
    return found;
  }

  #next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        this.#waiters.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#waiters.add(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }
}
