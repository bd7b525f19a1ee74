/**
 * A client of Berth's API for tests: what is faster than starting the command line for each of a hundred containers,
 * and shows the answers as they are on the wire. Methods and messages are those of api-proto/berth.proto.
 */
import { Client, credentials, type ServiceDefinition } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import type { ContainerSpec } from '../../src/api/generated/berth/v1/ContainerSpec.ts';
import type { ContainersDefinition } from '../../src/api/generated/berth/v1/Containers.ts';
import type { ImagesDefinition } from '../../src/api/generated/berth/v1/Images.ts';
import type { NetworksDefinition } from '../../src/api/generated/berth/v1/Networks.ts';
import type { PluginsDefinition } from '../../src/api/generated/berth/v1/Plugins.ts';
import type { SystemDefinition } from '../../src/api/generated/berth/v1/System.ts';
import type { VolumesDefinition } from '../../src/api/generated/berth/v1/Volumes.ts';
import { serviceDefinitions } from '../../src/api/protocol.ts';

/** Request and response of a method. */
type Messages<M> =
  M extends MethodDefinition<infer Request, infer _Response, infer _Received, infer Output>
    ? { readonly request: Request; readonly output: Output }
    : never;

/** Options of one call. */
export interface CallOptions {
  /** 60,000 unless given. */
  readonly timeoutMs?: number;
  /** Cancels the call. */
  readonly signal?: AbortSignal;
}

/** One service of the API. */
class Service<D> {
  readonly #client: Client;
  readonly #methods: ServiceDefinition;

  constructor(client: Client, name: string) {
    this.#client = client;
    const methods = serviceDefinitions().get(name);
    if (methods === undefined) throw new Error(`the API has no service ${name}`);
    this.#methods = methods;
  }

  /** @throws a ServiceError of grpc-js with the status */
  call<M extends keyof D & string>(
    method: M,
    request: Messages<D[M]>['request'],
    options: CallOptions = {},
  ): Promise<Messages<D[M]>['output']> {
    const { promise, resolve, reject } = Promise.withResolvers<Messages<D[M]>['output']>();
    const { path, requestSerialize, responseDeserialize } = this.#method(method);
    const deadline = Date.now() + (options.timeoutMs ?? 60_000);
    const call = this.#client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      { deadline },
      (error, value) => (error === null ? resolve(value) : reject(error)),
    );
    options.signal?.addEventListener('abort', () => call.cancel(), { once: true });
    return promise;
  }

  /** The call is under way when this returns; leaving the loop early cancels it. */
  stream<M extends keyof D & string>(
    method: M,
    request: Messages<D[M]>['request'],
    options: CallOptions = {},
  ): AsyncIterable<Messages<D[M]>['output']> {
    const { path, requestSerialize, responseDeserialize } = this.#method(method);
    const deadline = Date.now() + (options.timeoutMs ?? 60_000);
    const call = this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, {
      deadline,
    });
    options.signal?.addEventListener('abort', () => call.cancel(), { once: true });
    return call;
  }

  #method(name: string): ServiceDefinition[string] {
    const method = this.#methods[name];
    if (method === undefined) throw new Error(`the API has no method ${name}`);
    return method;
  }
}

/** How a container ended that was run to its end. */
export interface RunResult {
  readonly id: string;
  readonly name: string;
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  /** With autoRemove: everything it held is given back. */
  readonly removed: boolean;
}

/** All services, over one connection. */
export class ApiClient {
  readonly system: Service<SystemDefinition>;
  readonly images: Service<ImagesDefinition>;
  readonly containers: Service<ContainersDefinition>;
  readonly networks: Service<NetworksDefinition>;
  readonly volumes: Service<VolumesDefinition>;
  readonly plugins: Service<PluginsDefinition>;
  readonly #client: Client;

  constructor(socketPath: string) {
    this.#client = new Client(`unix://${socketPath}`, credentials.createInsecure(), {
      'grpc.default_authority': 'localhost',
      // A daemon that was started again is found at once.
      'grpc.initial_reconnect_backoff_ms': 50,
      'grpc.max_reconnect_backoff_ms': 200,
      // Several clients of one process must not share a connection.
      'grpc.use_local_subchannel_pool': 1,
    });
    this.system = new Service(this.#client, 'System');
    this.images = new Service(this.#client, 'Images');
    this.containers = new Service(this.#client, 'Containers');
    this.networks = new Service(this.#client, 'Networks');
    this.volumes = new Service(this.#client, 'Volumes');
    this.plugins = new Service(this.#client, 'Plugins');
  }

  /** Runs a container to its end and, with `autoRemove`, until it is removed. */
  async run(spec: ContainerSpec, options: CallOptions = {}): Promise<RunResult> {
    let result: RunResult = { id: '', name: '', exitCode: -1, stdout: '', stderr: '', removed: false };
    const output = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
    for await (const event of this.containers.stream('Run', { spec, detach: false }, options)) {
      if (event.started) result = { ...result, id: event.started.id, name: event.started.name };
      if (event.stdout) output.stdout.push(event.stdout);
      if (event.stderr) output.stderr.push(event.stderr);
      if (event.exit) result = { ...result, exitCode: event.exit.code };
      if (event.removed) result = { ...result, removed: true };
    }
    const text = (chunks: readonly Uint8Array[]): string => Buffer.concat(chunks).toString('utf8');
    return { ...result, stdout: text(output.stdout), stderr: text(output.stderr) };
  }

  /** Starts a container and returns its id once user code runs. */
  async start(spec: ContainerSpec, options: CallOptions = {}): Promise<string> {
    let id = '';
    for await (const event of this.containers.stream('Run', { spec, detach: true }, options)) {
      if (event.started) id = event.started.id;
    }
    return id;
  }

  close(): void {
    this.#client.close();
  }
}
