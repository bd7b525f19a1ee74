/**
 * Volumes for which something is due that could not be done: tried again after growing, jittered pauses, and at once when
 * their plugin is back. What is due, and whether it still is, only the settling itself knows.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { PluginRegistry } from './plugin-registry.ts';

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5 * 60_000;

/** When a volume is tried again. */
export interface PlannedAttempt {
  /** Attempts so far, in a row. */
  readonly attempts: number;
  readonly nextTryAt: string;
}

export interface VolumeBacklogOptions {
  readonly log: Logger;
  /** Does what is due for a volume; does nothing when nothing is. */
  readonly settle: (name: string, signal: AbortSignal) => Promise<void>;
  /** Longest time of one attempt. */
  readonly attemptMs: number;
}

export class VolumeBacklog {
  readonly #options: VolumeBacklogOptions;
  readonly #due = new Map<string, PlannedAttempt & { timer: NodeJS.Timeout }>();
  readonly #running = new Set<Promise<void>>();
  readonly #closing = new AbortController();
  #unfollow: () => void = () => undefined;

  constructor(options: VolumeBacklogOptions) {
    this.#options = options;
  }

  /** Tries again at once what is due for a plugin's volumes when the plugin becomes ready. */
  follow(registry: PluginRegistry, volumesOf: (driver: string) => readonly { readonly name: string }[]): void {
    this.#unfollow = registry.onReady((driver) => {
      for (const { name } of volumesOf(driver)) if (this.#due.has(name)) this.#try(name);
    });
  }

  /** Runs work that must be done in the end: when it fails it is tried again in the background. */
  async run(name: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this.done(name);
    } catch (error) {
      this.add(name);
      throw error;
    }
  }

  /** Plans the next attempt. */
  add(name: string): void {
    if (this.#closing.signal.aborted) return;
    const known = this.#due.get(name);
    clearTimeout(known?.timer);
    const attempts = (known?.attempts ?? 0) + 1;
    const ceilingMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attempts - 1));
    const pauseMs = Math.round(ceilingMs * (0.5 + Math.random() / 2));
    const timer = setTimeout(() => this.#try(name), pauseMs).unref();
    this.#due.set(name, { attempts, nextTryAt: new Date(Date.now() + pauseMs).toISOString(), timer });
  }

  /** What is planned for a volume; undefined when nothing is due. */
  planned(name: string): PlannedAttempt | undefined {
    const due = this.#due.get(name);
    return due && { attempts: due.attempts, nextTryAt: due.nextTryAt };
  }

  /** Nothing is due any more. */
  done(name: string): void {
    clearTimeout(this.#due.get(name)?.timer);
    this.#due.delete(name);
  }

  /** Ends all attempts and waits for the one under way. */
  async close(): Promise<void> {
    this.#closing.abort(new RuntimeError('CANCELLED', 'berthd is shutting down'));
    this.#unfollow();
    for (const { timer } of this.#due.values()) clearTimeout(timer);
    this.#due.clear();
    await Promise.all(this.#running);
  }

  #try(name: string): void {
    const running = this.#attempt(name).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async #attempt(name: string): Promise<void> {
    const { log, settle, attemptMs } = this.#options;
    const signal = AbortSignal.any([this.#closing.signal, AbortSignal.timeout(attemptMs)]);
    try {
      await settle(name, signal);
      this.done(name);
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      log.warn({ volume: name, err: error }, 'volume is not settled, will be tried again');
      this.add(name);
    }
  }
}
