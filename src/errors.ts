/**
 * The one error class of Berth. A code is a canonical gRPC status name, so that a failure keeps its meaning from the
 * kernel call that raised it to the exit code the user sees. Subclasses exist only to carry a protocol's evidence
 * (CniError, CsiError). Foreign errors come in through `RuntimeError.from`, with the original kept as `cause`.
 */

/** Canonical gRPC status names, less OK. */
export const CODES = [
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
] as const;

export type Code = (typeof CODES)[number];

/** Codes after which the same call may be repeated with backoff. */
export const RETRYABLE: ReadonlySet<Code> = new Set<Code>(['UNAVAILABLE', 'ABORTED']);

/** A failure with a code. The message says what failed and for which object: lower case, no full stop, no secret. */
export class RuntimeError extends Error {
  readonly code: Code;

  constructor(code: Code, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }

  /**
   * The single entry for foreign errors. A RuntimeError passes unchanged; an abort becomes CANCELLED, a timeout
   * DEADLINE_EXCEEDED, a system error its nearest code, anything else `fallback`. The original stays as `cause`.
   * An AbortError that Node made of a signal's reason gives way to that reason.
   */
  static from(error: unknown, message: string, fallback: Code = 'INTERNAL'): RuntimeError {
    if (error instanceof RuntimeError) return error;
    if (error instanceof Error && error.name === 'AbortError' && error.cause instanceof Error) {
      return RuntimeError.from(error.cause, message, 'CANCELLED');
    }
    const reason = error instanceof Error ? error.message : String(error);
    return new RuntimeError(codeOf(error) ?? fallback, `${message}: ${reason}`, { cause: error });
  }
}

/** System error numbers that have a canonical meaning of their own. */
const SYSTEM_CODES: ReadonlyMap<string, Code> = new Map<string, Code>([
  ['ENOENT', 'NOT_FOUND'],
  ['EEXIST', 'ALREADY_EXISTS'],
  ['EACCES', 'PERMISSION_DENIED'],
  ['EPERM', 'PERMISSION_DENIED'],
  ['ENOSPC', 'RESOURCE_EXHAUSTED'],
  ['EMFILE', 'RESOURCE_EXHAUSTED'],
  ['ENFILE', 'RESOURCE_EXHAUSTED'],
  ['EBUSY', 'UNAVAILABLE'],
  ['EAGAIN', 'UNAVAILABLE'],
]);

function codeOf(error: unknown): Code | undefined {
  if (!(error instanceof Error)) return undefined;
  if (error.name === 'AbortError') return 'CANCELLED';
  if (error.name === 'TimeoutError') return 'DEADLINE_EXCEEDED';
  return SYSTEM_CODES.get(systemCode(error) ?? '');
}

/** The system error name of an error ("ENOENT"), if it carries one. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** Shorthand for refused input: names the field and the reason. */
export function invalid(field: string, reason: string): RuntimeError {
  return new RuntimeError('INVALID_ARGUMENT', `${field}: ${reason}`);
}

/**
 * One error out of many, for teardown: every step is attempted and every failure is kept.
 * Returns undefined when the list is empty and the error itself when there is one.
 */
export function gathered(errors: readonly unknown[], message: string): RuntimeError | undefined {
  if (errors.length === 0) return undefined;
  const parts = errors.map((error) => RuntimeError.from(error, 'failed'));
  const [first] = parts;
  if (first !== undefined && parts.length === 1) return first;
  const text = parts.map((part) => part.message).join('; ');
  return new RuntimeError(first?.code ?? 'INTERNAL', `${message}: ${text}`, { cause: new AggregateError(parts) });
}
