/**
 * One plugin socket over time: dialled, asked, watched, dialled again. Connect and Probe decide, never the mere presence
 * of a file.
 *
 *   starting --Probe ready--> ready --connection lost--> unreachable --answers--> ready
 *      ^                        |                            ^
 *      +--ready = false---------+       no answer -----------+       refused: its name is taken by another socket
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { CsiClient } from './csi-client.ts';
import { meetPlugin, type Plugin } from './plugin.ts';
import type { Csi } from './protocol.ts';

export type PluginState = 'ready' | 'starting' | 'unreachable' | 'refused';

const FIRST_PAUSE_MS = 50;
/** A dead socket costs nothing to dial; a live plugin that says no may find its Probe costly. */
const LONGEST_PAUSE_MS: Readonly<Record<PluginState, number>> = {
  ready: FIRST_PAUSE_MS,
  starting: 1000,
  unreachable: 1000,
  refused: 5000,
};

export interface PluginConnectionOptions {
  readonly csi: Csi;
  readonly socketPath: string;
  readonly log: Logger;
  readonly deadlineMs?: number | undefined;
  /** Why a plugin of this name must not be taken from this socket; undefined when it may. */
  readonly refusal: (name: string) => string | undefined;
  /** Called after each change of state. */
  readonly changed: () => void;
}

/** Keeps one socket's plugin known until closed. */
export class PluginConnection {
  readonly socketPath: string;
  readonly #options: PluginConnectionOptions;
  readonly #client: CsiClient;
  readonly #stop = new AbortController();
  #state: PluginState = 'starting';
  #reason: string | undefined = 'not asked yet';
  #plugin: Plugin | undefined;
  #work: Promise<void> | undefined;
  #verdict = false;

  constructor(options: PluginConnectionOptions) {
    this.#options = options;
    this.socketPath = options.socketPath;
    this.#client = new CsiClient(options);
  }

  get state(): PluginState {
    return this.#state;
  }

  /** Why the plugin is not ready. */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** The plugin when it was last met; callable only in state ready. */
  get plugin(): Plugin | undefined {
    return this.#plugin;
  }

  /** True once the socket was tried, whatever came of it. */
  get hasVerdict(): boolean {
    return this.#verdict;
  }

  /** Begins to dial. */
  open(): void {
    this.#work ??= this.#run(this.#stop.signal);
  }

  /** Ends dialling and watching. */
  async close(): Promise<void> {
    this.#stop.abort(new RuntimeError('CANCELLED', `plugin socket ${this.socketPath} is no longer watched`));
    this.#client.close();
    await this.#work;
  }

  async #run(signal: AbortSignal): Promise<void> {
    let pauseMs = FIRST_PAUSE_MS;
    while (!signal.aborted) {
      if (await this.#dial(signal)) {
        pauseMs = FIRST_PAUSE_MS;
        await this.#client.disconnected();
        if (!signal.aborted) this.#turn('unreachable', 'the connection was lost');
      }
      await sleep(pauseMs, undefined, { ref: false, signal }).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
      pauseMs = Math.min(LONGEST_PAUSE_MS[this.#state], pauseMs * 2);
    }
  }

  /** One attempt; true when the plugin is ready. */
  async #dial(signal: AbortSignal): Promise<boolean> {
    try {
      const plugin = await meetPlugin(this.#client, signal);
      if (plugin === undefined) return this.#turn('starting', 'the plugin says it is not ready yet');
      this.#plugin = plugin;
      const refusal = this.#options.refusal(plugin.name);
      if (refusal !== undefined) return this.#turn('refused', refusal);
      return this.#turn('ready', undefined);
    } catch (error) {
      if (signal.aborted) return false;
      return this.#turn('unreachable', RuntimeError.from(error, 'no answer').message);
    }
  }

  #turn(state: PluginState, reason: string | undefined): boolean {
    const from = this.#state;
    const first = !this.#verdict;
    this.#verdict = true;
    this.#state = state;
    this.#reason = reason;
    if (from !== state || first) {
      const { log, socketPath } = this.#options;
      log.info({ plugin: this.#plugin?.name, socket: socketPath, from, to: state, reason }, 'plugin state changed');
      this.#options.changed();
    }
    return state === 'ready';
  }
}
