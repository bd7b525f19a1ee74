/**
 * Who waits for what: callers that want to know when a container's run has ended, or when the container is gone.
 * The last exits are remembered, so that a caller who asks just after an automatic removal still gets its answer.
 */
import { RuntimeError } from '../errors.ts';
import type { ContainerId, Exit } from './container.ts';

const REMEMBERED = 1024;

/** Announcements of exits and removals. */
export class ExitBoard {
  readonly #waiting = new Map<ContainerId, Set<PromiseWithResolvers<Exit>>>();
  readonly #leaving = new Map<ContainerId, Set<PromiseWithResolvers<void>>>();
  readonly #lastExits = new Map<ContainerId, Exit>();

  /** The exit of a container that is no longer on record. */
  remembered(id: ContainerId): Exit | undefined {
    return this.#lastExits.get(id);
  }

  /** Settles at the next exit of the container. @throws {RuntimeError} NOT_FOUND when it is removed without one */
  nextExit(id: ContainerId, signal: AbortSignal): Promise<Exit> {
    return listen(this.#waiting, id, signal);
  }

  /** Settles when the container is gone. */
  removal(id: ContainerId, signal: AbortSignal): Promise<void> {
    return listen(this.#leaving, id, signal);
  }

  exited(id: ContainerId, exit: Exit): void {
    this.#lastExits.delete(id);
    this.#lastExits.set(id, exit);
    const oldest = this.#lastExits.keys().next();
    if (this.#lastExits.size > REMEMBERED && oldest.done === false) this.#lastExits.delete(oldest.value);
    for (const waiter of take(this.#waiting, id)) waiter.resolve(exit);
  }

  removed(id: ContainerId): void {
    const gone = new RuntimeError('NOT_FOUND', `container ${id} was removed`);
    for (const waiter of take(this.#waiting, id)) waiter.reject(gone);
    for (const waiter of take(this.#leaving, id)) waiter.resolve();
  }
}

async function listen<T>(
  board: Map<ContainerId, Set<PromiseWithResolvers<T>>>,
  id: ContainerId,
  signal: AbortSignal,
): Promise<T> {
  signal.throwIfAborted();
  const waiter = Promise.withResolvers<T>();
  const waiters = board.get(id) ?? new Set();
  board.set(id, waiters.add(waiter));
  const onAbort = (): void => waiter.reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await waiter.promise;
  } finally {
    signal.removeEventListener('abort', onAbort);
    waiters.delete(waiter);
    if (waiters.size === 0 && board.get(id) === waiters) board.delete(id);
  }
}

function take<T>(board: Map<ContainerId, Set<T>>, id: ContainerId): T[] {
  const waiters = [...(board.get(id) ?? [])];
  board.delete(id);
  return waiters;
}
