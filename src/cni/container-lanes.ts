/** What the networks need of the engine to work on containers outside a launch or a teardown. */
import type { ContainerId, ContainerRecord } from '../runtime/container.ts';

/** The Containerizer, as far as networks know it. */
export interface ContainerLanes {
  /**
   * Runs `work` on a running container while nothing else is done to it.
   * @throws {RuntimeError} NOT_FOUND, or FAILED_PRECONDITION when it does not run
   */
  inLane<T>(
    ref: string,
    work: (container: ContainerRecord, joint: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T>;
  /** Tries at once what is left of a run that is over. Returns false when something is still left. */
  retryCleanup(id: ContainerId, signal: AbortSignal): Promise<boolean>;
}
