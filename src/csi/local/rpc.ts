/**
 * Turns plain async functions into gRPC handlers: a result becomes the answer, a throw becomes a status. Counts the
 * calls under way, so that the driver can end after the last of them. A caller that goes away stops nothing (CSI
 * "Timeouts"): the call ends in a known state all the same.
 */
import type {
  handleUnaryCall,
  ServerUnaryCall,
  ServiceDefinition,
  sendUnaryData,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import type { Logger } from 'pino';
import { RuntimeError } from '../../errors.ts';
import { statusOf } from '../../status.ts';

/** Functions by RPC name, for those RPCs of a service that are served. */
export type Handlers<D> = {
  readonly [K in keyof D as string extends K ? never : K]?: D[K] extends MethodDefinition<
    infer _Q,
    infer Answer,
    infer Request,
    infer _A
  >
    ? (request: Request) => Promise<Answer>
    : never;
};

type AnyHandler = (request: unknown) => Promise<unknown>;

/** Serves handlers and knows how many calls are under way. */
export class RpcServing {
  readonly #log: Logger;
  readonly #underWay = new Set<Promise<void>>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** What grpc-js takes for a service. RPCs without a handler answer UNIMPLEMENTED. */
  implementation<D extends ServiceDefinition>(handlers: Handlers<D>): UntypedServiceImplementation {
    const entries = Object.entries<AnyHandler>(handlers as Record<string, AnyHandler>);
    return Object.fromEntries(entries.map(([rpc, handler]) => [rpc, this.#unary(rpc, handler)]));
  }

  /** Settles when no call is under way. */
  async drain(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
  }

  #unary(rpc: string, handler: AnyHandler): handleUnaryCall<unknown, unknown> {
    return (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>) => {
      const work = this.#serve(rpc, handler, call.request, callback).finally(() => this.#underWay.delete(work));
      this.#underWay.add(work);
    };
  }

  async #serve(rpc: string, handler: AnyHandler, request: unknown, callback: sendUnaryData<unknown>): Promise<void> {
    const startedMs = performance.now();
    const fields = (): object => ({
      rpc,
      volumeId: volumeIdOf(request),
      durationMs: Math.round(performance.now() - startedMs),
    });
    try {
      const answer = await handler(request);
      this.#log.debug(fields(), 'call served');
      callback(null, answer);
    } catch (error) {
      const failure = RuntimeError.from(error, rpc);
      const isOurs = failure.code !== 'INTERNAL' && failure.code !== 'DATA_LOSS';
      this.#log[isOurs ? 'debug' : 'error']({ ...fields(), code: failure.code, err: failure }, 'call failed');
      callback(statusOf(error));
    }
  }
}

function volumeIdOf(request: unknown): unknown {
  if (typeof request !== 'object' || request === null || !('volumeId' in request)) return undefined;
  return request.volumeId;
}
