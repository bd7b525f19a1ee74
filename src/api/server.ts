/**
 * Berth's API on a unix socket: who may connect, how much a caller may cost, and how it ends. What the methods do is
 * the services' business.
 */
import { once } from 'node:events';
import type { Socket, Server as SocketServer } from 'node:net';
import { Server as GrpcServer, ServerCredentials, type ServerOptions } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { listenAt } from '../unix-socket.ts';
import type { ContainersDefinition } from './generated/berth/v1/Containers.ts';
import type { GroupSnapshotsDefinition } from './generated/berth/v1/GroupSnapshots.ts';
import type { ImagesDefinition } from './generated/berth/v1/Images.ts';
import type { IpamDefinition } from './generated/berth/v1/Ipam.ts';
import type { NetworksDefinition } from './generated/berth/v1/Networks.ts';
import type { PluginsDefinition } from './generated/berth/v1/Plugins.ts';
import type { SnapshotsDefinition } from './generated/berth/v1/Snapshots.ts';
import type { SystemDefinition } from './generated/berth/v1/System.ts';
import type { VolumeClassesDefinition } from './generated/berth/v1/VolumeClasses.ts';
import type { VolumesDefinition } from './generated/berth/v1/Volumes.ts';
import { cutHalfSentCalls } from './half-sent-calls.ts';
import { methodHandlers } from './method-handlers.ts';
import { type ServiceMethods, serviceDefinitions } from './protocol.ts';

/** What a caller may cost. */
const LIMITS = {
  'grpc.max_receive_message_length': 1024 * 1024,
  'grpc.max_concurrent_streams': 256,
  'grpc.max_connection_idle_ms': 60_000,
  // Calls under way go on: the caller is asked to open a new connection for the next one.
  'grpc.max_connection_age_ms': 3_600_000,
  // MiB per connection.
  'grpc-node.max_session_memory': 16,
} as const satisfies ServerOptions;
const REQUEST_MS = 10_000;
const DRAIN_MS = 10_000;
/** For the statuses of calls that were cut. */
const LAST_WORDS_MS = 500;

/** The implementation of each service of api-proto/berth.proto. */
export interface ApiServices {
  readonly System: ServiceMethods<SystemDefinition>;
  readonly Images: ServiceMethods<ImagesDefinition>;
  readonly Containers: ServiceMethods<ContainersDefinition>;
  readonly Networks: ServiceMethods<NetworksDefinition>;
  readonly Volumes: ServiceMethods<VolumesDefinition>;
  readonly VolumeClasses: ServiceMethods<VolumeClassesDefinition>;
  readonly Snapshots: ServiceMethods<SnapshotsDefinition>;
  readonly GroupSnapshots: ServiceMethods<GroupSnapshotsDefinition>;
  readonly Plugins: ServiceMethods<PluginsDefinition>;
  readonly Ipam: ServiceMethods<IpamDefinition>;
}

export interface ApiServerOptions {
  /** Absolute path of the socket, at most 107 bytes. */
  readonly socketPath: string;
  readonly services: Partial<ApiServices>;
  readonly log: Logger;
  /** How long calls may take to end after stop() was called; 10,000 unless given. */
  readonly drainMs?: number;
  /** How long the request of a call may take to arrive; 10,000 unless given. */
  readonly requestMs?: number;
}

/** Serves from `start` until `stop`. */
export class ApiServer {
  readonly #socketPath: string;
  readonly #services: Partial<ApiServices>;
  readonly #log: Logger;
  readonly #drainMs: number;
  readonly #grpc: GrpcServer;
  readonly #stopping = new AbortController();
  readonly #ended = new AbortController();
  readonly #connections = new Set<Socket>();
  #sockets: SocketServer | undefined;
  #injector: ReturnType<GrpcServer['createConnectionInjector']> | undefined;
  #stopped: Promise<void> | undefined;

  constructor(options: ApiServerOptions) {
    this.#socketPath = options.socketPath;
    this.#services = options.services;
    this.#log = options.log.child({ component: 'api' });
    this.#drainMs = options.drainMs ?? DRAIN_MS;
    const interceptors = [cutHalfSentCalls(options.requestMs ?? REQUEST_MS)];
    this.#grpc = new GrpcServer({ ...LIMITS, interceptors });
  }

  /** @throws {RuntimeError} FAILED_PRECONDITION when the socket's path is taken (unix-socket.ts) */
  async start(signal: AbortSignal): Promise<void> {
    const ending = { stopping: this.#stopping.signal, ended: this.#ended.signal };
    for (const [name, definition] of serviceDefinitions()) {
      const methods: unknown = Reflect.get(this.#services, name);
      if (typeof methods !== 'object' || methods === null) continue;
      this.#grpc.addService(definition, methodHandlers(definition, methods, ending, this.#log));
    }
    const injector = this.#grpc.createConnectionInjector(ServerCredentials.createInsecure());
    this.#injector = injector;
    const accept = (socket: Socket): void => {
      this.#connections.add(socket);
      socket.once('close', () => this.#connections.delete(socket));
      injector.injectConnection(socket);
    };
    this.#sockets = await listenAt(this.#socketPath, accept, signal);
    this.#sockets.on('error', (error) => this.#log.error({ err: error }, 'socket failed'));
    this.#log.info({ socketPath: this.#socketPath }, 'listening');
  }

  /** Stops accepting, ends calls that only wait, lets others finish within the bound, then cuts them. Idempotent. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    const reason = new RuntimeError('UNAVAILABLE', 'berthd is shutting down');
    this.#stopping.abort(reason);
    const sockets = this.#sockets;
    if (sockets === undefined) return;
    // Emitted when the last connection has ended; each ends when its last call has.
    const closed = once(sockets, 'close');
    sockets.close();
    this.#injector?.drain(this.#drainMs + LAST_WORDS_MS);
    const cut = setTimeout(() => {
      this.#log.warn({ drainMs: this.#drainMs, connections: this.#connections.size }, 'calls did not end in time');
      this.#ended.abort(reason);
    }, this.#drainMs);
    // gRPC ends the connections it knows; one that never said a word is none of them.
    const hangUp = setTimeout(() => {
      for (const socket of this.#connections) socket.destroy();
    }, this.#drainMs + LAST_WORDS_MS);
    await closed;
    clearTimeout(cut);
    clearTimeout(hangUp);
    this.#grpc.forceShutdown();
    this.#log.info({ socketPath: this.#socketPath }, 'no longer listening');
  }
}
