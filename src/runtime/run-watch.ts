/**
 * Eyes on a running container: its exit, and limits it may hit. What follows from an exit is the caller's.
 */
import type { Logger } from 'pino';
import type { ContainerId, Exit } from './container.ts';
import type { Isolator } from './isolator.ts';
import type { Launcher } from './launcher.ts';

export interface RunWatchOptions {
  readonly launcher: Launcher;
  readonly isolators: readonly Isolator[];
  /** Called once when the run has ended. */
  readonly exited: (id: ContainerId, exit: Exit) => Promise<void>;
  /** Ends all watching. */
  readonly signal: AbortSignal;
  readonly log: Logger;
}

export class RunWatch {
  readonly #options: RunWatchOptions;
  readonly #followed = new Set<Promise<void>>();

  constructor(options: RunWatchOptions) {
    this.#options = options;
  }

  /** Follows a container until it has exited and the caller has dealt with that. */
  follow(id: ContainerId): void {
    const followed = this.#untilExit(id).finally(() => this.#followed.delete(followed));
    this.#followed.add(followed);
  }

  /** Settles when nothing is followed any more. */
  async drain(): Promise<void> {
    await Promise.all(this.#followed);
  }

  async #untilExit(id: ContainerId): Promise<void> {
    const { launcher, exited, signal, log } = this.#options;
    const ended = new AbortController();
    const limits = this.#watchLimits(id, AbortSignal.any([signal, ended.signal]));
    try {
      await exited(id, await launcher.wait(id, signal));
    } catch (error) {
      if (!signal.aborted) log.error({ containerId: id, err: error }, 'lost sight of a container');
    } finally {
      ended.abort();
      await limits;
    }
  }

  async #watchLimits(id: ContainerId, signal: AbortSignal): Promise<void> {
    const { isolators, log } = this.#options;
    const watchOne = async (isolator: Isolator): Promise<void> => {
      try {
        const limitation = await isolator.watch?.(id, signal);
        if (limitation !== undefined) log.warn({ containerId: id, limitation }, 'container hit a limit');
      } catch (error) {
        if (!signal.aborted) log.warn({ containerId: id, isolator: isolator.name, err: error }, 'watch failed');
      }
    };
    await Promise.all(isolators.map(watchOne));
  }
}
