/**
 * CHECK of all running containers from time to time, for those who ask for it. Advisory like every CHECK: what changes is
 * logged, once, and nothing is done about it.
 */
import type { Logger } from 'pino';
import { type Code, RuntimeError } from '../errors.ts';
import type { ContainerId } from '../runtime/container.ts';
import type { AttachmentCheck } from './attachment-check.ts';

export interface PeriodicCheckOptions {
  /** Pause between two rounds. */
  readonly intervalMs: number;
  /** Containers to check. */
  readonly containers: () => Iterable<ContainerId>;
  readonly check: (id: ContainerId, signal: AbortSignal) => Promise<readonly AttachmentCheck[]>;
  readonly log: Logger;
}

/** It does not run any more, or has no network of its own. */
const OVER: ReadonlySet<Code> = new Set<Code>(['FAILED_PRECONDITION', 'NOT_FOUND', 'ABORTED']);

/** See the module's head. */
export class PeriodicCheck {
  readonly #options: PeriodicCheckOptions;
  readonly #closing = new AbortController();
  /** Attachments that failed when they were last looked at: "id eth0". */
  #failed: ReadonlySet<string> = new Set();
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> | undefined;

  constructor(options: PeriodicCheckOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setTimeout(() => {
      this.#round = this.round(this.#closing.signal).finally(() => {
        if (!this.#closing.signal.aborted) this.start();
      });
    }, this.#options.intervalMs);
    this.#timer.unref();
  }

  async close(): Promise<void> {
    this.#closing.abort(new RuntimeError('UNAVAILABLE', 'berthd is shutting down'));
    clearTimeout(this.#timer);
    await this.#round;
  }

  /** Looks at one container after the other. Never rejects. */
  async round(signal: AbortSignal): Promise<void> {
    const failed = new Set<string>();
    for (const id of this.#options.containers()) {
      if (signal.aborted) return;
      for (const check of await this.#checks(id, signal)) this.#tell(id, check, failed);
    }
    this.#failed = failed;
  }

  #tell(containerId: ContainerId, check: AttachmentCheck, failed: Set<string>): void {
    const { log } = this.#options;
    const { network, interfaceName, outcome, reason } = check;
    const key = `${containerId} ${interfaceName}`;
    const before = this.#failed.has(key);
    if (outcome === 'failed') failed.add(key);
    if (outcome === 'failed' && !before)
      log.warn({ containerId, network, interfaceName, reason }, 'network check failed');
    if (outcome === 'passed' && before) log.info({ containerId, network, interfaceName }, 'network check passes again');
  }

  async #checks(id: ContainerId, signal: AbortSignal): Promise<readonly AttachmentCheck[]> {
    try {
      return await this.#options.check(id, signal);
    } catch (error) {
      const failure = RuntimeError.from(error, 'check');
      if (!OVER.has(failure.code) && !signal.aborted) {
        this.#options.log.warn({ containerId: id, err: failure }, 'networks not checked');
      }
      return [];
    }
  }
}
