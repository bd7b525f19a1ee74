/**
 * Errors to gRPC statuses: the only place where a status is made. What Berth did not raise itself leaves as INTERNAL
 * with a generic text; its detail belongs to the log, not to the peer.
 */
import { CODES, type Code, RuntimeError } from './errors.ts';

/** gRPC status numbers (google.rpc.Code) of the canonical names. */
export const STATUS_NUMBERS: Readonly<Record<Code, number>> = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
};

/** What goes over the wire: a status number and a text for people. */
export interface Status {
  readonly code: number;
  readonly details: string;
}

/** The status of an error, fit for a peer. */
export function statusOf(error: unknown): Status {
  if (error instanceof RuntimeError) return { code: STATUS_NUMBERS[error.code], details: error.message };
  const known = RuntimeError.from(error, '');
  if (known.code === 'CANCELLED') return { code: STATUS_NUMBERS.CANCELLED, details: 'the call was cancelled' };
  if (known.code === 'DEADLINE_EXCEEDED') {
    return { code: STATUS_NUMBERS.DEADLINE_EXCEEDED, details: 'the deadline passed' };
  }
  return { code: STATUS_NUMBERS.INTERNAL, details: 'internal error: the daemon log has the details' };
}

/** The canonical name of a status number; UNKNOWN for numbers outside the table. */
export function codeOfStatus(code: number): Code {
  return CODES.find((name) => STATUS_NUMBERS[name] === code) ?? 'UNKNOWN';
}
