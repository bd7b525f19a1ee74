/** How plugins see group snapshots now (CSI GetVolumeGroupSnapshot). Nothing is changed. */
import { RuntimeError } from '../errors.ts';
import type { GroupSnapshotRecord } from './group-snapshot.ts';
import type { GroupSnapshotKind } from './group-snapshot-kind.ts';
import { CsiError } from './protocol.ts';

/** What a look has shown. */
export interface GroupLook {
  /** "unknown": nobody was asked, or nobody answered. */
  readonly atPlugin: 'present' | 'changed' | 'gone' | 'unknown';
  /** Why; empty when it is as it was made. */
  readonly reason: string;
}

/** Longest wait for an answer. */
const LOOK_TIMEOUT_MS = 10_000;

/** Compares a group with what its plugin says of it. One that is on its way is not asked about: that is done already. */
export async function lookAtGroup(
  kind: Pick<GroupSnapshotKind, 'inspect'>,
  record: GroupSnapshotRecord,
  signal: AbortSignal,
): Promise<GroupLook> {
  if (record.state !== 'ready') return { atPlugin: 'unknown', reason: `it is ${record.state}` };
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(LOOK_TIMEOUT_MS)]);
  try {
    const seen = await kind.inspect(record, bounded);
    if (seen.state !== 'ready') return { atPlugin: 'changed', reason: 'the plugin says that it is not ready' };
    const ids = JSON.stringify([...(seen.snapshotIds ?? [])].sort());
    if (ids === JSON.stringify([...record.snapshotIds].sort())) return { atPlugin: 'present', reason: '' };
    return { atPlugin: 'changed', reason: 'its snapshots are not those that were made' };
  } catch (error) {
    const { code, message } = RuntimeError.from(error, 'no answer');
    if (!(error instanceof CsiError)) return { atPlugin: 'unknown', reason: message };
    // INVALID_ARGUMENT: the ids do not match; FAILED_PRECONDITION: the answer is another group.
    const changed = code === 'INVALID_ARGUMENT' || code === 'FAILED_PRECONDITION';
    return { atPlugin: code === 'NOT_FOUND' ? 'gone' : changed ? 'changed' : 'unknown', reason: message };
  }
}
