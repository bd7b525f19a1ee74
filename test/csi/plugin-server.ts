/**
 * Servers without volumes for tests of how plugins are met: a plugin whose services are chosen, and a registrar of the
 * plugin registration protocol, both on real sockets. What arrives is recorded.
 */
import { existsSync, unlinkSync } from 'node:fs';
import { Server, ServerCredentials, type UntypedServiceImplementation } from '@grpc/grpc-js';
import { loadCsi } from '../../src/csi/protocol.ts';
import { loadRegistration } from '../../src/csi/registrar-client.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';

type Answer = Record<string, unknown>;
type Handler = (request: Answer) => Answer | Promise<Answer>;

export interface PluginServerOptions {
  readonly path: string;
  readonly name: string;
  /** What GetPluginCapabilities tells, whatever is served. */
  readonly services?: readonly string[];
  /** Capabilities of each service that is served. */
  readonly controller?: readonly string[];
  readonly node?: readonly string[];
  readonly groupController?: readonly string[];
  /** Handlers in place of the usual ones. */
  readonly handlers?: Readonly<Record<string, Handler>>;
}

/** A server on a socket that can be stopped and left behind. */
class TestServer {
  readonly path: string;
  readonly calls: string[] = [];
  readonly authorities = new Set<string>();
  protected readonly server: Server = new Server();

  constructor(path: string) {
    this.path = path;
  }

  protected add(service: Parameters<Server['addService']>[0], handlers: Readonly<Record<string, Handler>>): void {
    const wrapped: UntypedServiceImplementation = {};
    for (const [rpc, handler] of Object.entries(handlers)) {
      wrapped[rpc] = (
        call: { request: Answer; getHost(): string },
        done: (error: Error | null, answer?: Answer) => void,
      ) => {
        this.calls.push(rpc);
        this.authorities.add(call.getHost());
        Promise.resolve(call.request)
          .then(handler)
          .then(
            (answer) => done(null, answer),
            (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
          );
      };
    }
    this.server.addService(service, wrapped);
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.server.bindAsync(`unix:${this.path}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
  }

  /** Ends as a process that cleans up: the socket goes. */
  stop(): void {
    this.server.forceShutdown();
    if (existsSync(this.path)) unlinkSync(this.path);
  }
}

export class PluginServer extends TestServer {
  /** What Probe says. */
  ready = true;
  /** Fields of NodeGetInfo. */
  node: Answer = { nodeId: 'node-1' };
  /** What GetPluginInfo tells. */
  info: Answer;

  constructor(options: PluginServerOptions) {
    super(options.path);
    this.info = { name: options.name, vendorVersion: '1.0' };
    const { controller, node, groupController, services = [], handlers = {} } = options;
    const csi = loadCsi();
    const rpcs = (names: readonly string[]): Answer => ({ capabilities: names.map((type) => ({ rpc: { type } })) });
    const add = (service: string, usual: Record<string, Handler>): void => {
      const definition = csi.service(service);
      this.add(
        definition,
        Object.fromEntries(Object.entries(usual).map(([rpc, handler]) => [rpc, handlers[rpc] ?? handler])),
      );
    };
    add('Identity', {
      GetPluginInfo: () => this.info,
      Probe: () => ({ ready: { value: this.ready } }),
      GetPluginCapabilities: () => ({ capabilities: services.map((type) => ({ service: { type } })) }),
    });
    if (controller !== undefined) {
      add('Controller', {
        ControllerGetCapabilities: () => rpcs(controller),
        CreateVolume: () => ({ volume: { volumeId: `made at ${options.path}` } }),
      });
    }
    if (node !== undefined) {
      add('Node', {
        NodeGetCapabilities: () => rpcs(node),
        NodeGetInfo: () => this.node,
        NodeUnpublishVolume: () => ({}),
      });
    }
    if (groupController !== undefined) {
      add('GroupController', {
        GroupControllerGetCapabilities: () => rpcs(groupController),
        GetVolumeGroupSnapshot: () => ({}),
      });
    }
  }
}

export async function startPlugin(t: TestScope, options: PluginServerOptions): Promise<PluginServer> {
  const server = new PluginServer(options);
  cleanup(t, () => server.stop());
  await server.listen();
  return server;
}

export interface RegistrarOptions {
  readonly path: string;
  readonly info: Answer;
  readonly handlers?: Readonly<Record<string, Handler>>;
}

/** Announces a plugin as node-driver-registrar does: it serves Registration and nothing else, and waits to be told. */
export class RegistrarServer extends TestServer {
  /** What it was told, in order. */
  readonly verdicts: { readonly pluginRegistered: unknown; readonly error: unknown }[] = [];

  constructor({ path, info, handlers = {} }: RegistrarOptions) {
    super(path);
    const tell: Handler = ({ pluginRegistered, error }) => {
      this.verdicts.push({ pluginRegistered, error });
      return {};
    };
    this.add(loadRegistration(), {
      GetInfo: handlers['GetInfo'] ?? (() => info),
      NotifyRegistrationStatus: handlers['NotifyRegistrationStatus'] ?? tell,
    });
  }
}

export async function startRegistrar(t: TestScope, options: RegistrarOptions): Promise<RegistrarServer> {
  const server = new RegistrarServer(options);
  cleanup(t, () => server.stop());
  await server.listen();
  return server;
}
