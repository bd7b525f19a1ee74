/**
 * One CSI socket and the calls over it. Owns the connection, deadlines, cancellation and what of a call reaches the log.
 * It repeats nothing and knows no volume: a failure is a CsiError with the plugin's own code, and what it means for the
 * volume is for the caller to judge (a call that timed out has an unknown outcome).
 */
import { Client, connectivityState, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import type { Logger } from 'pino';
import { type Code, invalid } from '../errors.ts';
import { codeOfStatus } from '../status.ts';
import { adviceFor } from './error-reactions.ts';
import { MAX_ANSWER_BYTES, MAX_RECEIVED_BYTES, OversizedAnswer } from './oversized-answer.ts';
import {
  type Csi,
  CsiError,
  type Request,
  type Response,
  type Rpc,
  type StreamRpc,
  type StringMap,
} from './protocol.ts';
import { redacted, withoutSecrets } from './redaction.ts';

/** Room in sockaddr_un; Node cuts longer paths without a word. */
const MAX_SOCKET_PATH_BYTES = 107;

/** Longest time a call may take, ms. Volumes may have to be made, copied, formatted or attached by slow machinery. */
const DEADLINES_MS: Readonly<Record<Rpc | StreamRpc, number>> = {
  GetPluginInfo: 10_000,
  GetPluginCapabilities: 10_000,
  Probe: 10_000,
  ControllerGetCapabilities: 10_000,
  CreateVolume: 120_000,
  DeleteVolume: 120_000,
  ControllerPublishVolume: 120_000,
  ControllerUnpublishVolume: 120_000,
  ValidateVolumeCapabilities: 60_000,
  ListVolumes: 60_000,
  GetCapacity: 60_000,
  ControllerGetVolume: 60_000,
  ControllerExpandVolume: 120_000,
  ControllerModifyVolume: 120_000,
  CreateSnapshot: 120_000,
  DeleteSnapshot: 120_000,
  ListSnapshots: 60_000,
  GetSnapshot: 60_000,
  NodeGetCapabilities: 10_000,
  NodeGetInfo: 10_000,
  NodeStageVolume: 120_000,
  NodeUnstageVolume: 60_000,
  NodePublishVolume: 60_000,
  NodeUnpublishVolume: 60_000,
  NodeGetVolumeStats: 20_000,
  NodeExpandVolume: 120_000,
  GroupControllerGetCapabilities: 10_000,
  CreateVolumeGroupSnapshot: 120_000,
  DeleteVolumeGroupSnapshot: 120_000,
  GetVolumeGroupSnapshot: 60_000,
  GetMetadataAllocated: 600_000,
  GetMetadataDelta: 600_000,
};

export interface CsiClientOptions {
  readonly csi: Csi;
  /** Absolute path of the plugin's socket. */
  readonly socketPath: string;
  readonly log: Logger;
  /** One deadline for all calls instead of the ones of each call. */
  readonly deadlineMs?: number | undefined;
}

/** Calls over one socket. Connects when first used and again after the plugin went away. */
export class CsiClient {
  readonly socketPath: string;
  readonly #options: CsiClientOptions;
  readonly #client: Client;
  #plugin: string;
  #closed = false;

  /** @throws {RuntimeError} INVALID_ARGUMENT when the path is too long for a socket */
  constructor(options: CsiClientOptions) {
    const { socketPath } = options;
    if (Buffer.byteLength(socketPath) > MAX_SOCKET_PATH_BYTES) {
      throw invalid('socket', `${socketPath} has more than ${MAX_SOCKET_PATH_BYTES} bytes`);
    }
    this.#options = options;
    this.socketPath = socketPath;
    this.#plugin = socketPath;
    this.#client = new Client(`unix://${socketPath}`, credentials.createInsecure(), {
      // Servers refuse the escaped socket path that would be sent otherwise.
      'grpc.default_authority': 'localhost',
      'grpc.max_receive_message_length': MAX_RECEIVED_BYTES,
      // A call is repeated by its owner or not at all.
      'grpc.enable_retries': 0,
      'grpc.service_config_disable_resolution': 1,
      // A plugin that comes back is found soon, and no other client's failure holds this one up.
      'grpc.use_local_subchannel_pool': 1,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1000,
      // A connection that nobody uses still tells whether the plugin lives.
      'grpc.client_idle_timeout_ms': 2 ** 31 - 1,
    });
  }

  /** The plugin's name in errors and logs from now on. */
  named(plugin: string): void {
    this.#plugin = plugin;
  }

  /**
   * One call with its deadline. An aborted signal cancels it, which does not stop the plugin.
   * @throws {CsiError} with the plugin's code; CANCELLED or DEADLINE_EXCEEDED when cut short
   */
  async call<R extends Rpc>(rpc: R, request: Request<R>, signal: AbortSignal): Promise<Response<R>> {
    const startedMs = performance.now();
    let code: Code | 'OK' = 'OK';
    try {
      signal.throwIfAborted();
      return await this.#send(rpc, request, signal);
    } catch (error) {
      const failure = this.#failure(rpc, request, error, signal);
      code = failure.code;
      throw failure;
    } finally {
      this.#log(rpc, request, code, Math.round(performance.now() - startedMs));
    }
  }

  /**
   * A call that is answered by a stream of messages, each given when asked for. Only the normal end of the iteration
   * means that all was told (CSI GetMetadataAllocated). An aborted signal, or leaving the loop, cancels it.
   * @throws {CsiError} as {@link CsiClient.call}, between two messages
   */
  async *stream<R extends StreamRpc>(rpc: R, request: Request<R>, signal: AbortSignal): AsyncGenerator<Response<R>> {
    const startedMs = performance.now();
    let code: Code | 'OK' = 'OK';
    const definition = definitionOf(this.#options.csi, rpc);
    const deadline = Date.now() + (this.#options.deadlineMs ?? DEADLINES_MS[rpc]);
    let cancel: () => void = () => undefined;
    try {
      signal.throwIfAborted();
      const call = this.#client.makeServerStreamRequest<Request<R>, Response<R>>(
        definition.path,
        definition.requestSerialize,
        definition.responseDeserialize,
        request,
        new Metadata(),
        { deadline },
      );
      cancel = () => call.cancel();
      signal.addEventListener('abort', cancel, { once: true });
      yield* call;
    } catch (error) {
      const failure = this.#failure(rpc, request, error, signal);
      code = failure.code;
      throw failure;
    } finally {
      signal.removeEventListener('abort', cancel);
      cancel();
      this.#log(rpc, request, code, Math.round(performance.now() - startedMs));
    }
  }

  /** One Probe: true when the plugin is ready, false while it is starting. */
  async probe(signal: AbortSignal): Promise<boolean> {
    const { ready } = await this.call('Probe', {}, signal);
    // Absent means ready (CSI Probe).
    return ready?.value ?? true;
  }

  /** Settles when the connection that is up now has gone; at once when there is none. */
  disconnected(): Promise<void> {
    const channel = this.#client.getChannel();
    const up = connectivityState.READY;
    if (channel.getConnectivityState(false) !== up) return Promise.resolve();
    return new Promise((resolve) => channel.watchConnectivityState(up, Number.POSITIVE_INFINITY, () => resolve()));
  }

  /** No call starts after this; those under way end by themselves. */
  close(): void {
    this.#closed = true;
    this.#client.close();
  }

  #send<R extends Rpc>(rpc: R, request: Request<R>, signal: AbortSignal): Promise<Response<R>> {
    const definition = definitionOf(this.#options.csi, rpc);
    const deadline = Date.now() + (this.#options.deadlineMs ?? DEADLINES_MS[rpc]);
    return new Promise((resolve, reject) => {
      let begun = false;
      const cancel = (): void => call.cancel();
      const call = this.#client.makeUnaryRequest<Request<R>, Response<R> | OversizedAnswer>(
        definition.path,
        definition.requestSerialize,
        sized(definition.responseDeserialize, (bytes) => new OversizedAnswer(this.#plugin, rpc, bytes)),
        request,
        new Metadata(),
        { deadline },
        (error, response) => {
          signal.removeEventListener('abort', cancel);
          if (error !== null)
            reject(begun && tooLong(error) ? new OversizedAnswer(this.#plugin, rpc, undefined) : error);
          else if (response instanceof OversizedAnswer) reject(response);
          else if (response === undefined) reject(new Error('no answer'));
          else resolve(response);
        },
      );
      call.once('metadata', () => {
        begun = true;
      });
      signal.addEventListener('abort', cancel, { once: true });
    });
  }

  #log(rpc: Rpc | StreamRpc, request: object, code: Code | 'OK', durationMs: number): void {
    const { log } = this.#options;
    if (!log.isLevelEnabled('debug')) return;
    log.debug({ plugin: this.#plugin, rpc, code, durationMs, request: redacted(rpc, request) }, 'CSI call');
  }

  #failure(rpc: Rpc | StreamRpc, request: object, error: unknown, signal: AbortSignal): CsiError {
    if (signal.aborted) return cutShort(this.#plugin, rpc, signal);
    if (this.#closed) {
      return new CsiError('UNAVAILABLE', this.#plugin, rpc, 'the connection was closed', { cause: error });
    }
    if (error instanceof OversizedAnswer) return error;
    if (!isServiceError(error)) {
      return new CsiError('INTERNAL', this.#plugin, rpc, error instanceof Error ? error.message : String(error), {
        cause: error,
      });
    }
    const code = codeOfStatus(error.code);
    const said = withoutSecrets(error.details, secretsOf(request)) || 'no reason given';
    const advice = adviceFor(rpc, code);
    // The cause is left out where it could carry a secret into a log.
    return new CsiError(code, this.#plugin, rpc, advice === undefined ? said : `${said} (${advice})`);
  }
}

/** The failure of a call whose caller stopped waiting. */
export function cutShort(plugin: string, rpc: Rpc | StreamRpc, { reason }: AbortSignal): CsiError {
  const timedOut = reason instanceof Error && reason.name === 'TimeoutError';
  const code = timedOut ? 'DEADLINE_EXCEEDED' : 'CANCELLED';
  return new CsiError(code, plugin, rpc, timedOut ? 'the deadline passed' : 'cancelled', { cause: reason });
}

function definitionOf<R extends Rpc | StreamRpc>(
  csi: Csi,
  rpc: R,
): MethodDefinition<Request<R>, unknown, unknown, Response<R>> {
  // The compiler cannot see that the messages inferred from an entry are those of the entry.
  return csi.calls[rpc] as unknown as MethodDefinition<Request<R>, unknown, unknown, Response<R>>;
}

/** Reads an answer unless it is too long. A deserializer that throws would lose what it has seen. */
function sized<T>(
  deserialize: (bytes: Buffer) => T,
  refuse: (bytes: Buffer) => OversizedAnswer,
): (bytes: Buffer) => T | OversizedAnswer {
  return (bytes) => (bytes.length > MAX_ANSWER_BYTES ? refuse(bytes) : deserialize(bytes));
}

/**
 * A plugin that refuses sends its status alone. So this code after the head of an answer is the receiver's own: the answer
 * is longer than it may be.
 */
function tooLong({ code }: ServiceError): boolean {
  return codeOfStatus(code) === 'RESOURCE_EXHAUSTED';
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && 'code' in error && 'details' in error && typeof error.code === 'number';
}

function secretsOf(request: object): StringMap {
  if (!('secrets' in request) || typeof request.secrets !== 'object' || request.secrets === null) return {};
  return Object.fromEntries(Object.entries(request.secrets).filter(([, value]) => typeof value === 'string'));
}
