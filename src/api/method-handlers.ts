/**
 * Between grpc-js and the methods of a service: a call becomes an AbortSignal, a throw becomes a status. Nothing else
 * happens here, and nowhere else does it happen.
 */
import {
  Metadata,
  type ServerErrorResponse,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type sendUnaryData,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { ExecutableError } from '../runtime/launcher.ts';
import { statusOf } from '../status.ts';
import type { Call } from './protocol.ts';

/** Trailing metadata that carries 126 or 127 when a container's command cannot be executed. */
export const EXIT_CODE_KEY = 'berth-exit-code';
/** Trailing metadata of every failure that berthd itself reports: the code's name. */
export const CODE_KEY = 'berth-code';

/** Methods that only look: they have no reason to take long. */
const QUICK: ReadonlySet<string> = new Set(['Version', 'Info', 'List', 'Inspect', 'Stats']);
/** Methods that take as long as a container takes. */
const UNBOUNDED: ReadonlySet<string> = new Set(['Run', 'Logs', 'Wait', 'Stop']);
const QUICK_DEADLINE_MS = 30_000;
const DEADLINE_MS = 600_000;

/** When the daemon ends: see {@link Call}. */
export interface Ending {
  readonly stopping: AbortSignal;
  readonly ended: AbortSignal;
}

type Caller = Pick<ServerUnaryCall<unknown, unknown>, 'cancelled' | 'once'>;
type Method = (request: unknown, call: Call) => unknown;

/**
 * Handlers for grpc-js of all methods of `definition`, implemented by `methods`.
 * @throws {RuntimeError} UNIMPLEMENTED when a method is missing: a mistake of the programmer, found at the start
 */
export function methodHandlers(
  definition: ServiceDefinition,
  methods: object,
  ending: Ending,
  log: Logger,
): UntypedServiceImplementation {
  const handlers: UntypedServiceImplementation = {};
  for (const [name, { responseStream, path }] of Object.entries(definition)) {
    const method = methodOf(methods, name);
    const trouble = (error: unknown): ServerErrorResponse => failure(error, path, log);
    const begin = (caller: Caller): Call => callOf(caller, ending, deadlineMs(name));
    handlers[name] = responseStream ? streamHandler(method, begin, trouble) : unaryHandler(method, begin, trouble);
  }
  return handlers;
}

function methodOf(methods: object, name: string): Method {
  const key = name.charAt(0).toLowerCase() + name.slice(1);
  const method: unknown = Reflect.get(methods, key);
  if (typeof method !== 'function') throw new RuntimeError('UNIMPLEMENTED', `method ${name} has no implementation`);
  return (request, call) => Reflect.apply(method, methods, [request, call]);
}

function deadlineMs(name: string): number | undefined {
  if (UNBOUNDED.has(name)) return undefined;
  return QUICK.has(name) ? QUICK_DEADLINE_MS : DEADLINE_MS;
}

function callOf(caller: Caller, ending: Ending, timeoutMs: number | undefined): Call {
  const gone = new AbortController();
  const leave = (): void => gone.abort(new RuntimeError('CANCELLED', 'the caller went away'));
  if (caller.cancelled) leave();
  else caller.once('cancelled', leave);
  const sources = [gone.signal, ending.ended];
  if (timeoutMs !== undefined) sources.push(AbortSignal.timeout(timeoutMs));
  return { signal: AbortSignal.any(sources), waitSignal: AbortSignal.any([...sources, ending.stopping]) };
}

function unaryHandler(
  method: Method,
  begin: (caller: Caller) => Call,
  trouble: (error: unknown) => ServerErrorResponse,
): (caller: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>) => Promise<void> {
  return async (caller, callback) => {
    try {
      callback(null, await method(caller.request, begin(caller)));
    } catch (error) {
      callback(trouble(error), null);
    }
  };
}

function streamHandler(
  method: Method,
  begin: (caller: Caller) => Call,
  trouble: (error: unknown) => ServerErrorResponse,
): (caller: ServerWritableStream<unknown, unknown>) => Promise<void> {
  return async (caller) => {
    try {
      const call = begin(caller);
      const messages = method(caller.request, call);
      if (!isAsyncIterable(messages)) throw new TypeError('a streaming method must return an async iterable');
      for await (const message of messages) {
        call.signal.throwIfAborted();
        if (!caller.write(message)) await drained(caller, call.signal);
      }
      caller.end();
    } catch (error) {
      caller.emit('error', trouble(error));
    }
  };
}

function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value;
}

/** Back-pressure: the caller reads slower than the container writes. */
function drained(caller: ServerWritableStream<unknown, unknown>, signal: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = (): void => reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  caller.once('drain', resolve);
  return promise.finally(() => {
    signal.removeEventListener('abort', abort);
    caller.removeListener('drain', resolve);
  });
}

/** The status of an error; what Berth did not expect is logged here, once. */
function failure(error: unknown, path: string, log: Logger): ServerErrorResponse {
  const { code, details } = statusOf(error);
  const name = error instanceof RuntimeError ? error.code : 'INTERNAL';
  if (!(error instanceof RuntimeError) && !isAbort(error)) log.error({ err: error, method: path }, 'call failed');
  else if (name === 'INTERNAL' || name === 'DATA_LOSS' || name === 'UNKNOWN') {
    log.error({ err: error, method: path }, 'call failed');
  } else log.debug({ method: path, status: code, details }, 'call refused');
  const metadata = new Metadata();
  metadata.set(CODE_KEY, name);
  if (error instanceof ExecutableError) metadata.set(EXIT_CODE_KEY, String(error.exitCode));
  return Object.assign(new Error(details), { code, details, metadata });
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && (error.name === 'AbortError' || error.name === 'TimeoutError');
}
