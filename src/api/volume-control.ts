/** Requests to register, update and detach volumes, from the wire to the words of the volume manager. */
import { AVAILABILITIES, type Availability } from '../csi/volume.ts';
import { STOP_TIMEOUT_MS } from '../csi/volume-drain.ts';
import type { RegisterRequest, VolumeAccess } from '../csi/volume-request.ts';
import { invalid } from '../errors.ts';
import { boundedInteger, chosen } from './field.ts';
import type { RegisterVolumeRequest__Output } from './generated/berth/v1/RegisterVolumeRequest.ts';
import type { UpdateVolumeRequest__Output } from './generated/berth/v1/UpdateVolumeRequest.ts';
import { checkRef } from './object-ref.ts';
import { useRequestOf } from './volume-use.ts';

/** setTimeout and AbortSignal.timeout take no more. */
const MAX_STOP_MS = 2 ** 31 - 1;

const ACCESS: Readonly<Record<string, VolumeAccess | undefined>> = {
  VOLUME_ACCESS_UNSPECIFIED: 'mount',
  VOLUME_ACCESS_MOUNT: 'mount',
  VOLUME_ACCESS_BLOCK: 'block',
};

/** Shape only: what a field may hold is checked by the volume manager. */
export function registerRequestOf(request: RegisterVolumeRequest__Output): RegisterRequest {
  // An enum value that this version does not know arrives as a number.
  const access = ACCESS[String(request.access)];
  if (access === undefined) throw invalid('access', `${String(request.access)} is unknown`);
  return {
    name: checkRef('name', request.name),
    driver: checkRef('driver', request.driver),
    volumeId: request.volumeId,
    access,
    fsType: request.fsType,
    capacityBytes: BigInt(request.capacityBytes),
    volumeContext: Object.fromEntries(request.context.map(({ key, value }) => [key, value])),
    ...useRequestOf(request.use),
  };
}

/** What is to become of a volume. */
export interface VolumeUpdate {
  readonly name: string;
  /** Absent: as it is. */
  readonly availability?: Availability | undefined;
  /** New values of parameters that the plugin can change. */
  readonly parameters: Readonly<Record<string, string>>;
  readonly stopTimeoutMs: number;
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field */
export function volumeUpdateOf(request: UpdateVolumeRequest__Output): VolumeUpdate {
  const name = checkRef('name', request.name);
  const parameters = Object.fromEntries(request.mutableParameters.map(({ key, value }) => [key, value]));
  const availability = chosen('availability', request.availability, AVAILABILITIES);
  if (availability === undefined && request.mutableParameters.length === 0) {
    throw invalid('availability', `is missing: say ${AVAILABILITIES.join(', ')}, or parameters`);
  }
  const stopTimeoutMs = boundedInteger('stop_timeout', request.stopTimeoutMs, 0, MAX_STOP_MS) ?? STOP_TIMEOUT_MS;
  return { name, availability, parameters, stopTimeoutMs };
}
