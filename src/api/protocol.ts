/**
 * The wire side of Berth's API: service definitions from api-proto/berth.proto, and the shape of the objects that
 * implement them. A method is a plain function of a message: it returns a promise, or an async iterable where the
 * proto says `stream`.
 */
import type { ServiceDefinition } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import { serviceDefinitions as definitionsOf } from '../service-definitions.ts';
import { descriptor } from './generated/descriptor.ts';

export const API_VERSION = 'berth.v1';

/** One call, as a method sees it. */
export interface Call {
  /** Aborts when the caller went away, the deadline passed, or the daemon must end now. */
  readonly signal: AbortSignal;
  /** The same, and also as soon as the daemon begins to shut down: for calls that only wait. */
  readonly waitSignal: AbortSignal;
}

/** The methods a generated service definition has. */
type Declared<D> = { [M in keyof D as string extends M ? never : number extends M ? never : M]: D[M] };

/** What implements a service: its methods in lower camel case. */
export type ServiceMethods<D> = {
  readonly [M in keyof Declared<D> as Uncapitalize<M & string>]: Declared<D>[M] extends MethodDefinition<
    infer _Request,
    infer Response,
    infer ReceivedRequest,
    infer _ReceivedResponse
  >
    ? (request: ReceivedRequest, call: Call) => Promise<Response> | AsyncIterable<Response>
    : never;
};

/** Services of the proto by name: "System", "Containers", ... */
export function serviceDefinitions(): ReadonlyMap<string, ServiceDefinition> {
  return definitionsOf(descriptor, API_VERSION);
}
