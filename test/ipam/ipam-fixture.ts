/**
 * An allocator on a database and a socket of a test's own, with the plugin that knows it, for reference plugins in
 * namespaces. Subnets 10.87.30.0/24 to 10.87.49.0/24 and fd00:be:30::/48, interfaces "bipa*" and "dipa*".
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { pino } from 'pino';
import { Ipam } from '../../src/ipam/ipam.ts';
import { IPAM_PLUGIN, installIpamPlugin } from '../../src/ipam/ipam-plugin.ts';
import { IpamServer } from '../../src/ipam/ipam-server.ts';
import { decodeLease, type Lease } from '../../src/ipam/lease-table.ts';
import { Database, type Store } from '../../src/store.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { CNI_BIN_DIRS } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';

const log = pino({ enabled: false });
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** What a plugin did. */
export interface PluginRun {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Its answer; undefined when it is no JSON. */
  readonly answer: PluginAnswer | undefined;
}

/** What tests look at in an answer: a result or an error. */
export interface PluginAnswer {
  readonly [key: string]: unknown;
  readonly ips?: readonly { readonly address: string; readonly gateway?: string }[];
  readonly code?: number;
  readonly msg?: string;
  readonly details?: string;
}

/** Runs an executable as a runtime runs plugins: with these variables and this text on stdin, nothing else. */
export async function runPlugin(
  file: string,
  env: Readonly<Record<string, string>>,
  stdin: string | object,
): Promise<PluginRun> {
  const child = spawn(file, [], { stdio: 'pipe', env: { PATH, ...env } });
  child.stdin.on('error', () => undefined).end(typeof stdin === 'string' ? stdin : JSON.stringify(stdin));
  const [stdout, stderr, exitCode] = await Promise.all([text(child.stdout), text(child.stderr), exitOf(child)]);
  return { exitCode, stdout, stderr, answer: parsed(stdout) };
}

async function exitOf(child: ChildProcess): Promise<number | null> {
  const [code] = await once(child, 'close');
  return code;
}

function parsed(stdout: string): PluginAnswer | undefined {
  try {
    return JSON.parse(stdout);
  } catch {
    // The test looks at the text.
    return undefined;
  }
}

/** See the module's head. */
export class IpamFixture {
  readonly dir: string;
  readonly store: Store<Lease>;
  readonly server: IpamServer;
  readonly ipam: Ipam;

  private constructor(dir: string, store: Store<Lease>) {
    this.dir = dir;
    this.store = store;
    this.ipam = new Ipam({ store, log });
    this.server = new IpamServer({ socketPath: this.socketPath, ipam: this.ipam, log, connectionMs: 2000 });
  }

  static async create(t: TestScope): Promise<IpamFixture> {
    const dir = await tempDir(t);
    const database = new Database(join(dir, 'test.db'));
    cleanup(t, () => database.close());
    const fixture = new IpamFixture(dir, database.store('lease', decodeLease));
    installIpamPlugin(fixture.binDir, fixture.socketPath);
    cleanup(t, () => fixture.server.stop());
    await fixture.server.start(AbortSignal.timeout(10_000));
    return fixture;
  }

  get socketPath(): string {
    return join(this.dir, 'ipam.sock');
  }

  get binDir(): string {
    return join(this.dir, 'bin');
  }

  get plugin(): string {
    return join(this.binDir, IPAM_PLUGIN);
  }

  get cniPath(): string {
    return [...CNI_BIN_DIRS, this.binDir].join(':');
  }

  /** "network address container" for every lease that is held. */
  held(): string[] {
    return [...this.store.entries().values()]
      .filter(({ releasedAt }) => releasedAt === undefined)
      .map(({ network, address, containerId }) => `${network} ${address} ${containerId}`)
      .sort();
  }
}

/** A named network namespace that is gone when the test ends. */
export class TestNamespace {
  readonly name: string;

  constructor(t: TestScope) {
    this.name = `berth-test-${randomBytes(4).toString('hex')}`;
    cleanup(t, () => spawnSync('ip', ['netns', 'delete', this.name]));
    ip('netns', 'add', this.name);
  }

  get path(): string {
    return `/run/netns/${this.name}`;
  }

  /** Addresses of an interface inside, as the kernel tells: "10.87.30.2/24"; none when there is no such interface. */
  addresses(interfaceName: string): string[] {
    const shown = spawnSync('ip', ['-n', this.name, '-j', 'address', 'show', interfaceName], { encoding: 'utf8' });
    if (shown.status !== 0) return [];
    const links: { addr_info: { local: string; prefixlen: number; scope: string }[] }[] = JSON.parse(shown.stdout);
    return links
      .flatMap(({ addr_info }) => addr_info)
      .filter(({ scope }) => scope === 'global')
      .map(({ local, prefixlen }) => `${local}/${prefixlen}`);
  }

  /** Names of the interfaces inside, less loopback. */
  interfaces(): string[] {
    const links: { ifname: string }[] = JSON.parse(ip('-n', this.name, '-j', 'link', 'show'));
    return links.map(({ ifname }) => ifname).filter((name) => name !== 'lo');
  }
}

/** Runs ip and returns what it says. @throws when it fails */
export function ip(...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync('ip', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`ip ${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** Path of a reference plugin. @throws when it is not installed */
export function referencePlugin(name: string): string {
  const found = CNI_BIN_DIRS.map((dir) => join(dir, name)).find((path) => existsSync(path));
  if (found === undefined) throw new Error(`the CNI plugin ${name} is not installed`);
  return found;
}
