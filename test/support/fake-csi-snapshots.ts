/**
 * The snapshots of a FakeCsi: the calls of Controller and GroupController about them, the table of what was cut, and how
 * many questions each needs until it is ready. A snapshot is a copy of the volume's backing file or directory.
 */
import { cp } from 'node:fs/promises';
import type { Message, Rpcs } from './csi-message.ts';
import type { FakeCsi } from './fake-csi.ts';
import { FakeStatus } from './fake-status.ts';

interface FakeSnapshot {
  readonly id: string;
  readonly name: string;
  readonly request: Message;
  readonly sourceVolumeId: string;
  readonly sizeBytes: string;
  readonly group: string;
  /** Times it was asked for. */
  asked: number;
}

interface FakeGroup {
  readonly id: string;
  readonly request: Message;
  readonly members: readonly string[];
  asked: number;
}

export class FakeSnapshots {
  /** By id. */
  readonly snapshots = new Map<string, FakeSnapshot>();
  readonly groups = new Map<string, FakeGroup>();
  /** A snapshot is ready when it is asked for the nth time; 1 is at once. */
  readyAfter = 1;
  /** Entries of a page of ListSnapshots, whatever is asked for. */
  pageEntries = 2;
  readonly #plugin: FakeCsi;
  #sequence = 0;

  constructor(plugin: FakeCsi) {
    this.#plugin = plugin;
  }

  /** Methods of Controller. */
  controllerRpcs(): Rpcs {
    return {
      CreateSnapshot: async (request) => ({ snapshot: this.#message(await this.#create(request)) }),
      DeleteSnapshot: (request) => this.#delete(request),
      ListSnapshots: async (request) => this.#list(request),
      GetSnapshot: async ({ snapshotId }) => ({ snapshot: this.#message(this.#known(snapshotId)) }),
    };
  }

  /** Methods of GroupController. */
  groupRpcs(): Rpcs {
    const { groupController = [] } = this.#plugin.options;
    return {
      GroupControllerGetCapabilities: async () => ({
        capabilities: groupController.map((type) => ({ rpc: { type } })),
      }),
      CreateVolumeGroupSnapshot: async (request) => ({ groupSnapshot: await this.#createGroup(request) }),
      DeleteVolumeGroupSnapshot: (request) => this.#deleteGroup(request),
      GetVolumeGroupSnapshot: async (request) => ({ groupSnapshot: this.#getGroup(request) }),
    };
  }

  /** Where the copy of a snapshot lies. */
  backing(id: string): string {
    return `${this.#plugin.options.backingDir}/snap-${Buffer.from(id).toString('hex').slice(0, 200)}`;
  }

  async #create(request: Message): Promise<FakeSnapshot> {
    const existing = [...this.snapshots.values()].find((one) => one.name === request['name']);
    if (existing !== undefined) {
      if (JSON.stringify(existing.request) !== JSON.stringify(request)) {
        this.#plugin.violations.push(`CreateSnapshot: repeated with other fields for ${request['name']}`);
        throw new FakeStatus('ALREADY_EXISTS', 'the name is taken');
      }
      existing.asked += 1;
      return existing;
    }
    return this.#cut(request['sourceVolumeId'], request['name'], request, '');
  }

  async #cut(volumeId: string, name: string, request: Message, group: string): Promise<FakeSnapshot> {
    const volume = this.#plugin.volumes.get(volumeId);
    if (volume === undefined) throw new FakeStatus('NOT_FOUND', `no volume ${volumeId}`);
    this.#sequence += 1;
    const id = `snap-${this.#sequence}-${name}`.slice(0, 120);
    await cp(this.#plugin.backing(volume), this.backing(id), { recursive: true });
    const sizeBytes = String(volume.request['capacityRange']?.requiredBytes ?? 0);
    const snapshot = { id, name, request, sourceVolumeId: volumeId, sizeBytes, group, asked: 1 };
    this.snapshots.set(id, snapshot);
    return snapshot;
  }

  async #delete({ snapshotId }: Message): Promise<Message> {
    const group = this.snapshots.get(snapshotId)?.group ?? '';
    if (group !== '') throw new FakeStatus('INVALID_ARGUMENT', `it belongs to ${group}`);
    this.snapshots.delete(snapshotId);
    return {};
  }

  #list({ startingToken, sourceVolumeId, snapshotId }: Message): Message {
    const start = startingToken === '' ? 0 : Number(startingToken);
    if (!Number.isInteger(start)) throw new FakeStatus('ABORTED', 'bad token');
    const all = [...this.snapshots.values()].filter(
      (one) =>
        (sourceVolumeId === '' || one.sourceVolumeId === sourceVolumeId) &&
        (snapshotId === '' || one.id === snapshotId),
    );
    const end = start + this.pageEntries;
    const entries = all.slice(start, end).map((one) => ({ snapshot: this.#message(one) }));
    return { entries, nextToken: end < all.length ? String(end) : '' };
  }

  async #createGroup(request: Message): Promise<Message> {
    const existing = [...this.groups.values()].find((group) => group.request['name'] === request['name']);
    if (existing !== undefined) {
      if (JSON.stringify(existing.request) !== JSON.stringify(request)) {
        this.#plugin.violations.push(`CreateVolumeGroupSnapshot: repeated with other fields for ${request['name']}`);
        throw new FakeStatus('ALREADY_EXISTS', 'the name is taken');
      }
      existing.asked += 1;
      return this.#groupMessage(existing);
    }
    const id = `group-of-${request['name']}`;
    const members: string[] = [];
    for (const volumeId of request['sourceVolumeIds']) {
      members.push((await this.#cut(volumeId, `${request['name']}-${volumeId}`, request, id)).id);
    }
    const group = { id, request, members, asked: 1 };
    this.groups.set(id, group);
    return this.#groupMessage(group);
  }

  #getGroup({ groupSnapshotId, snapshotIds }: Message): Message {
    const group = this.groups.get(groupSnapshotId);
    if (group === undefined) throw new FakeStatus('NOT_FOUND', `no group ${groupSnapshotId}`);
    this.#sameIds('GetVolumeGroupSnapshot', group, snapshotIds);
    group.asked += 1;
    return this.#groupMessage(group);
  }

  async #deleteGroup({ groupSnapshotId, snapshotIds }: Message): Promise<Message> {
    const group = this.groups.get(groupSnapshotId);
    if (group === undefined) return {};
    this.#sameIds('DeleteVolumeGroupSnapshot', group, snapshotIds);
    for (const id of group.members) this.snapshots.delete(id);
    this.groups.delete(groupSnapshotId);
    return {};
  }

  #sameIds(rpc: string, { members }: FakeGroup, ids: readonly string[]): void {
    if (JSON.stringify([...members].sort()) === JSON.stringify([...ids].sort())) return;
    this.#plugin.violations.push(`${rpc}: snapshot_ids are not those of the group`);
    throw new FakeStatus('INVALID_ARGUMENT', 'snapshot_ids do not match');
  }

  #known(id: string): FakeSnapshot {
    const snapshot = this.snapshots.get(id);
    if (snapshot === undefined) throw new FakeStatus('NOT_FOUND', `no snapshot ${id}`);
    snapshot.asked += 1;
    return snapshot;
  }

  #message({ id, sourceVolumeId, sizeBytes, group, asked }: FakeSnapshot): Message {
    return {
      snapshotId: id,
      sourceVolumeId,
      sizeBytes,
      creationTime: { seconds: '1767225600', nanos: 500_000_000 },
      readyToUse: asked >= this.readyAfter,
      groupSnapshotId: group,
    };
  }

  #groupMessage({ id, members, asked }: FakeGroup): Message {
    const snapshots = members.flatMap((member) => this.snapshots.get(member) ?? []);
    return {
      groupSnapshotId: id,
      snapshots: snapshots.map((snapshot) => ({ ...this.#message(snapshot), readyToUse: asked >= this.readyAfter })),
      creationTime: { seconds: '1767225600', nanos: 0 },
      readyToUse: asked >= this.readyAfter,
    };
  }
}
