/**
 * CSI's GroupController service: snapshots of several volumes as of one moment. All of them are made or none, and they go
 * together.
 */
import { invalid, RuntimeError } from '../../errors.ts';
import type { CreateVolumeGroupSnapshotRequest__Output } from '../generated/csi/v1/CreateVolumeGroupSnapshotRequest.ts';
import type { DeleteVolumeGroupSnapshotRequest__Output } from '../generated/csi/v1/DeleteVolumeGroupSnapshotRequest.ts';
import type { GetVolumeGroupSnapshotRequest__Output } from '../generated/csi/v1/GetVolumeGroupSnapshotRequest.ts';
import type { GroupControllerDefinition } from '../generated/csi/v1/GroupController.ts';
import type { VolumeGroupSnapshot } from '../generated/csi/v1/VolumeGroupSnapshot.ts';
import { checkMap, checkText, type GroupControllerCapability } from '../protocol.ts';
import { checkName } from './create-request.ts';
import type { InFlight } from './in-flight.ts';
import type { Handlers } from './rpc.ts';
import type { SnapshotFiles } from './snapshot-files.ts';
import type { GroupRecord } from './snapshot-record.ts';
import { describeSnapshot, refuseParameters, timestampOf } from './snapshot-service.ts';
import type { VolumeFiles } from './volume-files.ts';

const CAPABILITIES: readonly GroupControllerCapability[] = ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'];
/** All members stand still together, so a request must not name the whole machine. */
const MAX_MEMBERS = 100;

export class GroupControllerService {
  readonly #volumes: VolumeFiles;
  readonly #snapshots: SnapshotFiles;
  readonly #inFlight: InFlight;

  constructor(volumes: VolumeFiles, snapshots: SnapshotFiles, inFlight: InFlight) {
    this.#volumes = volumes;
    this.#snapshots = snapshots;
    this.#inFlight = inFlight;
  }

  handlers(): Handlers<GroupControllerDefinition> {
    return {
      GroupControllerGetCapabilities: async () => ({ capabilities: CAPABILITIES.map((type) => ({ rpc: { type } })) }),
      CreateVolumeGroupSnapshot: async (request) => ({ groupSnapshot: await this.#create(request) }),
      DeleteVolumeGroupSnapshot: (request) => this.#delete(request),
      GetVolumeGroupSnapshot: async (request) => ({ groupSnapshot: this.#get(request) }),
    };
  }

  async #create(request: CreateVolumeGroupSnapshotRequest__Output): Promise<VolumeGroupSnapshot> {
    const name = checkName(request.name);
    const volumeIds = checkIds('source_volume_ids', request.sourceVolumeIds);
    checkMap('secrets', request.secrets);
    refuseParameters(request.parameters);
    return this.#inFlight.run(`group named ${JSON.stringify(name)}`, async () => {
      const existing = this.#snapshots.groupNamed(name);
      if (existing === undefined) {
        return this.#withTurns(volumeIds, async () => {
          const volumes = volumeIds.map((id) => this.#volumes.get(id));
          return this.#describe(await this.#snapshots.createGroup(name, volumes));
        });
      }
      const sources = this.#snapshots.membersOf(existing).map(({ sourceVolumeId }) => sourceVolumeId);
      if (areSame(sources, volumeIds)) return this.#describe(existing);
      throw new RuntimeError(
        'ALREADY_EXISTS',
        `a group named ${JSON.stringify(name)} exists, but of volumes ${sources.join(', ')}`,
      );
    });
  }

  async #delete(request: DeleteVolumeGroupSnapshotRequest__Output): Promise<object> {
    const id = checkGroupId(request.groupSnapshotId);
    checkMap('secrets', request.secrets);
    return this.#inFlight.run(id, async () => {
      const group = this.#snapshots.findGroup(id);
      // Idempotent: what is not there needs no removal.
      if (group === undefined) return {};
      requireMembers(group, request.snapshotIds);
      // A member may be the source of a volume that is being made.
      return this.#withTurns(group.snapshotIds, async () => {
        await this.#snapshots.removeGroup(group);
        return {};
      });
    });
  }

  #get(request: GetVolumeGroupSnapshotRequest__Output): VolumeGroupSnapshot {
    const id = checkGroupId(request.groupSnapshotId);
    checkMap('secrets', request.secrets);
    const group = this.#snapshots.findGroup(id);
    if (group === undefined) throw new RuntimeError('NOT_FOUND', `group ${JSON.stringify(id)} does not exist`);
    requireMembers(group, request.snapshotIds);
    return this.#describe(group);
  }

  #describe(group: GroupRecord): VolumeGroupSnapshot {
    return {
      groupSnapshotId: group.id,
      snapshots: this.#snapshots.membersOf(group).map(describeSnapshot),
      creationTime: timestampOf(group.createdAt),
      readyToUse: true,
    };
  }

  /** Runs `work` while no other call runs on any of these. */
  #withTurns<T>(ids: readonly string[], work: () => Promise<T>): Promise<T> {
    const [first, ...rest] = ids;
    return first === undefined ? work() : this.#inFlight.run(first, () => this.#withTurns(rest, work));
  }
}

function checkGroupId(id: string): string {
  if (id === '') throw invalid('group_snapshot_id', 'is missing');
  return checkText('group_snapshot_id', id);
}

function checkIds(field: string, ids: readonly string[]): readonly string[] {
  if (ids.length === 0 || ids.includes('')) throw invalid(field, 'are missing');
  if (ids.length > MAX_MEMBERS) throw invalid(field, `are ${ids.length}, at most ${MAX_MEMBERS} are taken`);
  if (new Set(ids).size < ids.length) throw invalid(field, 'name one volume twice');
  return ids.map((id) => checkText(field, id));
}

/** @throws {RuntimeError} INVALID_ARGUMENT when these are not the group's snapshots (CSI DeleteVolumeGroupSnapshot) */
function requireMembers(group: GroupRecord, asked: readonly string[]): void {
  if (areSame(group.snapshotIds, asked)) return;
  throw invalid('snapshot_ids', `group ${group.id} consists of ${group.snapshotIds.join(', ')}`);
}

function areSame(some: readonly string[], others: readonly string[]): boolean {
  return JSON.stringify(some.toSorted()) === JSON.stringify(others.toSorted());
}
