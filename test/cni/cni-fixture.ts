/** Isolators on networks of a test's own: own directories, bridges "bcni*", subnets 10.87.10.0/24 to 10.87.29.0/24. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Logger, pino } from 'pino';
import { CniRuntime, type CniRuntimeOptions } from '../../src/cni/cni-runtime.ts';
import type { ExecPlugin } from '../../src/cni/exec.ts';
import { NetworkConfigs } from '../../src/cni/network-config.ts';
import { NetworkIsolator } from '../../src/cni/network-isolator.ts';
import { decodeNetworkRecord, type NetworkRecord } from '../../src/cni/network-record.ts';
import { PluginPath } from '../../src/cni/plugin-path.ts';
import { mountsBelow } from '../../src/mountinfo.ts';
import type { ContainerRecord, ContainerSpec } from '../../src/runtime/container.ts';
import { Database, type Store } from '../../src/store.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { containerSpec } from '../support/container-spec.ts';
import { CNI_BIN_DIRS } from '../support/needs.ts';
import type { Scope } from '../support/oracle.ts';
import { tempDir } from '../support/temp-dir.ts';

export const silent: Logger = pino({ enabled: false });

/** Longest time a call of a test may take. */
export function soon(): AbortSignal {
  return AbortSignal.timeout(60_000);
}

export interface FixtureOptions {
  readonly binDirs?: readonly string[];
  readonly deadlinesMs?: CniRuntimeOptions['deadlinesMs'];
}

/** The directories and the database that outlive an isolator, as they outlive the daemon. */
export class CniFixture {
  readonly dir: string;
  readonly confDir: string;
  readonly runDir: string;
  readonly ids: Set<string> = new Set();
  readonly bridges: string[] = [];
  readonly subnets: string[] = [];
  readonly networks: string[] = [];
  readonly #options: FixtureOptions;
  readonly #database: Database;
  store: Store<NetworkRecord>;

  private constructor(dir: string, options: FixtureOptions, database: Database) {
    this.dir = dir;
    this.confDir = join(dir, 'net.d');
    this.runDir = join(dir, 'run');
    this.#options = options;
    this.#database = database;
    this.store = database.store('network', decodeNetworkRecord);
    mkdirSync(this.confDir);
  }

  static async create(t: TestScope, options: FixtureOptions = {}): Promise<CniFixture> {
    const dir = await tempDir(t);
    const database = new Database(join(dir, 'test.db'));
    cleanup(t, () => database.close());
    const fixture = new CniFixture(dir, options, database);
    cleanup(t, () => fixture.#unmount());
    return fixture;
  }

  get configs(): NetworkConfigs {
    return new NetworkConfigs({ confDirs: [this.confDir], fallbackDir: join(this.dir, 'none'), plugins: this.plugins });
  }

  get plugins(): PluginPath {
    return new PluginPath(this.#options.binDirs ?? CNI_BIN_DIRS);
  }

  /** What a daemon makes at its start; a second call is a restart, with nothing in memory. */
  isolator(exec?: ExecPlugin, log: Logger = silent): NetworkIsolator {
    this.store = this.#database.store('network', decodeNetworkRecord);
    const { deadlinesMs } = this.#options;
    const cni = new CniRuntime({
      plugins: this.plugins,
      log: silent,
      ...(exec === undefined ? {} : { exec }),
      ...(deadlinesMs === undefined ? {} : { deadlinesMs }),
    });
    return new NetworkIsolator({ cni, configs: this.configs, store: this.store, runDir: this.runDir, log });
  }

  /** Puts something that is no record in the place of one. */
  damage(id: string): void {
    this.#database.store<unknown>('network', (value) => value).write(id, { mode: 'networks', attachments: 'cut sh' });
  }

  write(file: string, value: unknown): void {
    writeFileSync(join(this.confDir, file), typeof value === 'string' ? value : JSON.stringify(value));
  }

  /** A bridge network with the usual chain on 10.87.`third`.0/24. */
  bridgeNetwork(t: TestScope, name: string, third: number): void {
    const bridge = `bcni${third}`;
    const subnet = `10.87.${third}.0/24`;
    cleanup(t, () => spawnSync('ip', ['link', 'delete', bridge]));
    this.bridges.push(bridge);
    this.subnets.push(subnet);
    this.networks.push(name);
    const ipam = { type: 'host-local', dataDir: this.leaseDir, ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] };
    this.write(`${third}-${name}.conflist`, {
      cniVersion: '1.0.0',
      name,
      plugins: [
        { type: 'bridge', bridge, isGateway: true, ipMasq: true, ipam },
        { type: 'portmap', capabilities: { portMappings: true } },
        { type: 'firewall' },
      ],
    });
  }

  get leaseDir(): string {
    return join(this.dir, 'leases');
  }

  container(change: Partial<ContainerSpec>): ContainerRecord {
    const id = randomBytes(16).toString('hex');
    this.ids.add(id);
    const createdAt = new Date().toISOString();
    return { id, spec: containerSpec(change), createdAt, provisional: false, cleanupFailures: [] };
  }

  netnsPath({ id }: ContainerRecord): string {
    return join(this.runDir, 'netns', id);
  }

  file({ id }: ContainerRecord, name: string): string {
    return readFileSync(join(this.runDir, 'files', id, name), 'utf8');
  }

  get scope(): Scope {
    return {
      dirs: [this.runDir],
      cgroupParent: 'no-cgroup-of-this-test',
      bridges: this.bridges,
      networks: this.networks,
      subnets: this.subnets,
      leaseDirs: [this.leaseDir],
      ids: this.ids,
      ignoreFiles: (path) => path === join(this.runDir, 'netns') || path === join(this.runDir, 'files'),
    };
  }

  /** A test that failed half-way leaves namespaces; the veth pairs in them go with them. */
  #unmount(): void {
    for (const { mountPoint } of mountsBelow(this.dir)) spawnSync('umount', ['-l', mountPoint]);
  }
}

/** Interfaces in a namespace, as the kernel tells: name to addresses with prefix length. */
export function addressesIn(netnsPath: string): Readonly<Record<string, readonly string[]>> {
  const result = spawnSync('nsenter', [`--net=${netnsPath}`, 'ip', '-j', '-4', 'address'], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`nsenter ${netnsPath}: ${result.stderr}`);
  const links: unknown = JSON.parse(result.stdout);
  if (!Array.isArray(links)) return {};
  return Object.fromEntries(
    links.map((link) => [link.ifname, link.addr_info.map((info: AddressInfo) => `${info.local}/${info.prefixlen}`)]),
  );
}

interface AddressInfo {
  readonly local: string;
  readonly prefixlen: number;
}
