/**
 * A network namespace that plugins take for the host: they run in it, so that bridges, parents, rules and host ends of
 * interfaces are in it, nothing of this machine is touched, and all of it goes when the namespace goes.
 *
 *   host namespace     plugins run here; lan0 is a parent for macvlan and the like ─┐
 *   lan namespace      lan1, 10.87.50.1/24: what is "outside", a DHCP server, say ──┘
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { type ExecPlugin, pluginExecutor } from '../../src/cni/exec.ts';
import { NetworkNamespaces } from '../../src/cni/netns.ts';
import type { NetworkIsolator } from '../../src/cni/network-isolator.ts';
import { runProgram } from '../../src/run-program.ts';
import type { ContainerRecord, ContainerSpec } from '../../src/runtime/container.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { findProgram } from '../support/needs.ts';
import { CniFixture, soon } from './cni-fixture.ts';

/** Address of the neighbour on the parent interface. */
export const LAN_ADDRESS = '10.87.50.1';

/** What one container sees, for as long as the test runs. */
export interface AttachedContainer {
  readonly container: ContainerRecord;
  readonly netnsPath: string;
}

/** See the module's head. */
export class HostNamespace {
  readonly fixture: CniFixture;
  readonly isolator: NetworkIsolator;
  readonly exec: ExecPlugin;
  readonly netnsPath: string;
  readonly lanPath: string;

  private constructor(fixture: CniFixture, netnsPath: string, lanPath: string) {
    this.fixture = fixture;
    this.netnsPath = netnsPath;
    this.lanPath = lanPath;
    const nsenter = findProgram('nsenter') ?? 'nsenter';
    this.exec = pluginExecutor((program, signal) => {
      const args = [`--net=${netnsPath}`, program.file, ...program.args];
      return runProgram({ ...program, file: nsenter, args }, signal);
    });
    this.isolator = fixture.isolator(this.exec);
  }

  static async create(t: TestScope): Promise<HostNamespace> {
    const fixture = await CniFixture.create(t);
    const namespaces = new NetworkNamespaces(join(fixture.dir, 'hosts'));
    cleanup(t, () => Promise.all(namespaces.list().map((name) => namespaces.remove(name, soon()))));
    const host = new HostNamespace(
      fixture,
      await namespaces.create('host', soon()),
      await namespaces.create('lan', soon()),
    );
    ipIn(host.netnsPath, `link add lan0 type veth peer name lan1 netns ${host.lanPath}`);
    ipIn(host.netnsPath, 'link set lan0 up');
    ipIn(host.lanPath, 'link set lan1 up');
    ipIn(host.lanPath, `address add ${LAN_ADDRESS}/24 dev lan1`);
    return host;
  }

  /** Network `net` with this chain. */
  network(...plugins: readonly object[]): void {
    this.fixture.write('10-net.conflist', { cniVersion: '1.0.0', name: 'net', plugins });
  }

  /** A container on network `net`; what it left is taken away when the test ends. */
  async attach(t: TestScope, change: Partial<ContainerSpec> = {}): Promise<AttachedContainer> {
    const container = this.fixture.container({ network: ['net'], ...change });
    cleanup(t, () => this.isolator.cleanup(container.id, soon()));
    await this.isolator.prepare(container, soon());
    await this.isolator.isolate(container, soon());
    return { container, netnsPath: this.fixture.netnsPath(container) };
  }
}

/** Output of a program inside a namespace. @throws when it fails */
export function runIn(netnsPath: string, file: string, ...args: readonly string[]): string {
  const result = spawnSync('nsenter', [`--net=${netnsPath}`, file, ...args], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`${file} ${args.join(' ')}: ${result.stderr || result.error?.message}`);
  return result.stdout;
}

/** Output of ip(8) inside a namespace; words separated by blanks. */
export function ipIn(netnsPath: string, words: string): string {
  return runIn(netnsPath, 'ip', ...words.split(' '));
}

/** Names of the interfaces in a namespace. */
export function linksIn(netnsPath: string): readonly string[] {
  const links: readonly { readonly ifname: string }[] = JSON.parse(ipIn(netnsPath, '-j link'));
  return links.map(({ ifname }) => ifname);
}

/** True when an address answers from inside a namespace. */
export function answers(netnsPath: string, address: string): boolean {
  return spawnSync('nsenter', [`--net=${netnsPath}`, 'busybox', 'ping', '-c', '1', '-W', '3', address]).status === 0;
}
