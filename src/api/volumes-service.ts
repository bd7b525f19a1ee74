/** The Volumes service: calls of the API as calls of the volume manager. */
import type { VolumeRecord } from '../csi/volume.ts';
import type { VolumeDrain } from '../csi/volume-drain.ts';
import type { VolumeHealth } from '../csi/volume-health.ts';
import type { VolumeManager } from '../csi/volume-manager.ts';
import { DEFAULT_DRIVER, type VolumeAccess, type VolumeSource, type VolumeWish } from '../csi/volume-request.ts';
import type { VolumeSurvey } from '../csi/volume-survey.ts';
import { invalid } from '../errors.ts';
import type { CreateVolumeRequest__Output } from './generated/berth/v1/CreateVolumeRequest.ts';
import type { DetachVolumeRequest__Output } from './generated/berth/v1/DetachVolumeRequest.ts';
import type { ExpandVolumeRequest__Output } from './generated/berth/v1/ExpandVolumeRequest.ts';
import type { ListDriverVolumesRequest__Output } from './generated/berth/v1/ListDriverVolumesRequest.ts';
import type { ListDriverVolumesResponse } from './generated/berth/v1/ListDriverVolumesResponse.ts';
import type { ListVolumesResponse } from './generated/berth/v1/ListVolumesResponse.ts';
import type { Parameter__Output } from './generated/berth/v1/Parameter.ts';
import type { RegisterVolumeRequest__Output } from './generated/berth/v1/RegisterVolumeRequest.ts';
import type { RemoveVolumeRequest__Output } from './generated/berth/v1/RemoveVolumeRequest.ts';
import type { RemoveVolumeResponse } from './generated/berth/v1/RemoveVolumeResponse.ts';
import type { UpdateVolumeRequest__Output } from './generated/berth/v1/UpdateVolumeRequest.ts';
import type { Volume } from './generated/berth/v1/Volume.ts';
import type { VolumeCapacity } from './generated/berth/v1/VolumeCapacity.ts';
import type { VolumeCapacityRequest__Output } from './generated/berth/v1/VolumeCapacityRequest.ts';
import type { VolumeRequest__Output } from './generated/berth/v1/VolumeRequest.ts';
import type { VolumeStatsRequest__Output } from './generated/berth/v1/VolumeStatsRequest.ts';
import type { VolumeStatsResponse } from './generated/berth/v1/VolumeStatsResponse.ts';
import type { VolumesDefinition } from './generated/berth/v1/Volumes.ts';
import { checkRef } from './object-ref.ts';
import type { Call, ServiceMethods } from './protocol.ts';
import { registerRequestOf, volumeUpdateOf } from './volume-control.ts';
import { volumeMessage } from './volume-message.ts';
import { volumeStatsMessage } from './volume-stats-message.ts';
import { capacityMessage, driverVolumeMessage } from './volume-survey-message.ts';
import { useRequestOf } from './volume-use.ts';

/** What the service asks of the volume manager. */
export type Volumes = Pick<
  VolumeManager,
  | 'create'
  | 'list'
  | 'get'
  | 'planned'
  | 'remove'
  | 'forget'
  | 'expand'
  | 'stats'
  | 'register'
  | 'update'
  | 'modify'
  | 'detach'
>;

/** What is known of volumes beside their records. */
export interface KnownOfVolumes {
  readonly survey: Pick<VolumeSurvey, 'list' | 'capacity'>;
  readonly health: Pick<VolumeHealth, 'of'>;
}

export class VolumesService implements ServiceMethods<VolumesDefinition> {
  readonly #volumes: Volumes;
  readonly #drain: Pick<VolumeDrain, 'drain'>;
  readonly #known: KnownOfVolumes;

  constructor(volumes: Volumes, drain: Pick<VolumeDrain, 'drain'>, known: KnownOfVolumes) {
    this.#volumes = volumes;
    this.#drain = drain;
    this.#known = known;
  }

  async create(request: CreateVolumeRequest__Output, { signal }: Call): Promise<Volume> {
    return this.#message(await this.#volumes.create(volumeRequestOf(request), signal));
  }

  async list(): Promise<ListVolumesResponse> {
    return { volumes: this.#volumes.list().map((volume) => this.#message(volume)) };
  }

  async inspect({ name }: VolumeRequest__Output): Promise<Volume> {
    return this.#message(this.#volumes.get(checkRef('name', name)));
  }

  async expand({ name, capacityBytes }: ExpandVolumeRequest__Output, { signal }: Call): Promise<Volume> {
    return this.#message(await this.#volumes.expand(checkRef('name', name), BigInt(capacityBytes), signal));
  }

  async stats({ names }: VolumeStatsRequest__Output, { signal }: Call): Promise<VolumeStatsResponse> {
    const wanted = names.length > 0 ? names : this.#volumes.list().map(({ name }) => name);
    const stats = await Promise.all(wanted.map((name) => this.#volumes.stats(checkRef('name', name), signal)));
    return { stats: stats.map(volumeStatsMessage) };
  }

  async remove({ name, forget }: RemoveVolumeRequest__Output, { signal }: Call): Promise<RemoveVolumeResponse> {
    if (forget) await this.#volumes.forget(checkRef('name', name), signal);
    else await this.#volumes.remove(checkRef('name', name), signal);
    return {};
  }

  async register(request: RegisterVolumeRequest__Output, { signal }: Call): Promise<Volume> {
    return this.#message(await this.#volumes.register(registerRequestOf(request), signal));
  }

  async update(request: UpdateVolumeRequest__Output, { signal }: Call): Promise<Volume> {
    const { name, availability, parameters, stopTimeoutMs } = volumeUpdateOf(request);
    if (Object.keys(parameters).length > 0) await this.#volumes.modify(name, parameters, signal);
    if (availability === 'drain') return this.#message(await this.#drain.drain(name, stopTimeoutMs, signal));
    if (availability === undefined) return this.#message(this.#volumes.get(name));
    return this.#message(await this.#volumes.update(name, availability, signal));
  }

  async detach({ name, force }: DetachVolumeRequest__Output, { signal }: Call): Promise<Volume> {
    return this.#message(await this.#volumes.detach(checkRef('name', name), force, signal));
  }

  async listAtDriver(
    { driver }: ListDriverVolumesRequest__Output,
    { signal }: Call,
  ): Promise<ListDriverVolumesResponse> {
    const volumes = await this.#known.survey.list(checkRef('driver', driver === '' ? DEFAULT_DRIVER : driver), signal);
    return { volumes: volumes.map(driverVolumeMessage) };
  }

  async capacity(request: VolumeCapacityRequest__Output, { signal }: Call): Promise<VolumeCapacity> {
    const { driver, volumeClass, access, parameters } = request;
    const asked = {
      ...(driver === '' ? {} : { driver: checkRef('driver', driver) }),
      ...(volumeClass === '' ? {} : { volumeClass: checkRef('volume_class', volumeClass) }),
      access: accessOf(access),
      parameters: mapOf(parameters),
    };
    return capacityMessage(await this.#known.survey.capacity(asked, signal));
  }

  #message(volume: VolumeRecord): Volume {
    const { name } = volume;
    return volumeMessage(volume, this.#volumes.planned(name), this.#known.health.of(name));
  }
}

const ACCESS: Readonly<Record<string, VolumeAccess | undefined>> = {
  VOLUME_ACCESS_MOUNT: 'mount',
  VOLUME_ACCESS_BLOCK: 'block',
};

/** Shape only: what a field may hold is checked by the volume manager (src/csi/volume-request.ts). */
function volumeRequestOf(request: CreateVolumeRequest__Output): VolumeWish {
  const access = accessOf(request.access);
  const source = sourceOf(request);
  return {
    name: checkRef('name', request.name),
    ...(request.volumeClass === '' ? {} : { volumeClass: checkRef('volume_class', request.volumeClass) }),
    ...(request.driver === '' ? {} : { driver: checkRef('driver', request.driver) }),
    ...(request.capacityBytes === '0' ? {} : { capacityBytes: BigInt(request.capacityBytes) }),
    ...(access === undefined ? {} : { access }),
    ...(source === undefined ? {} : { source }),
    ...useRequestOf(request.use),
    fsType: request.fsType,
    parameters: mapOf(request.parameters),
    mutableParameters: mapOf(request.mutableParameters),
  };
}

/** An enum value that this version does not know arrives as a number. */
function accessOf(told: CreateVolumeRequest__Output['access']): VolumeAccess | undefined {
  const access = ACCESS[String(told)];
  if (access === undefined && told !== 'VOLUME_ACCESS_UNSPECIFIED')
    throw invalid('access', `${String(told)} is unknown`);
  return access;
}

function mapOf(pairs: readonly Parameter__Output[]): Readonly<Record<string, string>> {
  return Object.fromEntries(pairs.map(({ key, value }) => [key, value]));
}

function sourceOf({ fromSnapshot, fromVolume }: CreateVolumeRequest__Output): VolumeSource | undefined {
  if (fromSnapshot !== undefined) return { kind: 'snapshot', name: checkRef('from_snapshot', fromSnapshot) };
  return fromVolume === undefined ? undefined : { kind: 'volume', name: checkRef('from_volume', fromVolume) };
}
