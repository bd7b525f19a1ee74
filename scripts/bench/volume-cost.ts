/**
 * What Berth adds to a CSI plugin's own time: bringing a volume to a container and taking it down again through the
 * volume manager, with its records on disk, beside the bare calls to the same plugin (the embedded driver), in turn; and
 * twenty volumes made, used and removed, four at a time.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { CsiClient } from '../../src/csi/csi-client.ts';
import { decodeGroupSnapshotRecord } from '../../src/csi/group-snapshot.ts';
import { LOCAL_DRIVER_NAME, localDriverProcess } from '../../src/csi/local/local-driver.ts';
import { PluginRegistry } from '../../src/csi/plugin-registry.ts';
import { loadCsi, volumeCapability } from '../../src/csi/protocol.ts';
import { decodeSnapshotRecord } from '../../src/csi/snapshot.ts';
import { SnapshotCatalog } from '../../src/csi/snapshot-catalog.ts';
import { decodeVolumeRecord } from '../../src/csi/volume.ts';
import { VolumeManager } from '../../src/csi/volume-manager.ts';
import { Spawner } from '../../src/spawner.ts';
import { Database } from '../../src/store.ts';
import { type Figures, figures } from './statistics.ts';

/** The row of one side. */
export interface VolumeRow {
  readonly name: string;
  readonly publish: Figures;
  readonly unpublish: Figures;
}

/** Volumes that were made, used and removed at the same time. */
export interface ParallelVolumes {
  readonly count: number;
  readonly atOnce: number;
  readonly failed: number;
  readonly totalMs: number;
}

export const OWN_VOLUME = 'volume manager';
export const BARE_VOLUME = "the plugin's own time";

const BYTES = 32 * 2 ** 20;
const CAPABILITY = volumeCapability('mount', 'SINGLE_NODE_MULTI_WRITER', 'ext4');

/** The embedded driver in a process of its own, a manager with a database, and a client for the bare calls. */
export class VolumeBench {
  readonly #dir: string;
  readonly #driver: ChildProcess;
  readonly #spawner: Spawner;
  readonly #database: Database;
  readonly #registry: PluginRegistry;
  readonly #manager: VolumeManager;
  readonly #client: CsiClient;

  private constructor(dir: string, driver: ChildProcess) {
    const log = pino({ level: 'silent' });
    this.#dir = dir;
    this.#driver = driver;
    this.#spawner = new Spawner({ log });
    this.#spawner.open();
    this.#database = new Database(join(dir, 'berth.db'));
    this.#registry = new PluginRegistry({ pluginDir: join(dir, 'csi'), log });
    const snapshots = this.#database.store('snapshot', decodeSnapshotRecord);
    const groups = this.#database.store('group-snapshot', decodeGroupSnapshotRecord);
    this.#manager = new VolumeManager({
      registry: this.#registry,
      store: this.#database.store('volume', decodeVolumeRecord),
      snapshots: new SnapshotCatalog(snapshots, groups),
      rootDir: join(dir, 'root'),
      bootId: 'bench',
      run: (program, signal) => this.#spawner.run(program, signal),
      log,
    });
    this.#client = new CsiClient({ csi: loadCsi(), socketPath: socketIn(dir), log });
  }

  static async start(dir: string): Promise<VolumeBench> {
    await mkdir(join(dir, 'csi'), { recursive: true });
    const { file, args, env } = localDriverProcess({
      dataDir: join(dir, 'driver'),
      socketPath: socketIn(dir),
      nodeId: 'bench',
    });
    // It ends when its standard input does.
    const driver = spawn(file, args, { env, stdio: ['pipe', 'ignore', 'ignore'] });
    const bench = new VolumeBench(dir, driver);
    await bench.#registry.start(soon());
    await bench.#registry.waitFor(LOCAL_DRIVER_NAME, soon());
    return bench;
  }

  /** Publishes and takes down one volume through the manager and another one by bare calls. */
  async cost(rounds: number): Promise<VolumeRow[]> {
    await this.#manager.create(request('own'), soon());
    const bare = await this.#bareVolume();
    const sides = [
      { name: OWN_VOLUME, ...this.#throughManager('own'), publishMs: [] as number[], unpublishMs: [] as number[] },
      { name: BARE_VOLUME, ...this.#byHand(bare), publishMs: [] as number[], unpublishMs: [] as number[] },
    ];
    for (let round = -3; round < rounds; round += 1) {
      for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
        const [publishMs, unpublishMs] = [await timed(side.up), await timed(side.down)];
        if (round < 0) continue;
        side.publishMs.push(publishMs);
        side.unpublishMs.push(unpublishMs);
      }
    }
    await this.#manager.remove('own', soon());
    await this.#client.call('DeleteVolume', { volumeId: bare }, soon());
    return sides.map(({ name, publishMs, unpublishMs }) => ({
      name,
      publish: figures(publishMs),
      unpublish: figures(unpublishMs),
    }));
  }

  /** Each volume is made, published, taken down and removed. */
  async parallel(count: number, atOnce: number): Promise<ParallelVolumes> {
    const names = Array.from({ length: count }, (_, index) => `parallel-${index}`);
    let failed = 0;
    const begunMs = performance.now();
    const lane = async (): Promise<void> => {
      for (let name = names.pop(); name !== undefined; name = names.pop()) {
        try {
          await this.#manager.create(request(name), soon());
          const { up, down } = this.#throughManager(name);
          await up();
          await down();
          await this.#manager.remove(name, soon());
        } catch (error) {
          failed += 1;
          process.stderr.write(`volume ${name}: ${String(error)}\n`);
        }
      }
    };
    await Promise.all(Array.from({ length: atOnce }, lane));
    return { count, atOnce, failed, totalMs: performance.now() - begunMs };
  }

  async close(): Promise<void> {
    this.#client.close();
    await this.#manager.close();
    await this.#registry.close();
    this.#spawner.close();
    this.#database.close();
    const ended = once(this.#driver, 'exit');
    this.#driver.stdin?.end();
    if (this.#driver.exitCode === null) await ended;
  }

  #throughManager(name: string): { up: () => Promise<unknown>; down: () => Promise<unknown> } {
    const container = randomBytes(16).toString('hex');
    return {
      up: () => this.#manager.publish(name, container, { readOnly: false }, soon()),
      down: () => this.#manager.release(name, container, soon()),
    };
  }

  #byHand(volumeId: string): { up: () => Promise<unknown>; down: () => Promise<unknown> } {
    const [stage, parent] = [join(this.#dir, 'bare/stage'), join(this.#dir, 'bare')];
    const target = join(parent, 'target');
    const common = { volumeId, stagingTargetPath: stage, volumeCapability: CAPABILITY };
    return {
      up: async () => {
        await mkdir(stage, { recursive: true });
        await this.#client.call('NodeStageVolume', common, soon());
        await this.#client.call('NodePublishVolume', { ...common, targetPath: target }, soon());
      },
      down: async () => {
        await this.#client.call('NodeUnpublishVolume', { volumeId, targetPath: target }, soon());
        await this.#client.call('NodeUnstageVolume', { volumeId, stagingTargetPath: stage }, soon());
        await rmdir(stage);
      },
    };
  }

  async #bareVolume(): Promise<string> {
    const { volume } = await this.#client.call(
      'CreateVolume',
      { name: 'bare', capacityRange: { requiredBytes: String(BYTES) }, volumeCapabilities: [CAPABILITY] },
      soon(),
    );
    if (volume === null) throw new Error('CreateVolume made no volume');
    return volume.volumeId;
  }
}

function request(name: string): Parameters<VolumeManager['create']>[0] {
  return { name, driver: LOCAL_DRIVER_NAME, capacityBytes: BYTES, access: 'mount', fsType: 'ext4', parameters: {} };
}

function socketIn(dir: string): string {
  return join(dir, 'csi', `${LOCAL_DRIVER_NAME}.sock`);
}

function soon(): AbortSignal {
  return AbortSignal.timeout(60_000);
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begunMs = performance.now();
  await work();
  return performance.now() - begunMs;
}
