/**
 * One call per volume at a time. A second one is refused instead of queued: its caller lost track of the first (CSI
 * "Concurrency"), and only the caller knows whether to wait or to give up.
 */
import { RuntimeError } from '../../errors.ts';

export class InFlight {
  readonly #busy = new Map<string, Promise<unknown>>();

  /**
   * Runs `work` unless work under the same key is under way.
   * @throws {RuntimeError} ABORTED when it is
   */
  async run<T>(key: string, work: () => Promise<T>): Promise<T> {
    if (this.#busy.has(key)) {
      throw new RuntimeError('ABORTED', `${key}: another call is under way for this volume`);
    }
    const turn = work();
    this.#busy.set(key, turn);
    try {
      return await turn;
    } finally {
      this.#busy.delete(key);
    }
  }
}
