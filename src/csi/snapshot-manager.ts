/**
 * Snapshots and group snapshots of this machine: cut, waited for, registered, listed, deleted. It owns their records;
 * how they move is cut-lifecycle.ts. What is made of snapshots is the volume manager's.
 */
import type { Logger } from 'pino';
import { invalid, RuntimeError } from '../errors.ts';
import type { Store } from '../store.ts';
import { checkSnapshotName, newCsiName } from './cut.ts';
import { CutLifecycle } from './cut-lifecycle.ts';
import type { HoldVolume } from './cut-provisioning.ts';
import { type GroupLook, lookAtGroup } from './group-look.ts';
import {
  type GroupMember,
  type GroupSnapshotRecord,
  type GroupSnapshotRequest,
  isSameGroup,
  memberName,
  sharedSecrets,
  validateGroupSnapshotRequest,
} from './group-snapshot.ts';
import { GroupSnapshotKind } from './group-snapshot-kind.ts';
import type { Plugin } from './plugin.ts';
import type { PluginCaller } from './plugin-caller.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import type { PollPauses } from './readiness-poller.ts';
import {
  isSameSnapshot,
  type KnownSnapshot,
  type SnapshotRecord,
  type SnapshotRequest,
  validateKnownSnapshot,
  validateSnapshotRequest,
} from './snapshot.ts';
import { type BlockPage, type BlockQuestion, snapshotBlocks } from './snapshot-blocks.ts';
import type { SeenSnapshot } from './snapshot-calls.ts';
import { SnapshotCatalog } from './snapshot-catalog.ts';
import { SnapshotKind } from './snapshot-kind.ts';
import { listSnapshots, lookUpSnapshot } from './snapshot-listing.ts';
import type { VolumeRecord } from './volume.ts';
import { VolumeSources } from './volume-source.ts';

/** What snapshots need of the volume manager. */
export interface SourceVolumes {
  readonly caller: PluginCaller;
  get(name: string): VolumeRecord;
  exclusive<T>(name: string, work: () => Promise<T>, signal: AbortSignal): Promise<T>;
}

export interface SnapshotManagerOptions {
  readonly registry: PluginRegistry;
  readonly snapshots: Store<SnapshotRecord>;
  readonly groups: Store<GroupSnapshotRecord>;
  /** Records of volumes, to be read only. */
  readonly volumeRecords: Store<VolumeRecord>;
  readonly volumes: SourceVolumes;
  readonly log: Logger;
  readonly pauses?: PollPauses | undefined;
}

/** A snapshot as a plugin lists it, with Berth's name for it if it has one. */
export interface ListedSnapshot extends SeenSnapshot {
  readonly name?: string | undefined;
}

/** Snapshots by Berth's names. */
export interface BlockWords extends Omit<BlockQuestion, 'snapshot' | 'base'> {
  readonly name: string;
  readonly base?: string | undefined;
}

/** Longest time a start of the daemon waits for one snapshot; the background goes on. */
const RECOVER_TIMEOUT_MS = 10_000;

export class SnapshotManager {
  readonly #volumes: SourceVolumes;
  readonly #volumeRecords: Store<VolumeRecord>;
  readonly #catalog: SnapshotCatalog;
  readonly #sources: VolumeSources;
  readonly #caller: PluginCaller;
  readonly #singles: CutLifecycle<SnapshotRecord>;
  readonly #groups: CutLifecycle<GroupSnapshotRecord>;
  readonly #groupKind: GroupSnapshotKind;

  constructor(options: SnapshotManagerOptions) {
    const { registry, volumes, snapshots, groups, pauses } = options;
    const log = options.log.child({ component: 'snapshots' });
    this.#volumes = volumes;
    this.#volumeRecords = options.volumeRecords;
    this.#catalog = new SnapshotCatalog(snapshots, groups);
    this.#sources = new VolumeSources(options.volumeRecords, this.#catalog);
    this.#caller = volumes.caller;
    const hold: HoldVolume = (name, work, signal) => volumes.exclusive(name, work, signal);
    const shared = { registry, hold, log, pauses };
    this.#singles = new CutLifecycle({ ...shared, store: snapshots, kind: new SnapshotKind(this.#caller, log) });
    this.#groupKind = new GroupSnapshotKind(this.#caller, log);
    this.#groups = new CutLifecycle({ ...shared, store: groups, kind: this.#groupKind });
  }

  /**
   * Cuts a snapshot of a volume. The same request may be repeated. Returns when the plugin has cut, which may be before
   * the snapshot can be used: see {@link untilReady}. An error leaves nothing.
   * @throws {RuntimeError} INVALID_ARGUMENT naming the field, NOT_FOUND without such a volume, UNIMPLEMENTED when the
   * plugin cuts none, ALREADY_EXISTS when the name is taken, or what the plugin says
   */
  async create(request: SnapshotRequest, signal: AbortSignal): Promise<SnapshotRecord> {
    validateSnapshotRequest(request);
    const { name, volume, parameters } = request;
    this.#refuseMember(name);
    const known = this.#singles.find(name);
    if (known === undefined) await this.#cutter(this.#volumes.get(volume).driver, signal);
    const intend = (): SnapshotRecord => {
      this.#refuseMember(name);
      const { driver, volumeId, access, fsType, secretsName } = this.#standing(volume);
      const source = { volume, sourceVolumeId: volumeId, access, fsType, secretsName };
      return { ...begun(name, driver), ...source, parameters, sizeBytes: '0', owned: true };
    };
    return this.#singles.cut(name, { same: (record) => isSameSnapshot(record, request), intend }, signal);
  }

  /**
   * Cuts several volumes of one plugin at one instant; otherwise as {@link create}.
   * @throws {RuntimeError} as {@link create}, INVALID_ARGUMENT when the volumes belong to several plugins
   */
  async createGroup(request: GroupSnapshotRequest, signal: AbortSignal): Promise<GroupSnapshotRecord> {
    validateGroupSnapshotRequest(request);
    const { name, volumes, parameters } = request;
    if (this.#groups.find(name) === undefined) await this.#groupCutter(this.#oneDriver(volumes), signal);
    const intend = (): GroupSnapshotRecord => {
      const driver = this.#oneDriver(volumes);
      const members = volumes.map((volume) => this.#member(name, volume));
      const secretsName = sharedSecrets(volumes.map((volume) => this.#volumes.get(volume)));
      return { ...begun(name, driver), parameters, members, snapshotIds: [], secretsName };
    };
    return this.#groups.cut(name, { same: (record) => isSameGroup(record, request), intend }, signal);
  }

  /**
   * Takes on a snapshot that somebody else made; removing it only forgets it.
   * @throws {RuntimeError} NOT_FOUND when the plugin says that it has none, ALREADY_EXISTS when name or snapshot is known
   */
  async register(known: KnownSnapshot, signal: AbortSignal): Promise<SnapshotRecord> {
    validateKnownSnapshot(known);
    const { name, driver, snapshotId } = known;
    this.#refuseMember(name);
    const plugin = await this.#caller.plugin(driver, signal);
    const seen = await lookUpSnapshot(this.#caller, plugin, { snapshotId }, signal);
    const same = this.#catalog.list().find((one) => one.driver === driver && one.snapshotId === snapshotId);
    if (same !== undefined) {
      throw new RuntimeError('ALREADY_EXISTS', `this snapshot of ${driver} is known as ${same.name}`);
    }
    const record: SnapshotRecord = {
      ...begun(name, driver),
      snapshotId,
      ...(seen?.sourceVolumeId ? this.#sourceOf(driver, seen.sourceVolumeId) : {}),
      parameters: {},
      sizeBytes: seen?.sizeBytes ?? '0',
      cutAt: seen?.cutAt,
      state: seen === undefined || seen.ready ? 'ready' : 'processing',
      owned: false,
    };
    return this.#singles.adopt(record, signal);
  }

  /** Waits until a snapshot can be used. @throws {RuntimeError} what became of it instead */
  async untilReady(name: string, signal: AbortSignal): Promise<SnapshotRecord> {
    const { group } = this.get(name);
    if (group === undefined) return this.#singles.untilReady(name, signal);
    await this.untilGroupReady(group, signal);
    return this.get(name);
  }

  /** Waits until all members of a group can be used. @throws {RuntimeError} what became of it instead */
  async untilGroupReady(name: string, signal: AbortSignal): Promise<GroupSnapshotRecord> {
    this.getGroup(name);
    return this.#groups.untilReady(name, signal);
  }

  /** All snapshots by name, members of groups included. */
  list(): readonly SnapshotRecord[] {
    return this.#catalog.list();
  }

  /** @throws {RuntimeError} NOT_FOUND, or DATA_LOSS when its record does not decode */
  get(name: string): SnapshotRecord {
    return this.#catalog.get(name);
  }

  /** All groups, by name. */
  listGroups(): readonly GroupSnapshotRecord[] {
    return this.#groups.list();
  }

  /** @throws {RuntimeError} NOT_FOUND, or DATA_LOSS when its record does not decode */
  getGroup(name: string): GroupSnapshotRecord {
    const record = this.#groups.find(name);
    if (record !== undefined) return record;
    throw new RuntimeError('NOT_FOUND', `no such group snapshot: ${name.slice(0, 128)}: see "berth snapshot group ls"`);
  }

  /** How the plugin sees a group now. @throws {RuntimeError} NOT_FOUND without such a group */
  async lookAtGroup(name: string, signal: AbortSignal): Promise<GroupLook> {
    return lookAtGroup(this.#groupKind, this.getGroup(name), signal);
  }

  /** Which bytes of a snapshot hold data, or differ from `base`. @throws {RuntimeError} as snapshotBlocks */
  blocks({ name, base, ...rest }: BlockWords, signal: AbortSignal): AsyncGenerator<BlockPage> {
    const question = { snapshot: this.get(name), base: base === undefined ? undefined : this.get(base), ...rest };
    return snapshotBlocks(this.#caller, question, signal);
  }

  /** Every snapshot that a plugin lists, Berth's or not. @throws {RuntimeError} UNIMPLEMENTED when it lists none */
  async listAtPlugin(
    driver: string,
    volume: string | undefined,
    signal: AbortSignal,
  ): Promise<readonly ListedSnapshot[]> {
    const plugin = await this.#caller.plugin(driver, signal);
    const { volumeId, secretsName } = volume === undefined ? {} : this.#volumes.get(volume);
    const listed = await listSnapshots(this.#caller, plugin, { sourceVolumeId: volumeId, secretsName }, signal);
    const ours = this.list().filter((record) => record.driver === driver);
    const named = new Map(ours.map((record) => [record.snapshotId, record.name]));
    return listed.map((seen) => ({ ...seen, name: named.get(seen.snapshotId) }));
  }

  /**
   * Deletes a snapshot; repeated until the plugin has done it. One that was registered is only forgotten.
   * @throws {RuntimeError} NOT_FOUND, FAILED_PRECONDITION for a member of a group and while a volume is made of it, or
   * what the plugin says
   */
  async remove(name: string, signal: AbortSignal): Promise<void> {
    const { group } = this.get(name);
    if (group !== undefined) {
      const advice = `remove them all with "berth snapshot group rm ${group}"`;
      throw new RuntimeError('FAILED_PRECONDITION', `snapshot ${name} ends with its group ${group} only: ${advice}`);
    }
    await this.#singles.remove(name, () => this.#refuseRemoval(name), signal);
  }

  /** Deletes a group and all its members; otherwise as {@link remove}. */
  async removeGroup(name: string, signal: AbortSignal): Promise<void> {
    this.getGroup(name);
    const guard = ({ members }: GroupSnapshotRecord): void => {
      for (const member of members) this.#refuseRemoval(member.name);
    };
    await this.#groups.remove(name, guard, signal);
  }

  /** Due once, before any other call, after the volumes have recovered. */
  async recover(signal: AbortSignal): Promise<void> {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(RECOVER_TIMEOUT_MS)]);
    await Promise.all([this.#singles.recover(bounded), this.#groups.recover(bounded)]);
  }

  /** Ends the background's work; due before the volumes close. Snapshots stay as they are. */
  async close(): Promise<void> {
    await Promise.all([this.#singles.close(), this.#groups.close()]);
  }

  async #cutter(driver: string, signal: AbortSignal): Promise<void> {
    const { capabilities } = await this.#caller.plugin(driver, signal);
    if (capabilities.controller.has('CREATE_DELETE_SNAPSHOT')) return;
    const text = `CSI plugin ${driver} makes no snapshots (it does not offer CREATE_DELETE_SNAPSHOT)`;
    throw new RuntimeError('UNIMPLEMENTED', text);
  }

  async #groupCutter(driver: string, signal: AbortSignal): Promise<void> {
    const plugin = await this.#caller.plugin(driver, signal);
    if (cutsGroups(plugin)) return;
    const capability = 'CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT';
    const text = `CSI plugin ${driver} makes no group snapshots (it does not offer ${capability})`;
    throw new RuntimeError('UNIMPLEMENTED', text);
  }

  /** A snapshot of a volume that is on record gets the volume's secrets from now on. */
  #sourceOf(driver: string, sourceVolumeId: string): Pick<SnapshotRecord, 'sourceVolumeId' | 'secretsName'> {
    const all = [...this.#volumeRecords.entries().values()];
    const source = all.find((one) => one.driver === driver && one.volumeId === sourceVolumeId);
    return { sourceVolumeId, secretsName: source?.secretsName };
  }

  /** A volume that is there. */
  #standing(name: string): VolumeRecord & { readonly volumeId: string } {
    const record = this.#volumes.get(name);
    const { state, volumeId } = record;
    if (volumeId !== undefined && state !== 'creating' && state !== 'deleting') return { ...record, volumeId };
    throw new RuntimeError('FAILED_PRECONDITION', `volume ${name} is ${state}: there is nothing to cut`);
  }

  #member(group: string, volume: string): GroupMember {
    const name = memberName(group, volume);
    const taken = this.#catalog.find(name);
    if (taken !== undefined && taken.group !== group) {
      throw new RuntimeError('ALREADY_EXISTS', `snapshot ${name} exists: choose another name for the group`);
    }
    const { volumeId, access, fsType } = this.#standing(volume);
    return { name, volume, sourceVolumeId: volumeId, access, fsType, sizeBytes: '0' };
  }

  #oneDriver(volumes: readonly string[]): string {
    const drivers = [...new Set(volumes.map((volume) => this.#volumes.get(volume).driver))];
    const [driver] = drivers;
    if (driver !== undefined && drivers.length === 1) return driver;
    throw invalid('volumes', `a group has volumes of one plugin only, these belong to ${drivers.join(', ')}`);
  }

  #refuseMember(name: string): void {
    const group = this.#catalog.find(checkSnapshotName('name', name))?.group;
    if (group === undefined) return;
    throw new RuntimeError('ALREADY_EXISTS', `snapshot ${name} exists as a member of group ${group}`);
  }

  #refuseRemoval(name: string): void {
    const hold = this.#sources.holdOn({ kind: 'snapshot', name });
    if (hold !== undefined) throw new RuntimeError('FAILED_PRECONDITION', `snapshot ${name} must stay: ${hold}`);
  }
}

function cutsGroups({ capabilities }: Plugin): boolean {
  return capabilities.groupController.has('CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT');
}

/** What every first record says. */
function begun(
  name: string,
  driver: string,
): Pick<SnapshotRecord, 'name' | 'driver' | 'csiName' | 'state' | 'requestedAt'> {
  const requestedAt = new Date().toISOString();
  return { name, driver, csiName: newCsiName(name), state: 'cutting', requestedAt };
}
