/** A machine with one fake plugin and a VolumeManager over a database on disk, which can die and start again. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { DatabaseSync } from 'node:sqlite';
import { pino } from 'pino';
import { decodeGroupSnapshotRecord } from '../../src/csi/group-snapshot.ts';
import { PluginRegistry } from '../../src/csi/plugin-registry.ts';
import { decodeSnapshotRecord } from '../../src/csi/snapshot.ts';
import { SnapshotCatalog } from '../../src/csi/snapshot-catalog.ts';
import { SnapshotManager } from '../../src/csi/snapshot-manager.ts';
import { decodeVolumeRecord, type VolumeRecord } from '../../src/csi/volume.ts';
import { VolumeManager } from '../../src/csi/volume-manager.ts';
import type { VolumeManagerOptions } from '../../src/csi/volume-manager-options.ts';
import type { VolumeRequest } from '../../src/csi/volume-request.ts';
import { mountsBelow } from '../../src/mountinfo.ts';
import { Database, type Store } from '../../src/store.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { type FakeCsi, type FakeCsiOptions, startFakeCsi } from '../support/fake-csi.ts';
import { tempDir } from '../support/temp-dir.ts';

export const A: string = 'a'.repeat(32);
export const B: string = 'b'.repeat(32);

export const soon = (): AbortSignal => AbortSignal.timeout(20_000);

export type FakeOptions = Partial<Omit<FakeCsiOptions, 'socketPath' | 'backingDir'>>;
type ManagerOptions = Partial<
  Pick<VolumeManagerOptions, 'lookMs' | 'controllerCalls' | 'rootDir' | 'bootId' | 'deadlines' | 'secrets' | 'log'>
> & {
  /** One deadline for all calls. */
  readonly callMs?: number;
};

/** The daemon's part: everything but plugins, whose sockets lie in `DIR/csi`. */
export class ManagerHost {
  readonly dir: string;
  #registry: PluginRegistry | undefined;
  #database: Database | undefined;
  #manager: VolumeManager | undefined;
  #snapshots: SnapshotManager | undefined;
  #store: Store<VolumeRecord> | undefined;

  constructor(dir: string) {
    this.dir = dir;
  }

  get volumes(): VolumeManager {
    if (this.#manager === undefined) throw new Error('the daemon is not running');
    return this.#manager;
  }

  get registry(): PluginRegistry {
    if (this.#registry === undefined) throw new Error('the daemon is not running');
    return this.#registry;
  }

  get snapshots(): SnapshotManager {
    if (this.#snapshots === undefined) throw new Error('the daemon is not running');
    return this.#snapshots;
  }

  get store(): Store<VolumeRecord> {
    if (this.#store === undefined) throw new Error('the daemon is not running');
    return this.#store;
  }

  /** Starts the daemon's part; what it was before is gone but for the database. */
  async start({ callMs, ...options }: ManagerOptions = {}): Promise<VolumeManager> {
    const log = options.log ?? pino({ level: 'silent' });
    await this.stop();
    this.#database = new Database(`${this.dir}/berth.db`);
    const watched = { pluginDir: `${this.dir}/csi`, rescanMs: 200 };
    this.#registry = new PluginRegistry({ ...(callMs === undefined ? {} : { deadlineMs: callMs }), ...watched, log });
    await this.#registry.start(soon());
    this.#store = this.#database.store('volume', decodeVolumeRecord);
    const snapshots = this.#database.store('snapshot', decodeSnapshotRecord);
    const groups = this.#database.store('group-snapshot', decodeGroupSnapshotRecord);
    this.#manager = new VolumeManager({
      registry: this.#registry,
      store: this.#store,
      snapshots: new SnapshotCatalog(snapshots, groups),
      rootDir: `${this.dir}/root`,
      bootId: 'boot-1',
      log,
      deadlines: { pluginMs: 5000, retryForMs: 5000, settleMs: 500 },
      ...options,
    });
    this.#snapshots = new SnapshotManager({
      registry: this.#registry,
      snapshots,
      groups,
      volumeRecords: this.#store,
      volumes: this.#manager,
      pauses: { firstMs: 10, longestMs: 50 },
      log,
    });
    return this.#manager;
  }

  async stop(): Promise<void> {
    await this.#snapshots?.close();
    await this.#manager?.close();
    await this.#registry?.close();
    this.#database?.close();
    this.#snapshots = undefined;
    this.#manager = undefined;
    this.#registry = undefined;
    this.#database = undefined;
  }

  /** Keeps the disk as it is now: what a daemon killed at this moment leaves. */
  keepDisk(): void {
    const db = new DatabaseSync(`${this.dir}/berth.db`);
    db.exec(`VACUUM INTO '${this.dir}/kept.db'`);
    db.close();
  }

  /** Stops the daemon and puts the kept disk in place of what it wrote since. */
  async die(): Promise<void> {
    await this.stop();
    for (const file of ['berth.db-wal', 'berth.db-shm']) rmSync(`${this.dir}/${file}`, { force: true });
    renameSync(`${this.dir}/kept.db`, `${this.dir}/berth.db`);
  }

  /** Spoils a volume's record on disk. */
  corrupt(name: string): void {
    const db = new DatabaseSync(`${this.dir}/berth.db`);
    db.prepare("UPDATE records SET value = '{}' WHERE kind = 'volume' AND key = ?").run(name);
    db.close();
  }

  /** Mount points below the daemon's directory. */
  mounts(): string[] {
    return mountsBelow(`${this.dir}/root`).map(({ mountPoint }) => mountPoint);
  }
}

/** The daemon's part and one plugin in this process. */
export class VolumeHost extends ManagerHost {
  readonly plugin: FakeCsi;

  constructor(dir: string, plugin: FakeCsi) {
    super(dir);
    this.plugin = plugin;
  }
}

/** Nothing of any volume is left on the machine but the records, and the plugin has no complaint. */
export function assertIdle(host: VolumeHost): void {
  assert.deepEqual(host.plugin.violations, []);
  assert.ok(host.plugin.isIdle, 'the plugin still has something attached, staged or published');
  assertNothingHeld(host);
}

/** Nothing of any volume is left in the kernel and in the daemon's directory. */
export function assertNothingHeld(host: ManagerHost): void {
  assert.deepEqual(host.mounts(), []);
  assert.deepEqual(loopsOver(host.dir), []);
  const dir = `${host.dir}/root/csi/mounts`;
  assert.deepEqual(existsSync(dir) ? readdirSync(dir) : [], []);
}

/** Loop devices whose files lie below a directory, by the kernel's list; a device may go while it is read. */
function loopsOver(dir: string): string[] {
  return globSync('/sys/block/loop*/loop/backing_file').filter((file) => {
    try {
      return readFileSync(file, 'utf8').startsWith(`${dir}/`);
    } catch {
      return false;
    }
  });
}

export async function volumeHost(t: TestScope, fake: FakeOptions = {}, options?: ManagerOptions): Promise<VolumeHost> {
  const dir = await tempDir(t);
  await mkdir(`${dir}/csi`);
  const plugin = await startFakeCsi(t, { socketPath: `${dir}/csi/fake.sock`, backingDir: `${dir}/backing`, ...fake });
  const host = new VolumeHost(dir, plugin);
  cleanup(t, () => host.stop());
  await host.start(options);
  return host;
}

export function request(change: Partial<VolumeRequest> = {}): VolumeRequest {
  return {
    name: 'data',
    driver: 'fake.csi.test',
    capacityBytes: 16 * 2 ** 20,
    access: 'mount',
    parameters: { class: 'fast' },
    ...change,
  };
}
