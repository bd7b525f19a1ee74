/**
 * One plugin socket over time: dialled, asked, watched, dialled again. Connect and Probe decide, never the mere presence
 * of a file.
 *
 *   starting --Probe ready--> ready --connection lost, Probe fails--> unreachable --answers--> ready
 *      ^                        |                                         ^
 *      +--ready = false---------+            no answer -------------------+       refused: not to be taken from here
 *
 * Name and capabilities are read at each dial. A socket file that was replaced is dialled again, also while the old one
 * still answers.
 */
import { lstatSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { CsiClient } from './csi-client.ts';
import { type MetSocket, meetSocket } from './plugin.ts';
import type { PluginRole } from './plugin-registration.ts';
import type { Csi, Request, Response, Rpc, StreamRpc } from './protocol.ts';
import { identity } from './watched-directory.ts';

export type PluginState = 'ready' | 'starting' | 'unreachable' | 'refused';

/** What the probes of a socket came to. Instants are ISO strings. */
export interface PluginHealth {
  /** Since when it is in its state. */
  readonly sinceAt: string;
  readonly lastProbeAt?: string;
  readonly lastSuccessAt?: string;
  /** Probes that failed since the last success. */
  readonly failuresInARow: number;
}

const FIRST_PAUSE_MS = 50;
/** A dead socket costs nothing to dial; a live plugin that says no may find its Probe costly. */
const LONGEST_PAUSE_MS: Readonly<Record<PluginState, number>> = {
  ready: FIRST_PAUSE_MS,
  starting: 1000,
  unreachable: 1000,
  refused: 5000,
};
const PROBE_MS = 30_000;
/** Pause between two looks at the socket file. */
const LOOK_MS = 1000;

export interface PluginConnectionOptions {
  readonly csi: Csi;
  readonly socketPath: string;
  /** What the socket is used for; whatever it serves when absent. */
  readonly role?: PluginRole | undefined;
  readonly log: Logger;
  readonly deadlineMs?: number | undefined;
  /** Pause between two Probes of a plugin that is ready; 30,000 unless given. */
  readonly probeMs?: number | undefined;
  /** Why what was met must not be taken from this socket; undefined when it may. */
  readonly refusal: (met: MetSocket) => string | undefined;
  /** Called after each change of state, and when a ready plugin was asked again. */
  readonly changed: () => void;
}

/** Keeps one socket's plugin known until closed. */
export class PluginConnection {
  readonly socketPath: string;
  readonly role: PluginRole | undefined;
  readonly #options: PluginConnectionOptions;
  readonly #stop = new AbortController();
  #client: CsiClient;
  /** The file that was dialled last. */
  #file: string | undefined;
  #state: PluginState = 'starting';
  #reason: string | undefined = 'not asked yet';
  #health: PluginHealth = { sinceAt: now(), failuresInARow: 0 };
  #met: MetSocket | undefined;
  #work: Promise<void> | undefined;
  #verdicts = 0;
  /** Ends the pause that is under way. */
  #wake: () => void = () => undefined;
  #hurry = false;

  constructor(options: PluginConnectionOptions) {
    this.#options = options;
    this.socketPath = options.socketPath;
    this.role = options.role;
    this.#client = new CsiClient(options);
  }

  get state(): PluginState {
    return this.#state;
  }

  /** Why the plugin is not ready. */
  get reason(): string | undefined {
    return this.#reason;
  }

  get health(): PluginHealth {
    return this.#health;
  }

  /** What it said when it was last met. */
  get met(): MetSocket | undefined {
    return this.#met;
  }

  /** How often the socket was tried, whatever came of it. */
  get verdicts(): number {
    return this.#verdicts;
  }

  /** True when nobody watches it any more. */
  get closed(): boolean {
    return this.#stop.signal.aborted;
  }

  /** One call, whatever the state. @throws {CsiError} as {@link CsiClient.call} */
  call<R extends Rpc>(rpc: R, request: Request<R>, signal: AbortSignal): Promise<Response<R>> {
    return this.#client.call(rpc, request, signal);
  }

  /** The same for an answer that is a stream. @throws {CsiError} as {@link CsiClient.stream} */
  stream<R extends StreamRpc>(rpc: R, request: Request<R>, signal: AbortSignal): AsyncIterable<Response<R>> {
    return this.#client.stream(rpc, request, signal);
  }

  /** Begins to dial. */
  open(): void {
    this.#work ??= this.#run(this.#stop.signal);
  }

  /** Asks everything anew as soon as may be; `verdicts` grows when that is done. */
  hurry(): void {
    this.#hurry = true;
    this.#wake();
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
      this.#hurry = false;
      if (await this.#dial(signal)) {
        pauseMs = FIRST_PAUSE_MS;
        await this.#watch(signal);
      } else {
        await this.#pause(pauseMs, signal);
        pauseMs = Math.min(LONGEST_PAUSE_MS[this.#state], pauseMs * 2);
      }
    }
  }

  /** One attempt; true when the plugin is ready. */
  async #dial(signal: AbortSignal): Promise<boolean> {
    try {
      this.#redial();
      const met = await meetSocket(this.#client, this.role, signal);
      if (met === undefined) return this.#turn('starting', 'the plugin says it is not ready yet');
      const refusal = this.#options.refusal(met);
      this.#met = met;
      return refusal === undefined ? this.#turn('ready', undefined) : this.#turn('refused', refusal);
    } catch (error) {
      if (signal.aborted) return false;
      return this.#turn('unreachable', RuntimeError.from(error, 'no answer').message);
    }
  }

  /** Makes a connection to the file that is there now. @throws {RuntimeError} when it is no socket */
  #redial(): void {
    checkSocketFile(this.socketPath);
    const file = identity(this.socketPath);
    if (file === this.#file) return;
    const before = this.#file;
    this.#file = file;
    if (before === undefined) return;
    this.#client.close();
    this.#client = new CsiClient(this.#options);
  }

  /** Settles when the plugin has to be asked anew. */
  async #watch(signal: AbortSignal): Promise<void> {
    let lost = false;
    const gone = this.#client.disconnected().then(() => {
      lost = true;
      this.#wake();
    });
    let probedMs = performance.now();
    while (!lost && !this.#hurry && !signal.aborted) {
      await this.#pause(LOOK_MS, signal);
      if (this.#isReplaced()) return;
      if (lost || performance.now() - probedMs < (this.#options.probeMs ?? PROBE_MS)) continue;
      if (!(await this.#probe(signal))) return;
      probedMs = performance.now();
    }
    if (lost) await gone;
    if (lost && !signal.aborted) this.#turn('unreachable', 'the connection was lost');
  }

  /** Also true of a path that cannot be looked at: the next dial says why. */
  #isReplaced(): boolean {
    try {
      const file = identity(this.socketPath);
      return file !== undefined && file !== this.#file;
    } catch (error) {
      this.#options.log.debug({ socket: this.socketPath, err: error }, 'the socket cannot be looked at');
      return true;
    }
  }

  async #probe(signal: AbortSignal): Promise<boolean> {
    try {
      if (!(await this.#client.probe(signal))) return this.#turn('starting', 'the plugin says it is no longer ready');
      this.#count(true);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      return this.#turn('unreachable', RuntimeError.from(error, 'no answer').message);
    }
  }

  async #pause(pauseMs: number, signal: AbortSignal): Promise<void> {
    if (this.#hurry) return;
    const woken = new AbortController();
    this.#wake = () => woken.abort();
    await sleep(pauseMs, undefined, { ref: false, signal: AbortSignal.any([signal, woken.signal]) }).catch(
      (error: unknown) => {
        if (!signal.aborted && !woken.signal.aborted) throw error;
      },
    );
    this.#wake = () => undefined;
  }

  #turn(state: PluginState, reason: string | undefined): boolean {
    const from = this.#state;
    const first = this.#verdicts === 0;
    this.#verdicts += 1;
    this.#state = state;
    this.#reason = reason;
    this.#count(state === 'ready' || state === 'refused');
    if (from !== state || first) {
      this.#health = { ...this.#health, sinceAt: now() };
      const { log, socketPath } = this.#options;
      log.info({ plugin: this.#met?.name, socket: socketPath, from, to: state, reason }, 'plugin state changed');
    }
    this.#options.changed();
    return state === 'ready';
  }

  #count(success: boolean): void {
    const at = now();
    const { failuresInARow } = this.#health;
    this.#health = success
      ? { ...this.#health, lastProbeAt: at, lastSuccessAt: at, failuresInARow: 0 }
      : { ...this.#health, lastProbeAt: at, failuresInARow: failuresInARow + 1 };
  }
}

/** @throws {RuntimeError} NOT_FOUND when nothing is there, INVALID_ARGUMENT when it is no socket; links are not followed */
export function checkSocketFile(path: string): void {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  if (stats === undefined) {
    throw new RuntimeError('NOT_FOUND', `${path} is not there; start the plugin with CSI_ENDPOINT=unix://${path}`);
  }
  if (stats.isSocket()) return;
  const kind = stats.isSymbolicLink() ? 'a symbolic link; name the socket itself' : 'no socket';
  throw new RuntimeError('INVALID_ARGUMENT', `${path} is ${kind}`);
}

function now(): string {
  return new Date().toISOString();
}
