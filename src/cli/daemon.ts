/**
 * Calls to berthd. Everything heavy (gRPC, protobuf, the descriptor of the API) is loaded here and only here, so that
 * help and usage errors come at once.
 */
import type { Client, ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import type { ContainersDefinition } from '../api/generated/berth/v1/Containers.ts';
import type { GroupSnapshotsDefinition } from '../api/generated/berth/v1/GroupSnapshots.ts';
import type { ImagesDefinition } from '../api/generated/berth/v1/Images.ts';
import type { IpamDefinition } from '../api/generated/berth/v1/Ipam.ts';
import type { NetworksDefinition } from '../api/generated/berth/v1/Networks.ts';
import type { PluginsDefinition } from '../api/generated/berth/v1/Plugins.ts';
import type { SnapshotsDefinition } from '../api/generated/berth/v1/Snapshots.ts';
import type { SystemDefinition } from '../api/generated/berth/v1/System.ts';
import type { VolumeClassesDefinition } from '../api/generated/berth/v1/VolumeClasses.ts';
import type { VolumesDefinition } from '../api/generated/berth/v1/Volumes.ts';
import type { codecOf } from './codec.ts';
import { CallFailure } from './failure.ts';
import { whyUnreachable } from './unreachable.ts';

interface Services {
  readonly System: SystemDefinition;
  readonly Images: ImagesDefinition;
  readonly Containers: ContainersDefinition;
  readonly Networks: NetworksDefinition;
  readonly Volumes: VolumesDefinition;
  readonly VolumeClasses: VolumeClassesDefinition;
  readonly Snapshots: SnapshotsDefinition;
  readonly GroupSnapshots: GroupSnapshotsDefinition;
  readonly Plugins: PluginsDefinition;
  readonly Ipam: IpamDefinition;
}
type Service = keyof Services;
/** The methods a generated service definition names. */
type Method<S extends Service> = keyof {
  [M in keyof Services[S] as string extends M ? never : number extends M ? never : M]: M;
} &
  keyof Services[S] &
  string;
type Request<S extends Service, M extends Method<S>> =
  Services[S][M] extends MethodDefinition<infer Q, infer _A, infer _B, infer _C> ? Q : never;
type Response<S extends Service, M extends Method<S>> =
  Services[S][M] extends MethodDefinition<infer _Q, infer _A, infer _B, infer R> ? R : never;

/** gRPC status numbers that are told apart here. */
export const STATUS = { CANCELLED: 1, NOT_FOUND: 5, FAILED_PRECONDITION: 9, UNAVAILABLE: 14 } as const;
/** Trailing metadata that holds 126 or 127 when a container's command cannot be executed. */
const EXIT_CODE_KEY = 'berth-exit-code';
/** Trailing metadata of every failure that berthd itself reports: without it nobody may have answered at all. */
const CODE_KEY = 'berth-code';
/** A connection to a daemon. */
export class Daemon {
  readonly #socketPath: string;
  readonly #client: Client;
  readonly #codecOf: typeof codecOf;

  private constructor(socketPath: string, client: Client, codec: typeof codecOf) {
    this.#socketPath = socketPath;
    this.#client = client;
    this.#codecOf = codec;
  }

  /** A client for the daemon at this socket; nothing is sent before the first call. */
  static async at(socketPath: string): Promise<Daemon> {
    // The default export: of a package for CommonJS that was bundled, there is no other.
    const [{ default: grpc }, codec] = await Promise.all([import('@grpc/grpc-js'), import('./codec.ts')]);
    const client = new grpc.Client(`unix:${socketPath}`, grpc.credentials.createInsecure(), {
      'grpc.enable_http_proxy': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.max_receive_message_length': -1,
    });
    return new Daemon(socketPath, client, codec.codecOf);
  }

  /** One call with one answer. @throws {CallFailure} */
  async call<S extends Service, M extends Method<S>>(
    service: S,
    method: M,
    request: Request<S, M>,
  ): Promise<Response<S, M>> {
    const { path, encode, decode } = this.#codecOf<Request<S, M>, Response<S, M>>(service, method);
    const { promise, resolve, reject } = Promise.withResolvers<Response<S, M>>();
    this.#client.makeUnaryRequest(path, encode, decode, request, (error, answer) => {
      if (error !== null || answer === undefined) reject(error ?? new Error('no answer'));
      else resolve(answer);
    });
    try {
      return await promise;
    } catch (error) {
      throw await this.#failure(error);
    }
  }

  /** One call with many answers; it ends when `signal` aborts. @throws {CallFailure} while it is read */
  async *stream<S extends Service, M extends Method<S>>(
    service: S,
    method: M,
    request: Request<S, M>,
    signal?: AbortSignal,
  ): AsyncGenerator<Response<S, M>> {
    const { path, encode, decode } = this.#codecOf<Request<S, M>, Response<S, M>>(service, method);
    const stream: ClientReadableStream<Response<S, M>> = this.#client.makeServerStreamRequest(
      path,
      encode,
      decode,
      request,
    );
    const cancel = (): void => stream.cancel();
    if (signal?.aborted === true) cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      for await (const message of stream) yield message;
    } catch (error) {
      throw await this.#failure(error);
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  close(): void {
    this.#client.close();
  }

  async #failure(error: unknown): Promise<unknown> {
    if (!isServiceError(error)) return error;
    const answered = error.metadata.get(CODE_KEY).length > 0;
    const reason = error.code === STATUS.UNAVAILABLE && !answered ? await whyUnreachable(this.#socketPath) : undefined;
    const [exitCode] = error.metadata.get(EXIT_CODE_KEY);
    return new CallFailure(error.code, reason ?? error.details, {
      cause: error,
      ...(exitCode === undefined ? {} : { exitCode: Number(exitCode) }),
    });
  }
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && 'details' in error && 'metadata' in error && 'code' in error;
}
