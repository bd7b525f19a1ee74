/**
 * One registrar's socket and the two calls of the plugin registration protocol over it. Whoever announces a plugin
 * listens; Berth calls.
 */
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import { RuntimeError } from '../errors.ts';
import { serviceDefinitions } from '../service-definitions.ts';
import { codeOfStatus } from '../status.ts';
import type { PluginInfo__Output } from './generated/pluginregistration/PluginInfo.ts';
import type { RegistrationDefinition } from './generated/pluginregistration/Registration.ts';
import { descriptor } from './generated/registration-descriptor.ts';

/** What a registrar says of its plugin. */
export type PluginInfo = Readonly<Pick<PluginInfo__Output, 'type' | 'name' | 'endpoint' | 'supportedVersions'>>;

/** Longest answer taken; a lawful one has some hundred bytes. */
const MAX_RESPONSE_BYTES = 64 * 1024;
const DEADLINES_MS = { GetInfo: 5000, NotifyRegistrationStatus: 5000 } as const;

/** The plugin registration protocol. */
export function loadRegistration(): RegistrationDefinition {
  const service = serviceDefinitions(descriptor, 'pluginregistration').get('Registration');
  if (service === undefined) throw new RuntimeError('INTERNAL', 'no service Registration');
  // The file is Berth's own; the types were made from it.
  return service as unknown as RegistrationDefinition;
}

/** Calls over one socket; nothing is repeated. */
export class RegistrarClient {
  readonly #definition: RegistrationDefinition;
  readonly #socketPath: string;
  readonly #client: Client;

  constructor(definition: RegistrationDefinition, socketPath: string) {
    this.#definition = definition;
    this.#socketPath = socketPath;
    this.#client = new Client(`unix://${socketPath}`, credentials.createInsecure(), {
      'grpc.default_authority': 'localhost',
      'grpc.max_receive_message_length': MAX_RESPONSE_BYTES,
      'grpc.enable_retries': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.use_local_subchannel_pool': 1,
    });
  }

  /** @throws {RuntimeError} with the registrar's code, naming socket and call */
  getInfo(signal: AbortSignal): Promise<PluginInfo> {
    return this.#call('GetInfo', this.#definition.GetInfo, {}, signal);
  }

  /** Tells the verdict; `error` absent: the plugin was taken. @throws {RuntimeError} as {@link getInfo} */
  async notify(error: string | undefined, signal: AbortSignal): Promise<void> {
    const status = { pluginRegistered: error === undefined, error: error ?? '' };
    await this.#call('NotifyRegistrationStatus', this.#definition.NotifyRegistrationStatus, status, signal);
  }

  close(): void {
    this.#client.close();
  }

  async #call<Q extends object, P, I, O>(
    rpc: keyof typeof DEADLINES_MS,
    { path, requestSerialize, responseDeserialize }: MethodDefinition<Q, P, I, O>,
    request: Q,
    signal: AbortSignal,
  ): Promise<O> {
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<O>();
    const options = { deadline: Date.now() + DEADLINES_MS[rpc] };
    const done = (error: ServiceError | null, answer?: O): void => {
      if (error === null && answer !== undefined) resolve(answer);
      else reject(this.#failure(rpc, error));
    };
    const call = this.#client.makeUnaryRequest<Q, O>(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      new Metadata(),
      options,
      done,
    );
    const cancel = (): void => call.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    return promise.finally(() => signal.removeEventListener('abort', cancel));
  }

  #failure(rpc: string, error: ServiceError | null): RuntimeError {
    const reason = error?.details ?? 'no answer';
    const code = error === null ? 'INTERNAL' : codeOfStatus(error.code);
    return new RuntimeError(code, `${rpc} of the registrar at ${this.#socketPath}: ${reason}`, { cause: error });
  }
}
