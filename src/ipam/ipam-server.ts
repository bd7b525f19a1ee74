/**
 * Where the plugin executable (libexec/berth-ipam) hands in its calls: HTTP on a unix socket that only root can connect
 * to. One request a connection, and a connection lives for ten seconds at most.
 *
 *   POST /cni?CNI_COMMAND=ADD&CNI_CONTAINERID=...&CNI_IFNAME=...&CNI_ARGS=...     body: what the plugin got on stdin
 *   200  what the plugin prints; empty but for ADD
 *   400  a CNI error, which the plugin prints before it fails
 *
 * By hand: curl --unix-socket /run/berth/ipam.sock 'http://berth/cni?CNI_COMMAND=STATUS' --data-binary @network.json
 */
import { once } from 'node:events';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket, Server as SocketServer } from 'node:net';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { listenAt } from '../unix-socket.ts';
import type { Ipam } from './ipam.ts';
import { failureAnswer, IPAM_CODES, IpamError } from './ipam-error.ts';
import { readIpamRequest } from './ipam-request.ts';

// A static import would load all that node:http offers, its whole HTTP client among it, at each start of the daemon.
const { createServer } = process.getBuiltinModule('node:http');

/** A result with ten thousand routes takes a fifth of it. */
const MAX_BODY_BYTES = 4 * 1024 * 1024;
const MAX_HEADER_BYTES = 64 * 1024;
const CONNECTION_MS = 10_000;

/** Options of {@link IpamServer}. */
export interface IpamServerOptions {
  /** Absolute path of the socket, at most 107 bytes. */
  readonly socketPath: string;
  readonly ipam: Pick<Ipam, 'handle'>;
  readonly log: Logger;
  /** How long a connection may take; 10,000 unless given. */
  readonly connectionMs?: number;
}

/** Serves from `start` until `stop`. */
export class IpamServer {
  readonly #options: IpamServerOptions;
  readonly #log: Logger;
  readonly #http: Server;
  readonly #connections = new Set<Socket>();
  #sockets: SocketServer | undefined;

  constructor(options: IpamServerOptions) {
    this.#options = options;
    this.#log = options.log.child({ component: 'ipam' });
    this.#http = createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request, response) => {
      // A caller that went away needs no answer; what it began is settled by its DEL.
      this.#serve(request, response).catch((error) => this.#log.debug({ err: error }, 'IPAM call was cut'));
    });
  }

  /** @throws {RuntimeError} FAILED_PRECONDITION when the socket's path is taken (src/unix-socket.ts) */
  async start(signal: AbortSignal): Promise<void> {
    this.#sockets = await listenAt(this.#options.socketPath, (socket) => this.#accept(socket), signal);
    this.#sockets.on('error', (error) => this.#log.error({ err: error }, 'IPAM socket failed'));
    this.#log.info({ socketPath: this.#options.socketPath }, 'listening for IPAM plugins');
  }

  /** Stops accepting and cuts what has not been answered. Idempotent. */
  async stop(): Promise<void> {
    const sockets = this.#sockets;
    this.#sockets = undefined;
    if (sockets === undefined) return;
    const closed = once(sockets, 'close');
    sockets.close();
    for (const socket of this.#connections) socket.destroy();
    await closed;
  }

  #accept(socket: Socket): void {
    this.#connections.add(socket);
    const timer = setTimeout(() => socket.destroy(), this.#options.connectionMs ?? CONNECTION_MS);
    socket.once('close', () => {
      clearTimeout(timer);
      this.#connections.delete(socket);
    });
    this.#http.emit('connection', socket);
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://berth');
    const text = await this.#answer(request, url);
    response.writeHead(text.status, { 'content-type': 'application/json', connection: 'close' });
    response.end(text.body);
  }

  async #answer(request: IncomingMessage, url: URL): Promise<{ readonly status: number; readonly body: string }> {
    const variables = new Map(url.searchParams);
    const command = variables.get('CNI_COMMAND');
    const startedMs = performance.now();
    try {
      if (request.method !== 'POST' || url.pathname !== '/cni') {
        throw new IpamError(IPAM_CODES.environment, 'calls are POST /cni');
      }
      const stdin = await bodyOf(request);
      const result = this.#options.ipam.handle(readIpamRequest({ variables, stdin }));
      return { status: 200, body: result === undefined ? '' : `${JSON.stringify(result)}\n` };
    } catch (error) {
      const failure = IpamError.of(error);
      this.#log.warn({ err: failure, command, containerId: variables.get('CNI_CONTAINERID') }, 'IPAM call failed');
      return { status: 400, body: `${JSON.stringify(failureAnswer(failure))}\n` };
    } finally {
      const durationMs = Math.round(performance.now() - startedMs);
      this.#log.debug({ command, containerId: variables.get('CNI_CONTAINERID'), durationMs }, 'IPAM call ended');
    }
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) throw new RuntimeError('INTERNAL', 'a request came in as text');
    bytes += chunk.length;
    // The rest is read and dropped, so that the answer reaches a caller that is still writing.
    if (bytes <= MAX_BODY_BYTES) chunks.push(chunk);
  }
  if (bytes <= MAX_BODY_BYTES) return Buffer.concat(chunks).toString('utf8');
  throw new IpamError(IPAM_CODES.undecodable, `configuration: is longer than ${MAX_BODY_BYTES} bytes`);
}
