/** How the allocator fails, in the words of the protocol (CNI 1.1.0 §5 "Error"), and what goes over the wire. */
import { type Code, RuntimeError } from '../errors.ts';

/** Codes of the protocol that the allocator uses; from 100 on they are its own. */
export const IPAM_CODES = {
  version: 1,
  environment: 4,
  io: 5,
  undecodable: 6,
  config: 7,
  tryAgain: 11,
  unavailable: 50,
  noLease: 101,
} as const;

/** One of {@link IPAM_CODES}. */
export type IpamCode = (typeof IPAM_CODES)[keyof typeof IPAM_CODES];

const CANONICAL: ReadonlyMap<IpamCode, Code> = new Map<IpamCode, Code>([
  [IPAM_CODES.version, 'FAILED_PRECONDITION'],
  [IPAM_CODES.environment, 'INVALID_ARGUMENT'],
  [IPAM_CODES.undecodable, 'INVALID_ARGUMENT'],
  [IPAM_CODES.config, 'INVALID_ARGUMENT'],
  [IPAM_CODES.tryAgain, 'RESOURCE_EXHAUSTED'],
  [IPAM_CODES.unavailable, 'UNAVAILABLE'],
  [IPAM_CODES.noLease, 'NOT_FOUND'],
]);

/** A call that failed. */
export class IpamError extends RuntimeError {
  readonly cniCode: IpamCode;

  constructor(cniCode: IpamCode, message: string, options?: ErrorOptions) {
    super(CANONICAL.get(cniCode) ?? 'INTERNAL', message, options);
    this.cniCode = cniCode;
  }

  /** Any failure as one of a call: what the caller said wrong is of the configuration, the rest of the host. */
  static of(error: unknown): IpamError {
    if (error instanceof IpamError) return error;
    const { code, message } = RuntimeError.from(error, 'allocate');
    return new IpamError(code === 'INVALID_ARGUMENT' ? IPAM_CODES.config : IPAM_CODES.io, message, { cause: error });
  }
}

/** The answer to a call that failed, as a plugin prints it; without a version, as reference plugins do. */
export function failureAnswer(error: IpamError): object {
  return { code: error.cniCode, msg: error.message };
}
