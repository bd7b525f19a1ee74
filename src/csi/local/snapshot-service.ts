/**
 * The part of CSI's Controller service that is about snapshots. A snapshot is ready when the call is answered: the copy
 * is on the disk, and the volume is of no more interest to it.
 */
import { invalid, RuntimeError } from '../../errors.ts';
import type { ControllerDefinition } from '../generated/csi/v1/Controller.ts';
import type { CreateSnapshotRequest__Output } from '../generated/csi/v1/CreateSnapshotRequest.ts';
import type { CreateSnapshotResponse } from '../generated/csi/v1/CreateSnapshotResponse.ts';
import type { ListSnapshotsRequest__Output } from '../generated/csi/v1/ListSnapshotsRequest.ts';
import type { ListSnapshotsResponse } from '../generated/csi/v1/ListSnapshotsResponse.ts';
import type { Snapshot } from '../generated/csi/v1/Snapshot.ts';
import { type ControllerCapability, checkMap, checkText, type StringMap } from '../protocol.ts';
import { checkName, FOREIGN_PARAMETER } from './create-request.ts';
import type { InFlight } from './in-flight.ts';
import type { Handlers } from './rpc.ts';
import type { SnapshotFiles } from './snapshot-files.ts';
import { SNAPSHOT_ID, type SnapshotRecord } from './snapshot-record.ts';
import type { VolumeFiles } from './volume-files.ts';
import { checkVolumeId } from './volume-path.ts';

/** What these calls add to the controller's capabilities. */
export const SNAPSHOT_CAPABILITIES: readonly ControllerCapability[] = [
  'CREATE_DELETE_SNAPSHOT',
  'LIST_SNAPSHOTS',
  'GET_SNAPSHOT',
];

export class SnapshotService {
  readonly #volumes: VolumeFiles;
  readonly #snapshots: SnapshotFiles;
  readonly #inFlight: InFlight;

  constructor(volumes: VolumeFiles, snapshots: SnapshotFiles, inFlight: InFlight) {
    this.#volumes = volumes;
    this.#snapshots = snapshots;
    this.#inFlight = inFlight;
  }

  handlers(): Handlers<ControllerDefinition> {
    return {
      CreateSnapshot: (request) => this.#create(request),
      DeleteSnapshot: ({ snapshotId }) => this.#delete(checkSnapshotId('snapshot_id', snapshotId)),
      ListSnapshots: async (request) => this.#list(request),
      GetSnapshot: async ({ snapshotId }) => ({
        snapshot: describeSnapshot(this.#snapshots.get(checkSnapshotId('snapshot_id', snapshotId))),
      }),
    };
  }

  async #create(request: CreateSnapshotRequest__Output): Promise<CreateSnapshotResponse> {
    const name = checkName(request.name);
    if (request.sourceVolumeId === '') throw invalid('source_volume_id', 'is missing');
    const volumeId = checkText('source_volume_id', request.sourceVolumeId);
    checkMap('secrets', request.secrets);
    refuseParameters(request.parameters);
    return this.#inFlight.run(`snapshot named ${JSON.stringify(name)}`, async () => {
      const existing = this.#snapshots.named(name);
      if (existing?.sourceVolumeId === volumeId) return { snapshot: describeSnapshot(existing) };
      if (existing !== undefined) {
        const reason = `a snapshot named ${JSON.stringify(name)} exists, but of volume ${existing.sourceVolumeId}`;
        throw new RuntimeError('ALREADY_EXISTS', reason);
      }
      return this.#inFlight.run(checkVolumeId(volumeId), async () => {
        const snapshot = await this.#snapshots.create(name, this.#volumes.get(volumeId));
        return { snapshot: describeSnapshot(snapshot) };
      });
    });
  }

  #delete(id: string): Promise<object> {
    return this.#inFlight.run(id, async () => {
      const snapshot = this.#snapshots.find(id);
      // Idempotent: what is not there needs no removal.
      if (snapshot === undefined) return {};
      if (snapshot.groupId !== undefined) {
        const reason = `snapshot ${id} goes with group ${snapshot.groupId} only: call DeleteVolumeGroupSnapshot`;
        throw invalid('snapshot_id', reason);
      }
      await this.#snapshots.remove(snapshot);
      return {};
    });
  }

  /** Pages in order of ids; the token is the last id given, whether or not that snapshot still exists. */
  #list(request: ListSnapshotsRequest__Output): ListSnapshotsResponse {
    const { maxEntries, startingToken, snapshotId, sourceVolumeId } = request;
    if (maxEntries < 0) throw invalid('max_entries', 'is negative');
    if (startingToken !== '' && !SNAPSHOT_ID.test(startingToken)) {
      throw new RuntimeError('ABORTED', 'starting_token: not a token of this driver, start again without one');
    }
    checkText('snapshot_id', snapshotId);
    checkText('source_volume_id', sourceVolumeId);
    const rest = this.#snapshots
      .list()
      .filter((one) => one.id > startingToken)
      .filter((one) => snapshotId === '' || one.id === snapshotId)
      .filter((one) => sourceVolumeId === '' || one.sourceVolumeId === sourceVolumeId);
    const page = maxEntries === 0 ? rest : rest.slice(0, maxEntries);
    return {
      entries: page.map((snapshot) => ({ snapshot: describeSnapshot(snapshot) })),
      nextToken: page.length === rest.length ? '' : (page.at(-1)?.id ?? ''),
    };
  }
}

/** A snapshot in the words of the wire. */
export function describeSnapshot(snapshot: SnapshotRecord): Snapshot {
  return {
    snapshotId: snapshot.id,
    sourceVolumeId: snapshot.sourceVolumeId,
    sizeBytes: String(snapshot.sizeBytes),
    creationTime: timestampOf(snapshot.createdAt),
    readyToUse: true,
    groupSnapshotId: snapshot.groupId ?? '',
  };
}

/** google.protobuf.Timestamp of an ISO instant. */
export function timestampOf(instant: string): { readonly seconds: string; readonly nanos: number } {
  const ms = Date.parse(instant);
  return { seconds: String(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1_000_000 };
}

/** @throws {RuntimeError} INVALID_ARGUMENT when there is a parameter: snapshots of this driver have none */
export function refuseParameters(parameters: StringMap): void {
  checkMap('parameters', parameters);
  const own = Object.keys(parameters).find((key) => !key.startsWith(FOREIGN_PARAMETER));
  if (own !== undefined) throw invalid('parameters', `${JSON.stringify(own)} is not known: snapshots have none`);
}

/** @throws {RuntimeError} INVALID_ARGUMENT when the id is missing or longer than CSI allows */
export function checkSnapshotId(field: string, id: string): string {
  if (id === '') throw invalid(field, 'is missing');
  return checkText(field, id);
}
