/**
 * How group snapshots are cut and deleted (CSI CreateVolumeGroupSnapshot, GetVolumeGroupSnapshot,
 * DeleteVolumeGroupSnapshot).
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { CutKind } from './cut-provisioning.ts';
import type { GroupSnapshotRecord } from './group-snapshot.ts';
import { createGroupRequest, deleteGroupRequest, idsOf, readGroupCut } from './group-snapshot-calls.ts';
import type { CallSubject, PluginCaller } from './plugin-caller.ts';
import { CsiError, type Response } from './protocol.ts';

export class GroupSnapshotKind implements CutKind<GroupSnapshotRecord> {
  readonly title = 'group snapshot';
  readonly #caller: PluginCaller;
  readonly #log: Logger;

  constructor(caller: PluginCaller, log: Logger) {
    this.#caller = caller;
    this.#log = log;
  }

  volumes({ members }: GroupSnapshotRecord): readonly string[] {
    return members.map(({ volume }) => volume);
  }

  isIdentified({ groupSnapshotId }: GroupSnapshotRecord): boolean {
    return groupSnapshotId !== undefined;
  }

  isOwned(): boolean {
    return true;
  }

  async cut(record: GroupSnapshotRecord, signal: AbortSignal): Promise<Partial<GroupSnapshotRecord>> {
    const request = createGroupRequest(record);
    const response = await this.#caller.call(keyOf(record), 'CreateVolumeGroupSnapshot', request, signal);
    try {
      return readGroupCut(record, response.groupSnapshot);
    } catch (error) {
      await this.#disown(record, response, signal);
      throw error;
    }
  }

  /** The same call as the cut: only it tells why a plugin cannot finish. */
  look(record: GroupSnapshotRecord, signal: AbortSignal): Promise<Partial<GroupSnapshotRecord>> {
    return this.cut(record, signal);
  }

  async delete(record: GroupSnapshotRecord, signal: AbortSignal): Promise<void> {
    await this.#delete(record, idOf(record), record.snapshotIds, signal);
  }

  /** How the plugin sees a group now. @throws {RuntimeError} what the plugin says */
  async inspect(record: GroupSnapshotRecord, signal: AbortSignal): Promise<Partial<GroupSnapshotRecord>> {
    const request = { groupSnapshotId: idOf(record), snapshotIds: [...record.snapshotIds] };
    const { groupSnapshot } = await this.#caller.call(keyOf(record), 'GetVolumeGroupSnapshot', request, signal);
    return readGroupCut(record, groupSnapshot);
  }

  /** A group that cannot be used is not kept in the storage system. */
  async #disown(
    record: GroupSnapshotRecord,
    { groupSnapshot }: Response<'CreateVolumeGroupSnapshot'>,
    signal: AbortSignal,
  ): Promise<void> {
    const ids = idsOf(groupSnapshot);
    if (ids === undefined || ids.groupSnapshotId === record.groupSnapshotId) return;
    try {
      await this.#delete(record, ids.groupSnapshotId, ids.snapshotIds, signal);
    } catch (error) {
      const { name, csiName } = record;
      this.#log.error({ group: name, csiName, err: error }, 'an unusable group snapshot is left behind');
    }
  }

  /** An absent group is as good as deleted. */
  async #delete(
    record: GroupSnapshotRecord,
    groupSnapshotId: string,
    snapshotIds: readonly string[],
    signal: AbortSignal,
  ): Promise<void> {
    const request = deleteGroupRequest(groupSnapshotId, snapshotIds);
    try {
      await this.#caller.call(keyOf(record), 'DeleteVolumeGroupSnapshot', request, signal);
    } catch (error) {
      if (!(error instanceof CsiError) || error.code !== 'NOT_FOUND') throw error;
    }
  }
}

/** Calls for a group queue under this name. */
function keyOf({ name, driver, secretsName }: GroupSnapshotRecord): CallSubject {
  return { name: `group/${name}`, driver, secretsName };
}

function idOf({ name, groupSnapshotId }: GroupSnapshotRecord): string {
  if (groupSnapshotId !== undefined) return groupSnapshotId;
  throw new RuntimeError('INTERNAL', `group snapshot ${name} has no id yet`);
}
