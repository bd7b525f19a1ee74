/**
 * How many calls that change something a plugin's controller is given at a time (CSI leaves it open; storage backends
 * have been seen to mix up attachments that were asked for side by side). First come, first served.
 */
import type { Rpc } from './protocol.ts';

/** Calls of the controller that change something. Questions are not held up. */
const LIMITED: ReadonlySet<Rpc> = new Set<Rpc>([
  'CreateVolume',
  'DeleteVolume',
  'ControllerPublishVolume',
  'ControllerUnpublishVolume',
  'ControllerExpandVolume',
  'ControllerModifyVolume',
  'CreateSnapshot',
  'DeleteSnapshot',
  'CreateVolumeGroupSnapshot',
  'DeleteVolumeGroupSnapshot',
]);

export class CallLimit {
  readonly #most: number;
  readonly #running = new Map<string, number>();
  readonly #waiting = new Map<string, (() => void)[]>();

  /** @param most calls at a time for each plugin */
  constructor(most: number) {
    this.#most = most;
  }

  /**
   * Waits for a turn. Returns what gives it back, due once the plugin has answered.
   * @throws the signal's reason when it aborts before
   */
  async enter(plugin: string, rpc: Rpc, signal: AbortSignal): Promise<() => void> {
    if (!LIMITED.has(rpc)) return () => undefined;
    while ((this.#running.get(plugin) ?? 0) >= this.#most) await this.#turn(plugin, signal);
    this.#running.set(plugin, (this.#running.get(plugin) ?? 0) + 1);
    let held = true;
    return () => {
      if (held) this.#leave(plugin);
      held = false;
    };
  }

  #leave(plugin: string): void {
    this.#running.set(plugin, (this.#running.get(plugin) ?? 1) - 1);
    this.#waiting.get(plugin)?.shift()?.();
  }

  async #turn(plugin: string, signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const queue = this.#waiting.get(plugin) ?? [];
    this.#waiting.set(plugin, queue);
    queue.push(resolve);
    const stop = (): void => resolve();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) resolve();
    await promise;
    signal.removeEventListener('abort', stop);
    const place = queue.indexOf(resolve);
    if (place >= 0) queue.splice(place, 1);
    else if (signal.aborted) queue.shift()?.();
    signal.throwIfAborted();
  }
}
