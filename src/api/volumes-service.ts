/** The Volumes service: calls of the API as calls of the volume manager. */
import { invalid } from '../errors.ts';
import { safeInteger } from './field.ts';
import type { CreateVolumeRequest__Output } from './generated/berth/v1/CreateVolumeRequest.ts';
import type { ListVolumesResponse } from './generated/berth/v1/ListVolumesResponse.ts';
import type { RemoveVolumeResponse } from './generated/berth/v1/RemoveVolumeResponse.ts';
import type { Volume } from './generated/berth/v1/Volume.ts';
import type { VolumeRequest__Output } from './generated/berth/v1/VolumeRequest.ts';
import type { VolumesDefinition } from './generated/berth/v1/Volumes.ts';
import { checkRef } from './object-ref.ts';
import type { Call, ServiceMethods } from './protocol.ts';

/** Serves volumes of which nobody said where they come from. */
const DEFAULT_DRIVER = 'local.csi.berth';

/** A request for a volume. */
export interface VolumeRequest {
  readonly name: string;
  readonly driver: string;
  readonly capacityBytes: number;
  readonly access: 'mount' | 'block';
  readonly fsType?: string;
  readonly parameters: Readonly<Record<string, string>>;
}

/** What the service asks of a volume. */
export interface VolumeFacts {
  readonly name: string;
  readonly driver: string;
  /** The driver's own id; absent while the driver was not heard. */
  readonly volumeId?: string | undefined;
  readonly capacityBytes: number;
  readonly access: 'mount' | 'block';
  readonly fsType?: string | undefined;
  readonly state: string;
  readonly createdAt: string;
  readonly containerIds: readonly string[];
  /** Why its last transition failed. */
  readonly error?: string | undefined;
}

/** What the service asks of the volume manager. */
export interface Volumes {
  create(request: VolumeRequest, signal: AbortSignal): Promise<VolumeFacts>;
  list(): readonly VolumeFacts[];
  /** @throws {RuntimeError} NOT_FOUND */
  get(name: string): VolumeFacts;
  remove(name: string, signal: AbortSignal): Promise<void>;
}

export class VolumesService implements ServiceMethods<VolumesDefinition> {
  readonly #volumes: Volumes;

  constructor(volumes: Volumes) {
    this.#volumes = volumes;
  }

  async create(request: CreateVolumeRequest__Output, { signal }: Call): Promise<Volume> {
    return volumeMessage(await this.#volumes.create(volumeRequestOf(request), signal));
  }

  async list(): Promise<ListVolumesResponse> {
    return { volumes: this.#volumes.list().map(volumeMessage) };
  }

  async inspect({ name }: VolumeRequest__Output): Promise<Volume> {
    return volumeMessage(this.#volumes.get(checkRef('name', name)));
  }

  async remove({ name }: VolumeRequest__Output, { signal }: Call): Promise<RemoveVolumeResponse> {
    await this.#volumes.remove(checkRef('name', name), signal);
    return {};
  }
}

const ACCESS: Readonly<Record<string, VolumeRequest['access']>> = {
  VOLUME_ACCESS_UNSPECIFIED: 'mount',
  VOLUME_ACCESS_MOUNT: 'mount',
  VOLUME_ACCESS_BLOCK: 'block',
};

function volumeRequestOf(request: CreateVolumeRequest__Output): VolumeRequest {
  const name = checkRef('name', request.name);
  const driver = checkRef('driver', request.driver === '' ? DEFAULT_DRIVER : request.driver);
  const capacityBytes = safeInteger('size', request.capacityBytes);
  if (capacityBytes <= 0) throw invalid('size', `${capacityBytes} bytes: a volume has at least one`);
  // An enum value that this version does not know arrives as a number.
  const access = ACCESS[String(request.access)];
  if (access === undefined) throw invalid('access', `${String(request.access)} is unknown`);
  const { fsType } = request;
  if (access === 'block' && fsType !== undefined) throw invalid('fs-type', 'a block volume has no file system');
  const parameters = Object.fromEntries(request.parameters.map(({ key, value }) => [key, value]));
  return { name, driver, capacityBytes, access, parameters, ...(fsType === undefined ? {} : { fsType }) };
}

function volumeMessage(volume: VolumeFacts): Volume {
  const { name, driver, state, createdAt, fsType } = volume;
  return {
    name,
    driver,
    volumeId: volume.volumeId ?? '',
    capacityBytes: String(volume.capacityBytes),
    access: volume.access === 'block' ? 'VOLUME_ACCESS_BLOCK' : 'VOLUME_ACCESS_MOUNT',
    ...(fsType === undefined ? {} : { fsType }),
    state,
    createdAt,
    containerIds: [...volume.containerIds],
    error: volume.error ?? '',
  };
}
