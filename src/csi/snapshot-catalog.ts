/**
 * All snapshots of this machine by Berth's names, members of groups included: what can be restored, and what holds a
 * volume. It only reads the records; snapshot-manager.ts changes them.
 */
import { RuntimeError } from '../errors.ts';
import type { Store } from '../store.ts';
import type { CutRecord } from './cut.ts';
import { type GroupSnapshotRecord, memberSnapshots } from './group-snapshot.ts';
import type { SnapshotRecord } from './snapshot.ts';

export class SnapshotCatalog {
  readonly #snapshots: Store<SnapshotRecord>;
  readonly #groups: Store<GroupSnapshotRecord>;

  constructor(snapshots: Store<SnapshotRecord>, groups: Store<GroupSnapshotRecord>) {
    this.#snapshots = snapshots;
    this.#groups = groups;
  }

  /** All of them, by name. */
  list(): readonly SnapshotRecord[] {
    const members = [...this.#groups.entries().values()].flatMap(memberSnapshots);
    return [...this.#snapshots.entries().values(), ...members].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Undefined when there is none. @throws {RuntimeError} DATA_LOSS when its record does not decode */
  find(name: string): SnapshotRecord | undefined {
    return this.#snapshots.read(name) ?? this.#members().find((member) => member.name === name);
  }

  /** @throws {RuntimeError} NOT_FOUND with advice, or DATA_LOSS */
  get(name: string): SnapshotRecord {
    const record = this.find(name);
    if (record !== undefined) return record;
    const shown = name.slice(0, 128);
    const advice = `see "berth snapshot ls", or make it with "berth volume snapshot VOLUME --name ${shown}"`;
    throw new RuntimeError('NOT_FOUND', `no such snapshot: ${shown}: ${advice}`);
  }

  /**
   * Why a volume must stay for now: a snapshot of it is not finished, and only it can finish it. Undefined when nothing
   * holds it; snapshots that are ready live longer than their volume.
   */
  holdOn(volume: string): string | undefined {
    const single = [...this.#snapshots.entries().values()].find((one) => one.volume === volume && isUnfinished(one));
    if (single !== undefined) return `snapshot ${single.name} of it is ${single.state}`;
    const group = [...this.#groups.entries().values()].find(
      (one) => isUnfinished(one) && one.members.some((member) => member.volume === volume),
    );
    return group === undefined ? undefined : `group snapshot ${group.name} of it is ${group.state}`;
  }

  #members(): readonly SnapshotRecord[] {
    return [...this.#groups.entries().values()].flatMap(memberSnapshots);
  }
}

/** Its Create… may be sent again. */
function isUnfinished(
  record: CutRecord & Partial<Pick<SnapshotRecord & GroupSnapshotRecord, 'snapshotId' | 'groupSnapshotId'>>,
): boolean {
  const identified = record.snapshotId !== undefined || record.groupSnapshotId !== undefined;
  return record.state === 'cutting' || record.state === 'processing' || (record.state === 'deleting' && !identified);
}
