/**
 * Turns async generators into gRPC handlers that answer by a stream: each value is a message, a throw a status. Unlike a
 * plain call a stream ends when its caller goes away or the driver is to end, since it only reads.
 */
import { once } from 'node:events';
import type { ServerWritableStream, ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import type { Logger } from 'pino';
import { RuntimeError } from '../../errors.ts';
import { statusOf } from '../../status.ts';

/** Functions by RPC name, for those RPCs of a service that are served. */
export type StreamHandlers<D> = {
  readonly [K in keyof D as string extends K ? never : K]?: D[K] extends MethodDefinition<
    infer _Q,
    infer Answer,
    infer Request,
    infer _A
  >
    ? (request: Request, signal: AbortSignal) => AsyncIterable<Answer>
    : never;
};

type AnyHandler = (request: unknown, signal: AbortSignal) => AsyncIterable<unknown>;
type Call = ServerWritableStream<unknown, unknown>;

/** What grpc-js takes for a service whose calls are answered by streams, until `ending` aborts. */
export function streamingImplementation<D extends ServiceDefinition>(
  handlers: StreamHandlers<D>,
  log: Logger,
  ending: AbortSignal,
): UntypedServiceImplementation {
  const entries = Object.entries<AnyHandler>(handlers as Record<string, AnyHandler>);
  return Object.fromEntries(
    entries.map(([rpc, handler]) => [
      rpc,
      (call: Call): void => {
        void serve({ rpc, handler, log, ending }, call);
      },
    ]),
  );
}

interface Stream {
  readonly rpc: string;
  readonly handler: AnyHandler;
  readonly log: Logger;
  readonly ending: AbortSignal;
}

/** Never rejects. */
async function serve({ rpc, handler, log, ending }: Stream, call: Call): Promise<void> {
  const gone = new AbortController();
  call.once('cancelled', () => gone.abort());
  const signal = AbortSignal.any([gone.signal, ending]);
  try {
    for await (const message of handler(call.request, signal)) {
      if (!call.write(message)) await once(call, 'drain', { signal });
    }
    call.end();
  } catch (error) {
    if (gone.signal.aborted) return;
    const failure = RuntimeError.from(error, rpc);
    log[failure.code === 'INTERNAL' ? 'error' : 'debug']({ rpc, code: failure.code, err: failure }, 'stream failed');
    call.emit('error', statusOf(error));
  }
}
