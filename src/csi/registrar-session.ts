/**
 * One registrar's socket, for as long as it is there:
 *
 *   GetInfo -> checked -> registered -> the plugin answers at its endpoint -> NotifyRegistrationStatus(true)
 *      ^          \           \                \ not in time, or refused               \ not heard
 *      |           +-----------+----------------+-> taken back, NotifyRegistrationStatus(false, why)
 *      +--------------------------------- pauses that grow, while the socket is there
 *
 * A verdict that the registrar did not hear counts as none. The registration is taken back when the socket goes, whether
 * the plugin still answers or not; a socket that was made anew is another session.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { RegistrationDefinition } from './generated/pluginregistration/Registration.ts';
import { checkSocketFile } from './plugin-connection.ts';
import { checkSocketPath } from './plugin-registration.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import { RegistrarClient } from './registrar-client.ts';
import { checkPluginInfo } from './registrar-info.ts';

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 120_000;
/** How long a plugin may take to answer at its endpoint. */
const ANSWER_MS = 10_000;

export interface RegistrarSessionOptions {
  readonly socketPath: string;
  readonly definition: RegistrationDefinition;
  readonly registry: Pick<PluginRegistry, 'register' | 'deregister' | 'report' | 'unreport' | 'settled'>;
  readonly log: Logger;
  readonly answerMs?: number | undefined;
}

/** Serves one registrar until closed. */
export class RegistrarSession {
  readonly #options: RegistrarSessionOptions;
  readonly #key: string;
  /** Key of what lists say while the registrar is not served. */
  readonly #refusalKey: string;
  readonly #stop = new AbortController();
  readonly #tried = Promise.withResolvers<void>();
  #work: Promise<void> | undefined;

  constructor(options: RegistrarSessionOptions) {
    this.#options = options;
    this.#key = `registrar:${options.socketPath}`;
    this.#refusalKey = `refused:${this.#key}`;
  }

  /** Settles when the registrar had its first verdict, or could not be given one. */
  get tried(): Promise<void> {
    return this.#tried.promise;
  }

  open(): void {
    this.#work ??= this.#run(this.#stop.signal);
  }

  /** Takes the registration back. */
  async close(): Promise<void> {
    this.#stop.abort(new RuntimeError('CANCELLED', `registrar socket ${this.#options.socketPath} is gone`));
    await this.#work;
    this.#options.registry.deregister(this.#key);
    this.#options.registry.unreport(this.#refusalKey);
  }

  async #run(signal: AbortSignal): Promise<void> {
    let pauseMs = FIRST_PAUSE_MS;
    while (!signal.aborted && !(await this.#attempt(signal))) {
      await sleep(pauseMs, undefined, { ref: false, signal }).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
      pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2);
    }
    this.#tried.resolve();
  }

  /** True when the plugin is registered and its registrar knows. */
  async #attempt(signal: AbortSignal): Promise<boolean> {
    const { socketPath, registry, log } = this.#options;
    let client: RegistrarClient | undefined;
    try {
      checkSocketPath('socket', socketPath);
      client = new RegistrarClient(this.#options.definition, socketPath);
      const name = await this.#register(client, signal);
      await client.notify(undefined, signal);
      log.info({ plugin: name, registrar: socketPath }, 'plugin registered by its registrar');
      registry.unreport(this.#refusalKey);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      const { message } = RuntimeError.from(error, 'registration');
      registry.deregister(this.#key);
      registry.report({ key: this.#refusalKey, source: 'registrar', origin: socketPath, reason: message });
      log.warn({ registrar: socketPath, reason: message }, 'registrar was not served');
      return false;
    } finally {
      client?.close();
      this.#tried.resolve();
    }
  }

  /** Registers what the registrar announces; tells it when that cannot be. */
  async #register(client: RegistrarClient, signal: AbortSignal): Promise<string> {
    const { socketPath, registry, answerMs = ANSWER_MS } = this.#options;
    const info = await client.getInfo(signal);
    try {
      const { name, endpoint } = checkPluginInfo(info, socketPath);
      checkSocketFile(endpoint);
      registry.register({
        key: this.#key,
        source: 'registrar',
        origin: socketPath,
        name,
        sockets: [{ path: endpoint }],
      });
      return await registry.settled(this.#key, AbortSignal.any([signal, AbortSignal.timeout(answerMs)]));
    } catch (error) {
      if (!signal.aborted) await this.#refuse(client, RuntimeError.from(error, 'registration').message, signal);
      throw error;
    }
  }

  /** A registrar that does not hear that it was refused is none the worse for it. */
  async #refuse(client: RegistrarClient, reason: string, signal: AbortSignal): Promise<void> {
    this.#options.registry.deregister(this.#key);
    try {
      await client.notify(reason, signal);
    } catch (error) {
      this.#options.log.debug({ registrar: this.#options.socketPath, err: error }, 'refusal was not heard');
    }
  }
}
