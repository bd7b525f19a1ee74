/**
 * What a new volume may be filled from: a snapshot, or another volume (CSI VolumeContentSource). Everything is checked
 * before anything is recorded or sent; what is recorded is sent again by every repeated CreateVolume.
 */
import { invalid, RuntimeError } from '../errors.ts';
import type { Store } from '../store.ts';
import type { PluginCapabilities } from './protocol.ts';
import type { SnapshotCatalog } from './snapshot-catalog.ts';
import type { RecordedSource, VolumeRecord } from './volume.ts';
import {
  complete,
  type VolumeAccess,
  type VolumeRequest,
  type VolumeSource,
  type VolumeWish,
  validateVolumeWish,
} from './volume-request.ts';

/** What is known of a source. */
interface Origin {
  readonly source: RecordedSource;
  readonly driver: string;
  readonly sizeBytes: bigint;
  readonly access?: VolumeAccess | undefined;
  readonly fsType?: string | undefined;
}

export class VolumeSources {
  readonly #volumes: Store<VolumeRecord>;
  readonly #snapshots: SnapshotCatalog;

  constructor(volumes: Store<VolumeRecord>, snapshots: SnapshotCatalog) {
    this.#volumes = volumes;
    this.#snapshots = snapshots;
  }

  /**
   * The request with what its source says where the user said nothing.
   * @throws {RuntimeError} NOT_FOUND, FAILED_PRECONDITION when the source cannot be used now, INVALID_ARGUMENT when
   * source and request do not fit
   */
  fill(wish: VolumeWish): VolumeRequest {
    if (wish.source === undefined) return complete(wish);
    const origin = this.#origin(wish.source);
    const access = wish.access ?? origin.access ?? 'mount';
    const filled = {
      ...wish,
      access,
      capacityBytes: wish.capacityBytes ?? origin.sizeBytes,
      driver: wish.driver ?? origin.driver,
      fsType: wish.fsType ?? (access === 'mount' ? origin.fsType : undefined),
    };
    checkFit(filled, origin);
    // What a class says may not suit the kind of the source.
    validateVolumeWish(filled);
    return filled;
  }

  /**
   * What is recorded of a source, right before the record is written.
   * @throws {RuntimeError} UNIMPLEMENTED when the plugin cannot fill volumes this way, or as {@link fill}
   */
  recorded(request: VolumeRequest, capabilities: PluginCapabilities): RecordedSource | undefined {
    if (request.source === undefined) return undefined;
    const capability = request.source.kind === 'snapshot' ? 'CREATE_DELETE_SNAPSHOT' : 'CLONE_VOLUME';
    if (!capabilities.controller.has(capability) || !capabilities.controller.has('CREATE_DELETE_VOLUME')) {
      const what = request.source.kind === 'snapshot' ? 'restores no snapshots' : 'clones no volumes';
      throw new RuntimeError('UNIMPLEMENTED', `CSI plugin ${request.driver} ${what} (it does not offer ${capability})`);
    }
    const origin = this.#origin(request.source);
    checkFit(request, origin);
    return origin.source;
  }

  /** @throws {RuntimeError} FAILED_PRECONDITION while something is made of the volume */
  refuseRemoval(volume: string): void {
    const hold = this.holdOn({ kind: 'volume', name: volume }) ?? this.#snapshots.holdOn(volume);
    if (hold !== undefined) throw new RuntimeError('FAILED_PRECONDITION', `volume ${volume} must stay: ${hold}`);
  }

  /** Why a source must stay for now: CreateVolume may be sent again. */
  holdOn({ kind, name }: VolumeSource): string | undefined {
    const user = [...this.#volumes.entries().values()].find(
      ({ volumeId, source }) => volumeId === undefined && source?.kind === kind && source.name === name,
    );
    return user === undefined ? undefined : `volume ${user.name} is being made of it`;
  }

  #origin(source: VolumeSource): Origin {
    return source.kind === 'snapshot' ? this.#snapshot(source.name) : this.#volume(source.name);
  }

  #snapshot(name: string): Origin {
    const { state, driver, snapshotId, sizeBytes, access, fsType } = this.#snapshots.get(name);
    if (state !== 'ready' || snapshotId === undefined) {
      const advice = state === 'processing' ? ': wait until "berth snapshot ls" shows it as ready' : '';
      throw new RuntimeError('FAILED_PRECONDITION', `snapshot ${name} is ${state}${advice}`);
    }
    const source = { kind: 'snapshot', name, id: snapshotId } as const;
    return { source, driver, sizeBytes: BigInt(sizeBytes), access, fsType };
  }

  #volume(name: string): Origin {
    const record = this.#volumes.read(name);
    if (record === undefined) throw new RuntimeError('NOT_FOUND', `no such volume: ${name}: see "berth volume ls"`);
    const { state, driver, volumeId, capacityBytes, access, fsType } = record;
    if (volumeId === undefined || state === 'creating' || state === 'deleting') {
      throw new RuntimeError('FAILED_PRECONDITION', `volume ${name} is ${state}`);
    }
    const source = { kind: 'volume', name, id: volumeId } as const;
    return { source, driver, sizeBytes: BigInt(capacityBytes), access, fsType };
  }
}

function checkFit({ capacityBytes, driver, access }: VolumeRequest, { source, ...origin }: Origin): void {
  const title = `${source.kind} ${source.name}`;
  if (driver !== origin.driver) throw invalid('driver', `${title} belongs to ${origin.driver}, not to ${driver}`);
  if (origin.access !== undefined && access !== origin.access) {
    throw invalid('access', `${title} is of access ${origin.access}, not ${access}`);
  }
  if (BigInt(capacityBytes) === 0n) throw invalid('size', `the size of ${title} is not known: say one`);
  if (BigInt(capacityBytes) < origin.sizeBytes) {
    throw invalid('size', `${capacityBytes} bytes are fewer than the ${origin.sizeBytes} of ${title}`);
  }
}
