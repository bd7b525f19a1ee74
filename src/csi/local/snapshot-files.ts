/**
 * The snapshots on disk.
 *
 *   DATA/snapshots/ID/snapshot.json     what it is
 *                    /image or /data    the copy
 *   DATA/groups/ID/group.json           a group, with one such directory for each member
 *   DATA/new/ID, DATA/trash/ID          one being made, one being removed; emptied at the start (volume-files.ts)
 *
 * A snapshot or a group exists exactly when its directory does: both come and go by rename(2), a group as a whole.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, stat } from 'node:fs/promises';
import type { Logger } from 'pino';
import { RuntimeError } from '../../errors.ts';
import { removeTree } from '../../remove-tree.ts';
import { type Occupant, occupiedBytes } from './disk-claims.ts';
import { syncDirectory, writeDurably } from './durable-file.ts';
import { COPY_TIMEOUT_MS, copyImage, copyTree, flushToDisk } from './file-copy.ts';
import { type GroupRecord, groupRecordSchema, type SnapshotRecord, snapshotRecordSchema } from './snapshot-record.ts';
import type { Stillness } from './stillness.ts';
import type { VolumeFiles } from './volume-files.ts';
import type { VolumeRecord } from './volume-record.ts';

const REMOVE_TIMEOUT_MS = 10 * 60_000;
const AREAS = ['snapshots', 'groups'] as const;

export class SnapshotFiles {
  readonly #volumes: VolumeFiles;
  readonly #still: Stillness;
  readonly #snapshots = new Map<string, SnapshotRecord>();
  readonly #groups = new Map<string, GroupRecord>();
  /** Ids whose record cannot be read, with the reason. */
  readonly #damaged = new Map<string, RuntimeError>();

  private constructor(volumes: VolumeFiles, still: Stillness) {
    this.#volumes = volumes;
    this.#still = still;
  }

  /** Reads what there is; a record that is not readable is reported, its directory left alone. */
  static async open(volumes: VolumeFiles, still: Stillness, log: Logger): Promise<SnapshotFiles> {
    const files = new SnapshotFiles(volumes, still);
    for (const area of AREAS) await mkdir(`${volumes.dataDir}/${area}`, { recursive: true, mode: 0o700 });
    for (const id of await readdir(`${volumes.dataDir}/snapshots`)) {
      await files.#load(log, id, async (dir) => files.#add(await readSnapshot(dir)), `snapshots/${id}`);
    }
    for (const id of await readdir(`${volumes.dataDir}/groups`)) {
      await files.#load(log, id, (dir) => files.#loadGroup(dir), `groups/${id}`);
    }
    volumes.addOccupants(() => files.#occupants());
    return files;
  }

  /** All snapshots, members of groups too, by id. */
  list(): SnapshotRecord[] {
    return [...this.#snapshots.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  named(name: string): SnapshotRecord | undefined {
    return [...this.#snapshots.values()].find((record) => record.name === name);
  }

  groupNamed(name: string): GroupRecord | undefined {
    return [...this.#groups.values()].find((record) => record.name === name);
  }

  /** @throws {RuntimeError} DATA_LOSS when there is such a snapshot but its record is unreadable */
  find(id: string): SnapshotRecord | undefined {
    this.#requireReadable(id);
    return this.#snapshots.get(id);
  }

  /** @throws {RuntimeError} NOT_FOUND, or DATA_LOSS when its record is unreadable */
  get(id: string): SnapshotRecord {
    const record = this.find(id);
    if (record === undefined) throw new RuntimeError('NOT_FOUND', `snapshot ${JSON.stringify(id)} does not exist`);
    return record;
  }

  /** @throws {RuntimeError} DATA_LOSS when there is such a group but its record is unreadable */
  findGroup(id: string): GroupRecord | undefined {
    this.#requireReadable(id);
    return this.#groups.get(id);
  }

  /** The members of a group, in its order. */
  membersOf(group: GroupRecord): SnapshotRecord[] {
    return group.snapshotIds.map((id) => this.get(id));
  }

  /** The file or directory that holds the copy. */
  dataOf({ id, groupId, type }: Pick<SnapshotRecord, 'id' | 'groupId' | 'type'>): string {
    const dir = groupId === undefined ? `snapshots/${id}` : `groups/${groupId}/${id}`;
    return `${this.#volumes.dataDir}/${dir}/${dataName(type)}`;
  }

  /**
   * Makes a snapshot, durable when it returns. The caller has the volume's turn.
   * @throws {RuntimeError} RESOURCE_EXHAUSTED when the disk could not hold it; as Stillness.copyAll
   */
  async create(name: string, volume: VolumeRecord): Promise<SnapshotRecord> {
    const [record] = await this.#make(newId(), 'snapshots', [volume], async (fresh, [copied]) => {
      if (copied === undefined) throw new RuntimeError('INTERNAL', `volume ${volume.id} was not copied`);
      const snapshot = { ...copied, name };
      await writeRecord(`${fresh}/snapshot.json`, snapshot);
      return [snapshot];
    });
    if (record === undefined) throw new RuntimeError('INTERNAL', `volume ${volume.id} was not copied`);
    return record;
  }

  /** Makes snapshots of several volumes as of one moment, or none; as {@link create}. */
  async createGroup(name: string, volumes: readonly VolumeRecord[]): Promise<GroupRecord> {
    const id = newId();
    const groupOf = (members: readonly SnapshotRecord[]): GroupRecord => {
      const createdAt = members[0]?.createdAt ?? new Date().toISOString();
      return { version: 1, id, name, snapshotIds: members.map((member) => member.id), createdAt };
    };
    const members = await this.#make(id, 'groups', volumes, async (fresh, copied) => {
      const snapshots = copied.map((snapshot) => ({ ...snapshot, groupId: id }));
      for (const snapshot of snapshots) await writeRecord(`${fresh}/${snapshot.id}/snapshot.json`, snapshot);
      await writeRecord(`${fresh}/group.json`, groupOf(snapshots));
      return snapshots;
    });
    const group = groupOf(members);
    this.#groups.set(id, group);
    return group;
  }

  async remove({ id }: SnapshotRecord): Promise<void> {
    await this.#discard('snapshots', id, () => this.#snapshots.delete(id));
  }

  /** Removes a group with all its members. */
  async removeGroup({ id, snapshotIds }: GroupRecord): Promise<void> {
    await this.#discard('groups', id, () => {
      this.#groups.delete(id);
      for (const member of snapshotIds) this.#snapshots.delete(member);
    });
  }

  /** Copies volumes into a new directory, has the records written there, and puts it in its place. */
  async #make(
    id: string,
    area: (typeof AREAS)[number],
    volumes: readonly VolumeRecord[],
    record: (fresh: string, copied: readonly SnapshotRecord[]) => Promise<SnapshotRecord[]>,
  ): Promise<SnapshotRecord[]> {
    const { dataDir } = this.#volumes;
    const fresh = `${dataDir}/new/${id}`;
    const place = `${dataDir}/${area}/${id}`;
    const claims = await Promise.all(volumes.map((volume) => this.#claimOf(volume)));
    const bytes = claims.reduce((sum, claim) => sum + claim, 0);
    return this.#volumes.withReserved(id, bytes, async () => {
      try {
        await mkdir(fresh, { mode: 0o700 });
        const copied = await this.#copyAll(volumes, (snapshot) => {
          return area === 'groups' ? { id: snapshot, dir: `${fresh}/${snapshot}` } : { id, dir: fresh };
        });
        const made = await record(fresh, copied);
        await rename(fresh, place);
        await syncDirectory(`${dataDir}/${area}`);
        for (const snapshot of made) this.#add(snapshot);
        return made;
      } catch (error) {
        for (const dir of [fresh, place]) await removeTree(dir, AbortSignal.timeout(REMOVE_TIMEOUT_MS));
        throw RuntimeError.from(error, `create snapshot ${id}`);
      }
    });
  }

  /** Copies each volume into a directory of its own, as of one moment, and brings the copies to the disk. */
  async #copyAll(
    volumes: readonly VolumeRecord[],
    placeOf: (newId: string) => { readonly id: string; readonly dir: string },
  ): Promise<SnapshotRecord[]> {
    const places = new Map(volumes.map((volume) => [volume.id, placeOf(newId())]));
    const lineages = new Map<string, string | undefined>();
    const placeFor = (volume: VolumeRecord): { readonly id: string; readonly dir: string } => {
      const place = places.get(volume.id);
      if (place === undefined) throw new RuntimeError('INTERNAL', `volume ${volume.id} has no place for its copy`);
      return place;
    };
    for (const { dir } of places.values()) await mkdir(dir, { recursive: true, mode: 0o700 });
    let createdAt = new Date().toISOString();
    await this.#still.copyAll(volumes, async (volume, signal) => {
      createdAt = new Date().toISOString();
      const target = `${placeFor(volume).dir}/${dataName(volume.type)}`;
      const isShared = await copyData(this.#volumes, volume, target, signal);
      lineages.set(volume.id, isShared ? (volume.lineage ?? volume.id) : undefined);
      return isShared;
    });
    const signal = AbortSignal.timeout(COPY_TIMEOUT_MS);
    return Promise.all(
      volumes.map(async (volume) => {
        const { id, dir } = placeFor(volume);
        await flushToDisk(`${dir}/${dataName(volume.type)}`, volume.type === 'image' ? 'file' : 'file system', signal);
        await syncDirectory(dir);
        const { type, access, fsType } = volume;
        // Of a volume whose expansion was cut off, the image knows better.
        const sizeBytes = type === 'image' ? (await stat(`${dir}/image`)).size : volume.sizeBytes;
        const lineage = lineages.get(volume.id);
        return { version: 1, id, sourceVolumeId: volume.id, type, access, fsType, sizeBytes, lineage, createdAt };
      }),
    );
  }

  /** What the copy will occupy, or, where it shares blocks, what the volume may come to need for writing to them. */
  async #claimOf(volume: VolumeRecord): Promise<number> {
    return volume.type === 'directory' ? 0 : occupiedBytes(this.#volumes.dataOf(volume));
  }

  async #discard(area: (typeof AREAS)[number], id: string, forget: () => void): Promise<void> {
    const { dataDir } = this.#volumes;
    const trash = `${dataDir}/trash/${id}`;
    await rename(`${dataDir}/${area}/${id}`, trash);
    forget();
    await syncDirectory(`${dataDir}/${area}`);
    await removeTree(trash, AbortSignal.timeout(REMOVE_TIMEOUT_MS));
  }

  #add(record: SnapshotRecord): void {
    this.#snapshots.set(record.id, record);
  }

  #occupants(): Occupant[] {
    return this.list()
      .filter(({ type }) => type === 'image')
      .map((snapshot) => ({
        path: this.dataOf(snapshot),
        lineage: snapshot.lineage ?? snapshot.id,
        mostBytes: undefined,
      }));
  }

  #requireReadable(id: string): void {
    const damage = this.#damaged.get(id);
    if (damage !== undefined) throw damage;
  }

  async #loadGroup(dir: string): Promise<void> {
    const group = groupRecordSchema.parse(JSON.parse(await readFile(`${dir}/group.json`, 'utf8')));
    const members = await Promise.all(group.snapshotIds.map((id) => readSnapshot(`${dir}/${id}`)));
    for (const member of members) this.#add(member);
    this.#groups.set(group.id, group);
  }

  async #load(log: Logger, id: string, load: (dir: string) => Promise<void>, place: string): Promise<void> {
    const dir = `${this.#volumes.dataDir}/${place}`;
    try {
      await load(dir);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const failure = new RuntimeError('DATA_LOSS', `record in ${dir} is not readable: ${reason}`, { cause: error });
      this.#damaged.set(id, failure);
      log.error({ snapshotId: id, err: failure }, 'snapshot record is not readable, the snapshot is left alone');
    }
  }
}

/** Copies what a volume holds; true when the copy shares its blocks and was made in one step. */
async function copyData(
  volumes: VolumeFiles,
  volume: VolumeRecord,
  target: string,
  signal: AbortSignal,
): Promise<boolean> {
  if (volume.type === 'image') return copyImage(volumes.dataOf(volume), target, signal);
  await copyTree(volumes.dataOf(volume), target, signal);
  return false;
}

async function readSnapshot(dir: string): Promise<SnapshotRecord> {
  return snapshotRecordSchema.parse(JSON.parse(await readFile(`${dir}/snapshot.json`, 'utf8')));
}

async function writeRecord(path: string, record: SnapshotRecord | GroupRecord): Promise<void> {
  await writeDurably(path, JSON.stringify(record));
}

function dataName(type: VolumeRecord['type']): string {
  return type === 'image' ? 'image' : 'data';
}

function newId(): string {
  return randomBytes(16).toString('hex');
}
