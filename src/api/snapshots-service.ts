/** The Snapshots and GroupSnapshots services: calls of the API as calls of the snapshot manager. */
import { type GroupSnapshotRecord, memberSnapshots } from '../csi/group-snapshot.ts';
import type { SnapshotRecord } from '../csi/snapshot.ts';
import type { BlockPage } from '../csi/snapshot-blocks.ts';
import type { ListedSnapshot, SnapshotManager } from '../csi/snapshot-manager.ts';
import type { CreateGroupSnapshotRequest__Output } from './generated/berth/v1/CreateGroupSnapshotRequest.ts';
import type { CreateSnapshotRequest__Output } from './generated/berth/v1/CreateSnapshotRequest.ts';
import type { DriverSnapshot } from './generated/berth/v1/DriverSnapshot.ts';
import type { GroupSnapshot } from './generated/berth/v1/GroupSnapshot.ts';
import type { GroupSnapshotRequest__Output } from './generated/berth/v1/GroupSnapshotRequest.ts';
import type { GroupSnapshotsDefinition } from './generated/berth/v1/GroupSnapshots.ts';
import type { ListDriverSnapshotsRequest__Output } from './generated/berth/v1/ListDriverSnapshotsRequest.ts';
import type { ListDriverSnapshotsResponse } from './generated/berth/v1/ListDriverSnapshotsResponse.ts';
import type { ListGroupSnapshotsResponse } from './generated/berth/v1/ListGroupSnapshotsResponse.ts';
import type { ListSnapshotsResponse } from './generated/berth/v1/ListSnapshotsResponse.ts';
import type { Parameter__Output } from './generated/berth/v1/Parameter.ts';
import type { RegisterSnapshotRequest__Output } from './generated/berth/v1/RegisterSnapshotRequest.ts';
import type { RemoveGroupSnapshotResponse } from './generated/berth/v1/RemoveGroupSnapshotResponse.ts';
import type { RemoveSnapshotResponse } from './generated/berth/v1/RemoveSnapshotResponse.ts';
import type { Snapshot } from './generated/berth/v1/Snapshot.ts';
import type { SnapshotBlocks } from './generated/berth/v1/SnapshotBlocks.ts';
import type { SnapshotBlocksRequest__Output } from './generated/berth/v1/SnapshotBlocksRequest.ts';
import type { SnapshotRequest__Output } from './generated/berth/v1/SnapshotRequest.ts';
import type { SnapshotsDefinition } from './generated/berth/v1/Snapshots.ts';
import { checkRef } from './object-ref.ts';
import type { Call, ServiceMethods } from './protocol.ts';

/** Asked when nobody said which driver. */
const DEFAULT_DRIVER = 'local.csi.berth';

/** What the service of snapshots asks of the snapshot manager. */
export type Snapshots = Pick<
  SnapshotManager,
  'create' | 'register' | 'list' | 'listAtPlugin' | 'get' | 'untilReady' | 'remove' | 'blocks'
>;

/** What the service of groups asks of it. */
export type GroupSnapshotTable = Pick<
  SnapshotManager,
  'createGroup' | 'listGroups' | 'getGroup' | 'lookAtGroup' | 'untilGroupReady' | 'removeGroup'
>;

export class SnapshotsService implements ServiceMethods<SnapshotsDefinition> {
  readonly #snapshots: Snapshots;

  constructor(snapshots: Snapshots) {
    this.#snapshots = snapshots;
  }

  async create({ name, volume, parameters }: CreateSnapshotRequest__Output, { signal }: Call): Promise<Snapshot> {
    const request = {
      name: checkRef('name', name),
      volume: checkRef('volume', volume),
      parameters: parameterMap(parameters),
    };
    return snapshotMessage(await this.#snapshots.create(request, signal));
  }

  async register({ name, driver, snapshotId }: RegisterSnapshotRequest__Output, { signal }: Call): Promise<Snapshot> {
    const known = { name: checkRef('name', name), driver: checkRef('driver', driver), snapshotId };
    return snapshotMessage(await this.#snapshots.register(known, signal));
  }

  async list(): Promise<ListSnapshotsResponse> {
    return { snapshots: this.#snapshots.list().map(snapshotMessage) };
  }

  async listAtDriver(
    { driver, volume }: ListDriverSnapshotsRequest__Output,
    { signal }: Call,
  ): Promise<ListDriverSnapshotsResponse> {
    const plugin = checkRef('driver', driver === '' ? DEFAULT_DRIVER : driver);
    const source = volume === '' ? undefined : checkRef('volume', volume);
    const listed = await this.#snapshots.listAtPlugin(plugin, source, signal);
    return { snapshots: listed.map(driverMessage) };
  }

  async inspect({ name }: SnapshotRequest__Output): Promise<Snapshot> {
    return snapshotMessage(this.#snapshots.get(checkRef('name', name)));
  }

  async wait({ name }: SnapshotRequest__Output, { waitSignal }: Call): Promise<Snapshot> {
    return snapshotMessage(await this.#snapshots.untilReady(checkRef('name', name), waitSignal));
  }

  blocks(
    { name, base, startingOffset, maxResults }: SnapshotBlocksRequest__Output,
    { waitSignal }: Call,
  ): AsyncIterable<SnapshotBlocks> {
    const words = {
      name: checkRef('name', name),
      ...(base === '' ? {} : { base: checkRef('base', base) }),
      startingOffset: BigInt(startingOffset),
      maxResults,
    };
    return blockMessages(this.#snapshots.blocks(words, waitSignal));
  }

  async remove({ name }: SnapshotRequest__Output, { signal }: Call): Promise<RemoveSnapshotResponse> {
    await this.#snapshots.remove(checkRef('name', name), signal);
    return {};
  }
}

/** Shape only; what cannot be is refused by the snapshot manager (src/csi/snapshot-blocks.ts). */
async function* blockMessages(pages: AsyncIterable<BlockPage>): AsyncGenerator<SnapshotBlocks> {
  for await (const { kind, volumeBytes, runs } of pages) yield { kind, volumeBytes, runs: [...runs] };
}

export class GroupSnapshotsService implements ServiceMethods<GroupSnapshotsDefinition> {
  readonly #groups: GroupSnapshotTable;

  constructor(groups: GroupSnapshotTable) {
    this.#groups = groups;
  }

  async create(
    { name, volumes, parameters }: CreateGroupSnapshotRequest__Output,
    { signal }: Call,
  ): Promise<GroupSnapshot> {
    const request = {
      name: checkRef('name', name),
      volumes: volumes.map((volume) => checkRef('volumes', volume)),
      parameters: parameterMap(parameters),
    };
    return groupMessage(await this.#groups.createGroup(request, signal));
  }

  async list(): Promise<ListGroupSnapshotsResponse> {
    return { groups: this.#groups.listGroups().map(groupMessage) };
  }

  async inspect({ name }: GroupSnapshotRequest__Output, { signal }: Call): Promise<GroupSnapshot> {
    const { atPlugin, reason } = await this.#groups.lookAtGroup(checkRef('name', name), signal);
    return { ...groupMessage(this.#groups.getGroup(name)), atDriver: atPlugin, atDriverReason: reason };
  }

  async wait({ name }: GroupSnapshotRequest__Output, { waitSignal }: Call): Promise<GroupSnapshot> {
    return groupMessage(await this.#groups.untilGroupReady(checkRef('name', name), waitSignal));
  }

  async remove({ name }: GroupSnapshotRequest__Output, { signal }: Call): Promise<RemoveGroupSnapshotResponse> {
    await this.#groups.removeGroup(checkRef('name', name), signal);
    return {};
  }
}

function parameterMap(parameters: readonly Parameter__Output[]): Readonly<Record<string, string>> {
  return Object.fromEntries(parameters.map(({ key, value }) => [key, value]));
}

function snapshotMessage(snapshot: SnapshotRecord): Snapshot {
  const { name, driver, sizeBytes, state, requestedAt } = snapshot;
  return {
    ...{ name, driver, sizeBytes, state, requestedAt },
    volume: snapshot.volume ?? '',
    snapshotId: snapshot.snapshotId ?? '',
    sourceVolumeId: snapshot.sourceVolumeId ?? '',
    cutAt: snapshot.cutAt ?? '',
    group: snapshot.group ?? '',
    retained: !snapshot.owned,
    error: snapshot.failure?.message ?? '',
  };
}

function driverMessage({ snapshotId, sourceVolumeId, sizeBytes, ready, ...rest }: ListedSnapshot): DriverSnapshot {
  const { cutAt, groupSnapshotId, name } = rest;
  return { snapshotId, sourceVolumeId, sizeBytes, ready, groupSnapshotId, cutAt: cutAt ?? '', name: name ?? '' };
}

function groupMessage(group: GroupSnapshotRecord): GroupSnapshot {
  const { name, driver, state, requestedAt } = group;
  return {
    ...{ name, driver, state, requestedAt },
    groupSnapshotId: group.groupSnapshotId ?? '',
    cutAt: group.cutAt ?? '',
    members: memberSnapshots(group).map(snapshotMessage),
    error: group.failure?.message ?? '',
  };
}
