/** Failures as the user meets them: one line on stderr that says what to do next, and an exit code. */

/** Berth's own errors, in the words of docker: 125 for `run`, where any other code may be the container's. */
export const EXIT_FAILURE = 1;
export const EXIT_RUN_FAILURE = 125;
/** As if SIGPIPE had ended the program: who reads the output has left. */
export const EXIT_BROKEN_PIPE = 141;

/** Ends the program with a message and an exit code; without a message it has been shown already. */
export class Failure extends Error {
  readonly exitCode: number | undefined;

  /** `exitCode` undefined: the verb's own (125 for `run`, else 1). */
  constructor(message: string, options: ErrorOptions & { readonly exitCode?: number } = {}) {
    super(message, options);
    this.name = 'Failure';
    this.exitCode = options.exitCode;
  }
}

/** A call that berthd refused, or that did not reach it. */
export class CallFailure extends Failure {
  /** gRPC status number (google.rpc.Code). */
  readonly status: number;

  constructor(status: number, message: string, options: ErrorOptions & { readonly exitCode?: number } = {}) {
    super(message, options);
    this.name = 'CallFailure';
    this.status = status;
  }
}

/** Words of the command line that were not understood. */
export function usage(flag: string, reason: string): Failure {
  return new Failure(`${flag}: ${reason}`);
}
