/** A refusal of a fake plugin, with a gRPC status. */
import type { Code } from '../../src/errors.ts';
import { STATUS_NUMBERS } from '../../src/status.ts';

export class FakeStatus extends Error {
  readonly code: number;
  readonly details: string;

  constructor(code: Code, details: string) {
    super(details);
    this.code = STATUS_NUMBERS[code];
    this.details = details;
  }
}
