/**
 * The calls about one snapshot, made from its record alone, so that a repeated call says exactly what the first one
 * said. What comes back is checked here before anything believes it.
 */
import { RuntimeError } from '../errors.ts';
import { instantOf } from './cut.ts';
import type { Snapshot__Output } from './generated/csi/v1/Snapshot.ts';
import { lawful } from './plugin.ts';
import { checkText, type Request, type Response } from './protocol.ts';
import type { SnapshotRecord } from './snapshot.ts';

/** What a plugin tells about a snapshot. */
export interface SeenSnapshot {
  readonly snapshotId: string;
  readonly sourceVolumeId: string;
  /** Bytes in decimal; "0" when not known. */
  readonly sizeBytes: string;
  readonly cutAt?: string | undefined;
  readonly ready: boolean;
  /** Empty when it is part of no group. */
  readonly groupSnapshotId: string;
}

export function createSnapshotRequest(record: SnapshotRecord): Request<'CreateSnapshot'> {
  const { sourceVolumeId } = record;
  if (sourceVolumeId === undefined) throw new RuntimeError('INTERNAL', `snapshot ${record.name} has no source`);
  return { sourceVolumeId, name: record.csiName, parameters: { ...record.parameters } };
}

/** @throws {CsiError} FAILED_PRECONDITION when the snapshot cannot be used, though it was made */
export function readSnapshotCut(
  record: SnapshotRecord,
  { snapshot }: Response<'CreateSnapshot'>,
): Partial<SnapshotRecord> {
  const check = (): Partial<SnapshotRecord> => {
    const seen = readSnapshot(snapshot);
    checkSameSnapshot(record, seen);
    const { snapshotId, sizeBytes, ready } = seen;
    const cutAt = record.cutAt ?? seen.cutAt;
    return { snapshotId, sizeBytes, cutAt, state: ready ? 'ready' : 'processing' };
  };
  return lawful('CreateSnapshot', record.driver, check, 'FAILED_PRECONDITION');
}

/** The fields of a snapshot message. @throws {RuntimeError} naming the field that cannot be */
export function readSnapshot(snapshot: Snapshot__Output | null): SeenSnapshot {
  if (snapshot === null) throw new RuntimeError('INTERNAL', 'snapshot is absent');
  if (snapshot.snapshotId === '') throw new RuntimeError('INTERNAL', 'snapshot_id is empty');
  const size = BigInt(snapshot.sizeBytes);
  if (size < 0n) throw new RuntimeError('INTERNAL', `size_bytes is ${size}`);
  return {
    snapshotId: checkText('snapshot_id', snapshot.snapshotId),
    sourceVolumeId: snapshot.sourceVolumeId,
    sizeBytes: String(size),
    cutAt: instantOf('creation_time', snapshot.creationTime),
    ready: snapshot.readyToUse,
    groupSnapshotId: snapshot.groupSnapshotId,
  };
}

/** One name is one snapshot, of one volume, for ever. */
function checkSameSnapshot(record: SnapshotRecord, seen: SeenSnapshot): void {
  if (seen.sourceVolumeId !== record.sourceVolumeId) {
    const said = JSON.stringify(seen.sourceVolumeId.slice(0, 128));
    throw new RuntimeError('INTERNAL', `source_volume_id is ${said}, not that of volume ${record.volume}`);
  }
  if (record.snapshotId !== undefined && seen.snapshotId !== record.snapshotId) {
    throw new RuntimeError('INTERNAL', `snapshot_id was ${record.snapshotId}, now it is ${seen.snapshotId}`);
  }
}

export function deleteSnapshotRequest(snapshotId: string): Request<'DeleteSnapshot'> {
  return { snapshotId };
}
