/**
 * The API over a real socket: the real Containerizer and services around a launcher without processes, and images,
 * networks, volumes and plugins that are only tables.
 */
import { join } from 'node:path';
import { pino } from 'pino';
import { ContainersService } from '../../src/api/containers-service.ts';
import { ImagesService } from '../../src/api/images-service.ts';
import { IpamService } from '../../src/api/ipam-service.ts';
import { NetworksService } from '../../src/api/networks-service.ts';
import { PluginsService } from '../../src/api/plugins-service.ts';
import { ApiServer, type ApiServerOptions, type ApiServices } from '../../src/api/server.ts';
import { SystemService } from '../../src/api/system-service.ts';
import { VolumeClassesService } from '../../src/api/volume-classes-service.ts';
import { VolumesService } from '../../src/api/volumes-service.ts';
import { Daemon } from '../../src/cli/daemon.ts';
import type { PluginSummary } from '../../src/csi/plugin-registry.ts';
import type { VolumeRecord } from '../../src/csi/volume.ts';
import { newVolume } from '../../src/csi/volume-provisioning.ts';
import { complete, DEFAULT_DRIVER, type VolumeWish } from '../../src/csi/volume-request.ts';
import { RuntimeError } from '../../src/errors.ts';
import type { ImageRecord } from '../../src/image/image-record.ts';
import { Containerizer } from '../../src/runtime/containerizer.ts';
import type { Launcher } from '../../src/runtime/launcher.ts';
import { MemoryStore } from '../../src/store.ts';
import { type TestScope as CleanupScope, cleanup } from '../support/cleanup.ts';
import { FakeLauncher, FakeMachine } from '../support/fake-launcher.ts';
import { tempDir } from '../support/temp-dir.ts';

const LEASE = {
  network: 'berth',
  address: '10.86.0.5',
  containerId: 'c0ffee',
  interfaceName: 'eth0',
  workload: 'c0ffee',
  sticky: false,
  allocatedAt: '2026-01-31T12:00:00.000Z',
};

/** What was asked of the tables, in words. */
export class FakeBackends {
  readonly calls: string[] = [];
  readonly images: Map<string, ImageRecord> = new Map();
  readonly volumes: Map<string, VolumeRecord> = new Map();

  async importTar(source: string, reference: string, changes: readonly string[]): Promise<ImageRecord> {
    this.calls.push(`import ${source} ${reference} ${changes.join(' ')}`.trim());
    const config = { entrypoint: [], command: ['/bin/sh'], env: [], labels: {} };
    const image = { id: IMAGE_ID, reference, layers: [], sizeBytes: 2048, createdAt: NOW, config };
    this.images.set(reference, image);
    return image;
  }

  async createVolume(wish: VolumeWish): Promise<VolumeRecord> {
    this.calls.push(`create ${wish.name}`);
    const { source: _source, ...request } = complete({ driver: DEFAULT_DRIVER, ...wish });
    const capacityBytes = String(request.capacityBytes);
    const volume: VolumeRecord = {
      ...request,
      requestedBytes: capacityBytes,
      csiName: `berth-${request.name}`,
      accessMode: 'SINGLE_NODE_WRITER',
      ...newVolume(request, 'delete'),
      provisioned: true,
      volumeId: 'v-1',
      volumeContext: {},
      capacityBytes,
      state: 'created',
      rungs: [],
      createdAt: NOW,
    };
    this.volumes.set(request.name, volume);
    return volume;
  }

  services(containerizer: Containerizer): Omit<ApiServices, 'Snapshots' | 'GroupSnapshots'> {
    const { images, volumes, calls } = this;
    const network = 'berth';
    const summary = {
      name: network,
      file: '/etc/cni/net.d/10-berth.conflist',
      cniVersion: '1.0.0',
      plugins: ['bridge', 'portmap'],
      state: 'ready',
      reason: '',
      isDefault: true,
      owned: false,
    } as const;
    const config = {
      name: network,
      cniVersion: '1.0.0',
      disableCheck: false,
      disableGC: false,
      owned: false,
      plugins: [],
    };
    return {
      System: new SystemService({
        version: '9.8.7',
        startedAt: NOW,
        facts: () => [{ key: 'root', value: '/var/lib/berth' }],
        checks: async () => [
          { area: 'runtime', name: 'crun', state: 'ok', detail: 'version 1.8.1' },
          { area: 'network', name: 'bridge', state: 'fail', detail: 'not found', remedy: 'apt-get install plugins' },
        ],
      }),
      Images: new ImagesService({
        images: {
          importTar: (source, reference, changes) => this.importTar(source, reference, changes),
          list: () => [...images.values()],
          get: (ref) => known(images, ref, 'image'),
          remove: async (ref, inUse) => {
            if (inUse(known(images, ref, 'image').id))
              throw new RuntimeError('FAILED_PRECONDITION', `image ${ref} is used`);
            calls.push(`remove image ${ref}`);
            images.delete(ref);
          },
        },
        containers: containerizer,
      }),
      Containers: new ContainersService({ containerizer, networks: { defaultNetworkName: () => network } }),
      Networks: new NetworksService({
        configs: {
          list: () => [summary],
          inspect: (name) => ({ summary, config: known(new Map([[network, config]]), name, 'network') }),
        },
        attachments: () => [
          { containerId: 'c0ffee', interfaceName: 'eth0', state: 'added', addresses: ['10.86.0.5/16'], gateways: [] },
        ],
        runs: { list: () => [] },
        condition: async () => ({ condition: 'unavailable', reason: 'no addresses left' }),
        operations: {
          live: {
            check: async () => [{ network, interfaceName: 'eth0', outcome: 'passed', reason: '' }],
            connect: async (_, name) => ({ network: name, interfaceName: 'eth1', addresses: [], gateways: [] }),
            disconnect: async (ref, name) => void calls.push(`disconnect ${ref} from ${name}`),
          },
          maker: {
            create: ({ name }) => void calls.push(`create network ${name}`),
            remove: async (name) => void calls.push(`remove network ${name}`),
            prune: async () => [],
          },
          reload: { reload: async () => [] },
          audit: { audit: async () => [] },
          collector: { collect: async () => [{ name: network, released: [], asked: true, error: '' }] },
        },
        wanted: () => new Set(),
      }),
      Volumes: new VolumesService(
        {
          create: (request) => this.createVolume(request),
          list: () => [...volumes.values()],
          get: (name) => known(volumes, name, 'volume'),
          planned: () => undefined,
          expand: async (name, bytes) => {
            const grown = { ...known(volumes, name, 'volume'), capacityBytes: String(bytes) };
            volumes.set(name, grown);
            return grown;
          },
          stats: async (name) => {
            known(volumes, name, 'volume');
            return { name, usage: [{ unit: 'bytes', total: '8', used: '3', available: '5' }] };
          },
          remove: async (name) => {
            known(volumes, name, 'volume');
            volumes.delete(name);
          },
          forget: async (name) => {
            known(volumes, name, 'volume');
            volumes.delete(name);
          },
          register: async ({ name }) => known(volumes, name, 'volume'),
          update: async (name, availability) => ({ ...known(volumes, name, 'volume'), availability }),
          modify: async (name, mutableParameters) => ({ ...known(volumes, name, 'volume'), mutableParameters }),
          detach: async (name) => known(volumes, name, 'volume'),
        },
        {
          drain: async (name) => ({ ...known(volumes, name, 'volume'), availability: 'drain' }),
        },
        {
          survey: {
            list: async () => [],
            capacity: async () => ({ driver: 'local.csi.berth', availableBytes: '5', topology: {} }),
          },
          health: { of: () => undefined },
        },
      ),
      VolumeClasses: new VolumeClassesService({
        files: async () => ({ good: [], bad: [] }),
        get: async (name) => known(new Map(), name, 'class'),
      }),
      Ipam: new IpamService({
        ipam: {
          list: () => [LEASE],
          release: ({ address }) => {
            calls.push(`release ${address}`);
          },
        },
        configs: { list: () => [], inspect: (name) => ({ summary, config: { ...config, name } }) },
        attachments: () => [{ containerId: 'c0ffee', interfaceName: 'eth0' }],
      }),
      Plugins: new PluginsService({
        registry: {
          list: () => [PLUGIN],
          inspect: () => PLUGIN,
          probe: async () => PLUGIN,
        },
        enrolment: {
          register: async () => PLUGIN,
          unregister: async (name, force) => {
            calls.push(`unregister ${name} ${force}`);
          },
        },
        supervised: {
          viewOf: (row) => ({ ...row, processes: [] }),
          socketOf: () => undefined,
          async *logs(ref) {
            yield Buffer.from(`${ref} said so\n`);
          },
        },
      }),
    };
  }
}

const IMAGE_ID = `sha256:${'0123456789abcdef'.repeat(4)}`;
const NOW = '2026-01-31T12:00:00.000Z';
const PLUGIN: PluginSummary = {
  name: 'local.csi.berth',
  socket: '/run/berth/csi/local.sock',
  state: 'ready',
  sinceAt: NOW,
  vendorVersion: '1',
  manifest: {},
  capabilities: [],
  sockets: [],
  registrations: [],
};

function known<T>(table: ReadonlyMap<string, T>, key: string, kind: string): T {
  const value = table.get(key);
  if (value === undefined) throw new RuntimeError('NOT_FOUND', `no such ${kind}: ${key}`);
  return value;
}

/** A test's context. */
interface TestScope extends CleanupScope {
  readonly signal: AbortSignal;
}

/** A served API. */
export interface Api {
  readonly dir: string;
  readonly socketPath: string;
  readonly server: ApiServer;
  readonly containerizer: Containerizer;
  readonly machine: FakeMachine;
  readonly backends: FakeBackends;
  /** A client, closed when the test ends. */
  readonly daemon: Daemon;
}

/** What a test may have otherwise. */
export interface ApiChanges extends Partial<ApiServerOptions> {
  readonly launcher?: (machine: FakeMachine) => Launcher;
}

/** Serves the API until the test ends. */
export async function startApi(t: TestScope, changes: ApiChanges = {}): Promise<Api> {
  const dir = await tempDir(t);
  const log = pino({ level: 'silent' });
  const machine = new FakeMachine();
  const containerizer = new Containerizer({
    launcher: changes.launcher?.(machine) ?? new FakeLauncher(machine),
    isolators: [],
    store: new MemoryStore(),
    bootId: 'boot',
    log,
  });
  const backends = new FakeBackends();
  const socketPath = changes.socketPath ?? join(dir, 'run', 'berthd.sock');
  const server = new ApiServer({
    log,
    drainMs: 500,
    services: backends.services(containerizer),
    ...changes,
    socketPath,
  });
  await server.start(t.signal);
  const daemon = await Daemon.at(socketPath);
  cleanup(t, async () => {
    daemon.close();
    await Promise.all([server.stop(), containerizer.close()]);
  });
  return { dir, socketPath, server, containerizer, machine, backends, daemon };
}
