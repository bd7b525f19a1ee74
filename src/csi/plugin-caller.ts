/**
 * Calls for volumes, snapshots and groups: finds the plugin afresh for each attempt, since it may have come back on another connection, repeats
 * what CSI lets be repeated, and adds secrets at the last moment.
 *
 * A caller who stops waiting does not stop the plugin. So the call goes on, and the next call for the same object waits
 * for its end, for a while: at most one call is in flight for it (CSI "Concurrency"; volume-manager.ts has the lane).
 */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { CallLimit } from './call-limit.ts';
import { cutShort } from './csi-client.ts';
import { isDownward, isRepeatable } from './error-reactions.ts';
import type { Plugin } from './plugin.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import { CsiError, type Request, type Response, type Rpc, type StreamRpc, type StringMap } from './protocol.ts';
import { takesSecrets } from './redaction.ts';
import { withRetries } from './retry.ts';

/**
 * The secrets for a call of a plugin, asked for just before each attempt and never kept. `name` says which ones when they
 * are not the plugin's usual ones.
 */
export type SecretSource = (
  driver: string,
  rpc: Rpc | StreamRpc,
  signal: AbortSignal,
  name?: string,
) => StringMap | Promise<StringMap>;

/** How long things may take; the deadlines of single calls are the client's. */
export interface VolumeDeadlines {
  /** Longest wait for a plugin that is not there; 10,000 unless given. */
  readonly pluginMs?: number | undefined;
  /** Longest time one call is repeated for; 30,000 unless given. */
  readonly retryForMs?: number | undefined;
  /** How long a call waits for the end of the one before it, whose caller has gone; 10,000 unless given. */
  readonly settleMs?: number | undefined;
}

/** A call that was sent and has not been answered. */
interface InFlight {
  readonly settled: Promise<void>;
  readonly stop: AbortController;
  /** It changes nothing, and is broken off soon for a call that does. */
  readonly isQuestion: boolean;
}

export interface PluginCallerOptions {
  readonly registry: PluginRegistry;
  readonly log: Logger;
  readonly deadlines?: VolumeDeadlines | undefined;
  readonly secrets?: SecretSource | undefined;
  /** Changing calls to one plugin's controller at a time; 1 unless given. */
  readonly controllerCalls?: number | undefined;
}

/** What a call is about. */
export interface CallSubject {
  /** One call at a time for each: a volume's name, "snapshot/NAME", "group/NAME". */
  readonly name: string;
  /** Name of the plugin. */
  readonly driver: string;
  /** Which secrets its calls get; the plugin's usual ones when absent. */
  readonly secretsName?: string | undefined;
}

/** Questions hold up nothing and no other question: each is a subject of its own. */
export function question(driver: string, secretsName?: string): CallSubject {
  return { name: `question/${randomUUID()}`, driver, secretsName };
}

/** Which call it is. */
interface Sent {
  readonly name: string;
  readonly plugin: string;
  readonly rpc: Rpc;
  readonly isQuestion: boolean;
}

/** How long a call waits for the end of a question before it. */
const QUESTION_MS = 1000;

/** Going down is tried again later anyway: an absent plugin must not hold up a start of the daemon for long. */
const DOWNWARD_PLUGIN_MS = 2000;
/** One that ended no longer ago is on its way back, and is waited for as for any other call. */
const RETURN_MS = 10_000;

export class PluginCaller {
  readonly #options: PluginCallerOptions;
  readonly #limit: CallLimit;
  /** By name of the object. */
  readonly #inFlight = new Map<string, InFlight>();

  constructor(options: PluginCallerOptions) {
    this.#options = options;
    this.#limit = new CallLimit(options.controllerCalls ?? 1);
  }

  /** Waits for a plugin. @throws {RuntimeError} UNAVAILABLE with advice */
  async plugin(driver: string, signal: AbortSignal, longestMs: number = Number.POSITIVE_INFINITY): Promise<Plugin> {
    const patienceMs = Math.min(longestMs, this.#options.deadlines?.pluginMs ?? 10_000);
    return this.#options.registry.waitFor(driver, AbortSignal.any([signal, AbortSignal.timeout(patienceMs)]));
  }

  /**
   * One call for an object, repeated while that is lawful and time is left. Calls for one object never overlap.
   * @throws {RuntimeError} the last failure; a CsiError says whether the call had been sent before without an outcome
   */
  async call<R extends Rpc>(
    subject: CallSubject,
    rpc: R,
    request: Request<R>,
    signal: AbortSignal,
  ): Promise<Response<R>> {
    const { log, deadlines } = this.#options;
    const { name, driver } = subject;
    let unheard = false;
    const attempt = withRetries(
      async () => {
        await this.#quiet(name, signal);
        const plugin = await this.plugin(driver, signal, this.#patienceMs(driver, rpc));
        const sent = { name, plugin: driver, rpc, isQuestion: false };
        const full = await this.#withSecrets(subject, rpc, request, signal);
        if (signal.aborted) throw cutShort(driver, rpc, signal);
        const leave = await this.#limit.enter(driver, rpc, signal);
        // A question may have been put meanwhile.
        while (this.#inFlight.has(name) && !signal.aborted) await this.#quiet(name, signal);
        if (signal.aborted) {
          leave();
          throw cutShort(driver, rpc, signal);
        }
        return this.#send(sent, (stop) => plugin.call(rpc, full, stop).finally(leave), signal);
      },
      {
        budgetMs: deadlines?.retryForMs ?? 30_000,
        repeatable: (error) => error instanceof CsiError && isRepeatable(error),
        onRetry: (err, pauseMs) => {
          unheard = true;
          log.warn({ object: name, rpc, err, pauseMs }, 'CSI call is repeated');
        },
      },
      signal,
    );
    return attempt.catch((error: unknown) => {
      throw unheard && error instanceof CsiError ? error.repeated() : error;
    });
  }

  /** Longest wait for a plugin that is away. */
  #patienceMs(driver: string, rpc: Rpc): number {
    const isShort = isDownward(rpc) && !this.#options.registry.wasLostWithin(driver, RETURN_MS);
    return isShort ? DOWNWARD_PLUGIN_MS : Number.POSITIVE_INFINITY;
  }

  /**
   * One call that is answered by a stream; nothing is repeated.
   * @throws {RuntimeError} between two messages
   */
  async *stream<R extends StreamRpc>(
    subject: CallSubject,
    rpc: R,
    request: Request<R>,
    signal: AbortSignal,
  ): AsyncGenerator<Response<R>> {
    const plugin = await this.plugin(subject.driver, signal);
    yield* plugin.stream(rpc, await this.#withSecrets(subject, rpc, request, signal), signal);
  }

  /**
   * One question about an object that changes nothing and needs no secrets. It takes no lane: it is not put while a call
   * for the object is in flight, and a call that comes meanwhile waits a second for it, then breaks it off. So there is
   * one call at a time for the object (CSI "Concurrency"), and a plugin that hangs on a question holds up nothing for long.
   * @throws {CsiError} ABORTED when a call is in flight, otherwise as the plugin answers
   */
  async ask<R extends Rpc>(
    { name, driver }: CallSubject,
    rpc: R,
    request: Request<R>,
    signal: AbortSignal,
  ): Promise<Response<R>> {
    const plugin = await this.plugin(driver, signal);
    if (this.#inFlight.has(name)) throw new CsiError('ABORTED', driver, rpc, 'another call for it is under way');
    const sent = { name, plugin: driver, rpc, isQuestion: true };
    return this.#send(sent, (stop) => plugin.call(rpc, request, stop), signal);
  }

  /** Breaks off what is still in flight and waits for its end. */
  async close(): Promise<void> {
    const all = [...this.#inFlight.values()];
    for (const { stop } of all) stop.abort(new RuntimeError('CANCELLED', 'berthd is shutting down'));
    await Promise.all(all.map(({ settled }) => settled));
  }

  /** Waits for a call whose caller has gone; breaks it off when it takes too long. */
  async #quiet(name: string, signal: AbortSignal): Promise<void> {
    const before = this.#inFlight.get(name);
    if (before === undefined) return;
    const settleMs = this.#options.deadlines?.settleMs ?? 10_000;
    const patienceMs = before.isQuestion ? Math.min(settleMs, QUESTION_MS) : settleMs;
    await untilAborted(before.settled, AbortSignal.any([signal, AbortSignal.timeout(patienceMs)]));
    if (signal.aborted) return;
    before.stop.abort(new RuntimeError('CANCELLED', `the next call for ${name} is due`));
    await untilAborted(before.settled, signal);
  }

  /** Sends a call and waits for it, or for the caller's patience to end. */
  async #send<T>(
    { name, plugin, rpc, isQuestion }: Sent,
    send: (stop: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const stop = new AbortController();
    const answer = send(stop.signal);
    const over = (): void => {
      if (this.#inFlight.get(name)?.stop === stop) this.#inFlight.delete(name);
    };
    const settled = answer.then(over, over);
    this.#inFlight.set(name, { stop, settled, isQuestion });
    await untilAborted(settled, signal);
    if (this.#inFlight.get(name)?.stop === stop) throw cutShort(plugin, rpc, signal);
    return answer;
  }

  /** @throws {RuntimeError} FAILED_PRECONDITION when the secrets for a call cannot be found */
  async checkSecrets(subject: Omit<CallSubject, 'name'>, rpc: Rpc, signal: AbortSignal): Promise<void> {
    await this.#options.secrets?.(subject.driver, rpc, signal, subject.secretsName);
  }

  /** A call that was not sent for want of its secrets leaves open what became of earlier ones: UNAVAILABLE. */
  async #withSecrets<R extends Rpc | StreamRpc>(
    { driver, secretsName }: CallSubject,
    rpc: R,
    request: Request<R>,
    signal: AbortSignal,
  ): Promise<Request<R>> {
    const { secrets } = this.#options;
    if (secrets === undefined || !takesSecrets(rpc)) return request;
    try {
      return { ...request, secrets: await secrets(driver, rpc, signal, secretsName) };
    } catch (error) {
      const { message } = RuntimeError.from(error, `secrets of ${rpc}`);
      throw new RuntimeError('UNAVAILABLE', message, { cause: error });
    }
  }
}

/** Settles with the work, or when the signal aborts before. */
async function untilAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = (): void => resolve();
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) resolve();
  await Promise.race([work, promise]);
  signal.removeEventListener('abort', stop);
}
