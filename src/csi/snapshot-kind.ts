/** How snapshots of one volume are cut, looked at and deleted (CSI CreateSnapshot, DeleteSnapshot). */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { CutKind } from './cut-provisioning.ts';
import type { CallSubject, PluginCaller } from './plugin-caller.ts';
import { CsiError, type Response } from './protocol.ts';
import type { SnapshotRecord } from './snapshot.ts';
import { createSnapshotRequest, deleteSnapshotRequest, readSnapshotCut } from './snapshot-calls.ts';
import { lookUpSnapshot } from './snapshot-listing.ts';

export class SnapshotKind implements CutKind<SnapshotRecord> {
  readonly title = 'snapshot';
  readonly #caller: PluginCaller;
  readonly #log: Logger;

  constructor(caller: PluginCaller, log: Logger) {
    this.#caller = caller;
    this.#log = log;
  }

  volumes({ volume }: SnapshotRecord): readonly string[] {
    return volume === undefined ? [] : [volume];
  }

  isIdentified({ snapshotId }: SnapshotRecord): boolean {
    return snapshotId !== undefined;
  }

  isOwned({ owned }: SnapshotRecord): boolean {
    return owned;
  }

  async cut(record: SnapshotRecord, signal: AbortSignal): Promise<Partial<SnapshotRecord>> {
    const request = createSnapshotRequest(record);
    const response = await this.#caller.call(keyOf(record), 'CreateSnapshot', request, signal);
    try {
      return readSnapshotCut(record, response);
    } catch (error) {
      await this.#disown(record, response, signal);
      throw error;
    }
  }

  /** A snapshot that Berth did not name cannot be asked for by the call that made it. */
  async look(record: SnapshotRecord, signal: AbortSignal): Promise<Partial<SnapshotRecord>> {
    if (record.owned) return this.cut(record, signal);
    const plugin = await this.#caller.plugin(record.driver, signal);
    const seen = await lookUpSnapshot(this.#caller, plugin, { ...record, snapshotId: idOf(record) }, signal);
    if (seen === undefined) return {};
    return { sizeBytes: seen.sizeBytes, state: seen.ready ? 'ready' : 'processing' };
  }

  async delete(record: SnapshotRecord, signal: AbortSignal): Promise<void> {
    await this.#delete(record, idOf(record), signal);
  }

  /** A snapshot that cannot be used is not kept in the storage system. */
  async #disown(record: SnapshotRecord, { snapshot }: Response<'CreateSnapshot'>, signal: AbortSignal): Promise<void> {
    const id = snapshot?.snapshotId ?? '';
    if (id === '' || id === record.snapshotId) return;
    try {
      await this.#delete(record, id, signal);
    } catch (error) {
      const { name, csiName } = record;
      this.#log.error({ snapshot: name, csiName, err: error }, 'an unusable snapshot is left behind');
    }
  }

  /** An absent snapshot is as good as deleted (CSI DeleteSnapshot). */
  async #delete(record: SnapshotRecord, snapshotId: string, signal: AbortSignal): Promise<void> {
    const request = deleteSnapshotRequest(snapshotId);
    try {
      await this.#caller.call(keyOf(record), 'DeleteSnapshot', request, signal);
    } catch (error) {
      if (!(error instanceof CsiError) || error.code !== 'NOT_FOUND') throw error;
    }
  }
}

/** Calls for a snapshot queue under this name. */
function keyOf({ name, driver, secretsName }: SnapshotRecord): CallSubject {
  return { name: `snapshot/${name}`, driver, secretsName };
}

function idOf({ name, snapshotId }: SnapshotRecord): string {
  if (snapshotId !== undefined) return snapshotId;
  throw new RuntimeError('INTERNAL', `snapshot ${name} has no id yet`);
}
