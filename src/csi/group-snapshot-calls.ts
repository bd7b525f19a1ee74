/** The calls about one group snapshot, made from its record alone; see snapshot-calls.ts. */
import { RuntimeError } from '../errors.ts';
import { instantOf } from './cut.ts';
import type { GroupMember, GroupSnapshotRecord } from './group-snapshot.ts';
import { lawful } from './plugin.ts';
import { checkText, type Request, type Response } from './protocol.ts';
import { readSnapshot, type SeenSnapshot } from './snapshot-calls.ts';

type GroupMessage = Response<'CreateVolumeGroupSnapshot'>['groupSnapshot'];

export function createGroupRequest(record: GroupSnapshotRecord): Request<'CreateVolumeGroupSnapshot'> {
  return {
    name: record.csiName,
    sourceVolumeIds: record.members.map(({ sourceVolumeId }) => sourceVolumeId),
    parameters: { ...record.parameters },
  };
}

/** All ids are sent: a plugin refuses a list that is not whole (CSI DeleteVolumeGroupSnapshot). */
export function deleteGroupRequest(
  groupSnapshotId: string,
  snapshotIds: readonly string[],
): Request<'DeleteVolumeGroupSnapshot'> {
  return { groupSnapshotId, snapshotIds: [...snapshotIds] };
}

/** @throws {CsiError} FAILED_PRECONDITION when the group cannot be used, though it was made */
export function readGroupCut(record: GroupSnapshotRecord, group: GroupMessage): Partial<GroupSnapshotRecord> {
  const check = (): Partial<GroupSnapshotRecord> => {
    const { groupSnapshotId, snapshotIds, seen } = readGroup(group);
    if (record.groupSnapshotId !== undefined && record.groupSnapshotId !== groupSnapshotId) {
      throw new RuntimeError(
        'INTERNAL',
        `group_snapshot_id was ${record.groupSnapshotId}, now it is ${groupSnapshotId}`,
      );
    }
    const members = record.members.map((member) => withSnapshot(member, seen));
    const ready = group?.readyToUse === true;
    const cutAt = record.cutAt ?? instantOf('creation_time', group?.creationTime ?? null);
    return { groupSnapshotId, snapshotIds, members, cutAt, state: ready ? 'ready' : 'processing' };
  };
  return lawful('CreateVolumeGroupSnapshot', record.driver, check, 'FAILED_PRECONDITION');
}

/** The ids of an answer, whatever else it says; undefined when there is nothing that could be deleted. */
export function idsOf(group: GroupMessage): { groupSnapshotId: string; snapshotIds: string[] } | undefined {
  if (group === null || group.groupSnapshotId === '') return undefined;
  return { groupSnapshotId: group.groupSnapshotId, snapshotIds: group.snapshots.map(({ snapshotId }) => snapshotId) };
}

interface SeenGroup {
  readonly groupSnapshotId: string;
  readonly snapshotIds: readonly string[];
  readonly seen: readonly SeenSnapshot[];
}

function readGroup(group: GroupMessage): SeenGroup {
  if (group === null) throw new RuntimeError('INTERNAL', 'group_snapshot is absent');
  if (group.groupSnapshotId === '') throw new RuntimeError('INTERNAL', 'group_snapshot_id is empty');
  const groupSnapshotId = checkText('group_snapshot_id', group.groupSnapshotId);
  const seen = group.snapshots.map(readSnapshot);
  const stray = seen.find((snapshot) => snapshot.groupSnapshotId !== groupSnapshotId);
  if (stray !== undefined) {
    throw new RuntimeError('INTERNAL', `snapshot ${stray.snapshotId} does not name the group as its group_snapshot_id`);
  }
  return { groupSnapshotId, seen, snapshotIds: seen.map(({ snapshotId }) => snapshotId) };
}

/** Each volume has exactly one snapshot. */
function withSnapshot(member: GroupMember, seen: readonly SeenSnapshot[]): GroupMember {
  const [own, second] = seen.filter(({ sourceVolumeId }) => sourceVolumeId === member.sourceVolumeId);
  if (own === undefined || second !== undefined) {
    const count = own === undefined ? 'no snapshot' : 'several snapshots';
    throw new RuntimeError('INTERNAL', `there is ${count} of volume ${member.volume}`);
  }
  if (member.snapshotId !== undefined && member.snapshotId !== own.snapshotId) {
    throw new RuntimeError('INTERNAL', `snapshot_id was ${member.snapshotId}, now it is ${own.snapshotId}`);
  }
  return { ...member, snapshotId: own.snapshotId, sizeBytes: own.sizeBytes, cutAt: member.cutAt ?? own.cutAt };
}
