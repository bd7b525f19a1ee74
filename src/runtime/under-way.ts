/** Calls under way for each container, so that a forced removal can cut them short. */
import { RuntimeError } from '../errors.ts';
import type { ContainerId } from './container.ts';

/** Holds a call only while it runs. */
export class UnderWay {
  readonly #calls = new Map<ContainerId, Set<AbortController>>();

  /** Runs `work` on a signal that aborts with the caller's and with {@link interrupt}. */
  async run<T>(id: ContainerId, work: (joint: AbortSignal) => Promise<T>, signal: AbortSignal): Promise<T> {
    const own = new AbortController();
    const group = this.#calls.get(id) ?? new Set();
    this.#calls.set(id, group.add(own));
    try {
      return await work(AbortSignal.any([signal, own.signal]));
    } catch (error) {
      throw RuntimeError.from(error, `container ${id}`);
    } finally {
      group.delete(own);
      if (group.size === 0) this.#calls.delete(id);
    }
  }

  /** Ends every call for a container with this reason. */
  interrupt(id: ContainerId, reason: RuntimeError): void {
    for (const controller of this.#calls.get(id) ?? []) controller.abort(reason);
  }
}
