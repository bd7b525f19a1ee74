/**
 * The volumes on disk, and nothing of the kernel's view of them.
 *
 *   DATA/volumes/ID/volume.json   what the volume is
 *                  /image         type image: a sparse file
 *                  /data/         type directory
 *                  /node.json     what was asked of this node (see volume-record.ts)
 *                  /lock          held by each program that mounts or unmounts the volume
 *   DATA/new/ID                   a volume being made; becomes volumes/ID by rename(2) when complete
 *   DATA/trash/ID                 a volume being removed
 *
 * A volume exists exactly when volumes/ID does; snapshot-files.ts has the snapshots beside them. What a killed driver left in `new` and `trash` is removed at the start.
 */
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, realpath, rename, statfs } from 'node:fs/promises';
import type { Logger } from 'pino';
import { RuntimeError, systemCode } from '../../errors.ts';
import { removeTree } from '../../remove-tree.ts';
import { claimedBytes, type Occupant } from './disk-claims.ts';
import { syncDirectory, writeDurably } from './durable-file.ts';
import { makeImage } from './file-system.ts';
import {
  EMPTY_NODE_RECORD,
  type NodeRecord,
  nodeRecordSchema,
  VOLUME_ID,
  type VolumeRecord,
  volumeRecordSchema,
} from './volume-record.ts';

/** A directory volume can hold a great many files. */
const REMOVE_TIMEOUT_MS = 10 * 60_000;
const AREAS = ['volumes', 'new', 'trash'] as const;

/** Puts the data of a new volume into its directory (`image` or `data`), durably; the result goes into the record. */
export type FillVolume = (dir: string) => Promise<Pick<VolumeRecord, 'lineage'>>;

export class VolumeFiles {
  /** Without symbolic links, as the kernel names the files in it. */
  readonly dataDir: string;
  readonly #records = new Map<string, VolumeRecord>();
  /** Ids whose record cannot be read, with the reason. */
  readonly #damaged = new Map<string, RuntimeError>();
  /** Bytes that volumes being made or expanded will claim. */
  readonly #reserved = new Map<string, number>();
  #otherOccupants: () => readonly Occupant[] = () => [];

  private constructor(dataDir: string) {
    this.dataDir = dataDir;
  }

  /** Opens a data directory, made when absent, and removes what a killed driver left half done. */
  static async open(dir: string, log: Logger): Promise<VolumeFiles> {
    for (const area of AREAS) await mkdir(`${dir}/${area}`, { recursive: true, mode: 0o700 });
    const files = new VolumeFiles(await realpath(dir));
    for (const area of ['new', 'trash']) {
      for (const name of await readdir(`${files.dataDir}/${area}`)) {
        await removeTree(`${files.dataDir}/${area}/${name}`, AbortSignal.timeout(REMOVE_TIMEOUT_MS));
        log.info({ area, name }, 'removed an unfinished volume');
      }
    }
    await files.#load(log);
    return files;
  }

  /** All volumes, by id. */
  list(): VolumeRecord[] {
    return [...this.#records.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  named(name: string): VolumeRecord | undefined {
    return [...this.#records.values()].find((record) => record.name === name);
  }

  /** @throws {RuntimeError} DATA_LOSS when there is such a volume but its record is unreadable */
  find(id: string): VolumeRecord | undefined {
    const damage = this.#damaged.get(id);
    if (damage !== undefined) throw damage;
    return this.#records.get(id);
  }

  /** @throws {RuntimeError} NOT_FOUND, or DATA_LOSS when its record is unreadable */
  get(id: string): VolumeRecord {
    const record = this.find(id);
    if (record === undefined) throw new RuntimeError('NOT_FOUND', `volume ${JSON.stringify(id)} does not exist`);
    return record;
  }

  /** The directory of a volume. */
  directory(id: string): string {
    return `${this.dataDir}/volumes/${id}`;
  }

  /** The file or directory that holds a volume's data. */
  dataOf({ id, type }: Pick<VolumeRecord, 'id' | 'type'>): string {
    return `${this.directory(id)}/${type === 'image' ? 'image' : 'data'}`;
  }

  /** The lock file of a volume's commands. */
  lockOf({ id }: Pick<VolumeRecord, 'id'>): string {
    return `${this.directory(id)}/lock`;
  }

  /**
   * Makes a volume, formatted and durable, or nothing.
   * @throws {RuntimeError} RESOURCE_EXHAUSTED when the disk could not hold it once full
   */
  async create(asked: Omit<VolumeRecord, 'version' | 'id' | 'createdAt'>, fill?: FillVolume): Promise<VolumeRecord> {
    const id = randomBytes(16).toString('hex');
    const fresh = `${this.dataDir}/new/${id}`;
    try {
      if (asked.type === 'image') await this.#reserve(id, asked.sizeBytes);
      await mkdir(fresh, { mode: 0o700 });
      const more = await (fill ?? ((dir) => this.#makeData(dir, asked)))(fresh);
      const record: VolumeRecord = { version: 1, id, ...asked, ...more, createdAt: new Date().toISOString() };
      await writeDurably(`${fresh}/volume.json`, JSON.stringify(record));
      await rename(fresh, this.directory(id));
      await syncDirectory(`${this.dataDir}/volumes`);
      this.#records.set(id, record);
      return record;
    } catch (error) {
      for (const dir of [fresh, this.directory(id)]) await removeTree(dir, AbortSignal.timeout(REMOVE_TIMEOUT_MS));
      throw RuntimeError.from(error, `create volume ${id}`);
    } finally {
      this.#reserved.delete(id);
    }
  }

  /** Puts a volume's record in the place of the one before. */
  async rewrite(record: VolumeRecord): Promise<VolumeRecord> {
    await writeDurably(`${this.directory(record.id)}/volume.json`, JSON.stringify(record));
    this.#records.set(record.id, record);
    return record;
  }

  /**
   * Runs `work`, which claims `bytes` by what it writes down, with these bytes set aside.
   * @throws {RuntimeError} RESOURCE_EXHAUSTED when the disk could not hold them
   */
  async withReserved<T>(id: string, bytes: number, work: () => Promise<T>): Promise<T> {
    try {
      await this.#reserve(id, bytes);
      return await work();
    } finally {
      this.#reserved.delete(id);
    }
  }

  /** Counts more files than volumes when it is asked what is available. */
  addOccupants(others: () => readonly Occupant[]): void {
    this.#otherOccupants = others;
  }

  /** Removes a volume with its data. The caller has seen that nothing uses it. */
  async remove({ id }: VolumeRecord): Promise<void> {
    const trash = `${this.dataDir}/trash/${id}`;
    await rename(this.directory(id), trash);
    this.#records.delete(id);
    await syncDirectory(`${this.dataDir}/volumes`);
    await removeTree(trash, AbortSignal.timeout(REMOVE_TIMEOUT_MS));
  }

  /** @throws {RuntimeError} DATA_LOSS when the record is unreadable */
  async readNodeRecord(id: string): Promise<NodeRecord> {
    const path = `${this.directory(id)}/node.json`;
    try {
      return nodeRecordSchema.parse(JSON.parse(await readFile(path, 'utf8')));
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return EMPTY_NODE_RECORD;
      throw damaged(path, error);
    }
  }

  async writeNodeRecord(id: string, record: NodeRecord): Promise<void> {
    await writeDurably(`${this.directory(id)}/node.json`, JSON.stringify(record));
  }

  /**
   * Bytes that new volumes may have: what is free, less what the sparse images that exist may still claim. So a volume's
   * capacity is there when it is written.
   */
  async availableBytes(): Promise<number> {
    return Math.max(0, await this.#unclaimedBytes());
  }

  /** Below zero when more was promised than there is. */
  async #unclaimedBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.dataDir);
    const claimed = await claimedBytes([...this.#occupants(), ...this.#otherOccupants()]);
    const reserved = [...this.#reserved.values()].reduce((sum, bytes) => sum + bytes, 0);
    return bavail * bsize - claimed - reserved;
  }

  #occupants(): Occupant[] {
    return this.list()
      .filter(({ type }) => type === 'image')
      .map((volume) => ({
        path: this.dataOf(volume),
        lineage: volume.lineage ?? volume.id,
        mostBytes: volume.expandingTo ?? volume.sizeBytes,
      }));
  }

  /** Registered before the first wait, so that two calls at once cannot both take the last bytes. */
  async #reserve(id: string, bytes: number): Promise<void> {
    this.#reserved.set(id, bytes);
    const left = await this.#unclaimedBytes();
    if (left >= 0) return;
    const available = Math.max(0, left + bytes);
    throw new RuntimeError('RESOURCE_EXHAUSTED', `capacity: ${bytes} bytes asked, ${available} are available`);
  }

  async #makeData(
    dir: string,
    { type, sizeBytes, fsType }: Pick<VolumeRecord, 'type' | 'sizeBytes' | 'fsType'>,
  ): Promise<object> {
    if (type === 'image') {
      await makeImage(`${dir}/image`, sizeBytes, fsType);
      return {};
    }
    await mkdir(`${dir}/data`);
    // As the root of a new file system; the umask must not narrow it.
    await chmod(`${dir}/data`, 0o755);
    return {};
  }

  async #load(log: Logger): Promise<void> {
    for (const id of await readdir(`${this.dataDir}/volumes`)) {
      const path = `${this.directory(id)}/volume.json`;
      try {
        if (!VOLUME_ID.test(id)) throw new Error('the directory is not named by a volume id');
        this.#records.set(id, volumeRecordSchema.parse(JSON.parse(await readFile(path, 'utf8'))));
      } catch (error) {
        const failure = damaged(path, error);
        this.#damaged.set(id, failure);
        log.error({ volumeId: id, err: failure }, 'volume record is not readable, the volume is left alone');
      }
    }
  }
}

function damaged(path: string, cause: unknown): RuntimeError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new RuntimeError('DATA_LOSS', `record ${path} is not readable: ${reason}`, { cause });
}
