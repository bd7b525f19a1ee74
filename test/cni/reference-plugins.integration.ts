/**
 * Every plugin of the reference collection, as it is, through Berth: ADD gives the container what its configuration
 * says, CHECK confirms it, DEL leaves nothing behind. What the host would be is a namespace of the test, so the kernel
 * is asked there. What this kernel has no interface type for is skipped with its reason.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { CniRuntime } from '../../src/cni/cni-runtime.ts';
import { attachmentOf } from '../../src/cni/network-record.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { CNI_BIN_DIRS, missing, needs } from '../support/needs.ts';
import { silent, soon } from './cni-fixture.ts';
import { type AttachedContainer, answers, HostNamespace, ipIn, LAN_ADDRESS, linksIn, runIn } from './host-namespace.ts';

const lacks = missing('root', 'cni', 'cni-more', 'iptables', 'ip', 'nsenter', 'unshare', 'busybox');

/** The static plugin with one address of 10.87.50.0/24, routed by the neighbour on the parent. */
function fixed(last: number): object {
  const addresses = [{ address: `10.87.50.${last}/24`, gateway: LAN_ADDRESS }];
  return { type: 'static', addresses, routes: [{ dst: '0.0.0.0/0' }] };
}

/** host-local with leases in a directory of the test. */
function pool(host: HostNamespace, third: number, ...more: readonly string[]): object {
  const ranges = [`10.87.${third}.0/24`, ...more].map((subnet) => [{ subnet }]);
  return { type: 'host-local', dataDir: host.fixture.leaseDir, ranges, routes: [{ dst: '0.0.0.0/0' }] };
}

function addresses(netnsPath: string, device: string): readonly string[] {
  const links: readonly { addr_info: readonly { family: string; local: string; prefixlen: number }[] }[] = JSON.parse(
    ipIn(netnsPath, `-j -4 address show dev ${device}`),
  );
  return links.flatMap(({ addr_info }) => addr_info ?? []).map(({ local, prefixlen }) => `${local}/${prefixlen}`);
}

/** CHECK of everything a container has, with what is on record. */
async function check(host: HostNamespace, { container }: AttachedContainer): Promise<void> {
  const cni = new CniRuntime({ plugins: host.fixture.plugins, log: silent, exec: host.exec });
  const record = host.fixture.store.read(container.id);
  assert.ok(record !== undefined && record.attachments.length > 0);
  for (const entry of record.attachments) {
    assert.ok(entry.result !== undefined);
    await cni.check(attachmentOf(container.id, entry, record.netnsPath), entry.result, soon());
  }
}

/** DEL, and nothing is left: no interface on the host beside those before, no rule, no lease. */
async function release(
  host: HostNamespace,
  { container }: AttachedContainer,
  before: readonly string[],
): Promise<void> {
  await host.isolator.cleanup(container.id, soon());
  assert.deepEqual(linksIn(host.netnsPath), before);
  for (const save of ['iptables-save', 'ip6tables-save']) {
    assert.equal(runIn(host.netnsPath, save).includes(container.id), false, save);
  }
  const leases = existsSync(host.fixture.leaseDir) ? readdirSync(host.fixture.leaseDir, { recursive: true }) : [];
  assert.deepEqual(
    leases.filter((name) => /\/10\.\d+\.\d+\.\d+$/.test(String(name))),
    [],
  );
  assert.equal(existsSync(host.fixture.netnsPath(container)), false);
}

describe('the reference plugins that make an interface', { skip: lacks }, () => {
  test('bridge: an address from host-local, the gateway on the bridge, masquerading', async (t) => {
    const host = await HostNamespace.create(t);
    const bridge = { type: 'bridge', bridge: 'br0', isGateway: true, ipMasq: true, hairpinMode: true, mtu: 1400 };
    host.network({ ...bridge, ipam: pool(host, 51) });
    const before = [...linksIn(host.netnsPath), 'br0'];
    const box = await host.attach(t);
    assert.deepEqual(addresses(host.netnsPath, 'br0'), ['10.87.51.1/24']);
    const [address = ''] = addresses(box.netnsPath, 'eth0');
    assert.match(address, /^10\.87\.51\.\d+\/24$/);
    assert.match(ipIn(box.netnsPath, 'link show dev eth0'), /mtu 1400/);
    assert.ok(answers(box.netnsPath, '10.87.51.1'), 'the gateway answers');
    assert.match(runIn(host.netnsPath, 'iptables-save', '-t', 'nat'), /MASQUERADE/);
    await check(host, box);
    ipIn(box.netnsPath, 'route delete default');
    await assert.rejects(check(host, box), /CNI plugin bridge failed CHECK/);
    await release(host, box, before);
  });

  test('ptp: a pair of its own, with a route of the host to the one address', async (t) => {
    const host = await HostNamespace.create(t);
    host.network({ type: 'ptp', ipMasq: true, ipam: pool(host, 52) });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    const [address = ''] = addresses(box.netnsPath, 'eth0').map((cidr) => cidr.split('/')[0] ?? '');
    assert.match(address, /^10\.87\.52\./);
    assert.match(ipIn(host.netnsPath, `route get ${address}`), / dev veth/);
    assert.ok(answers(box.netnsPath, '10.87.52.1'));
    await check(host, box);
    await release(host, box, before);
  });

  test('macvlan: reaches the neighbour of its parent', async (t) => {
    if (!needs(t, 'macvlan')) return;
    const host = await HostNamespace.create(t);
    host.network({ type: 'macvlan', master: 'lan0', mode: 'bridge', ipam: fixed(11) });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    assert.match(ipIn(box.netnsPath, '-d link show dev eth0'), /macvlan mode bridge/);
    assert.deepEqual(addresses(box.netnsPath, 'eth0'), ['10.87.50.11/24']);
    assert.ok(answers(box.netnsPath, LAN_ADDRESS));
    await check(host, box);
    await release(host, box, before);
  });

  test('ipvlan: reaches the neighbour of its parent', async (t) => {
    if (!needs(t, 'ipvlan')) return;
    const host = await HostNamespace.create(t);
    host.network({ type: 'ipvlan', master: 'lan0', mode: 'l2', ipam: fixed(12) });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    assert.match(ipIn(box.netnsPath, '-d link show dev eth0'), /ipvlan/);
    assert.ok(answers(box.netnsPath, LAN_ADDRESS));
    await check(host, box);
    await release(host, box, before);
  });

  test('vlan: reaches a neighbour in the same VLAN', async (t) => {
    if (!needs(t, 'vlan')) return;
    const host = await HostNamespace.create(t);
    ipIn(host.lanPath, 'link add link lan1 name lan1.5 type vlan id 5');
    ipIn(host.lanPath, 'link set lan1.5 up');
    ipIn(host.lanPath, 'address add 10.87.53.1/24 dev lan1.5');
    const ipam = { type: 'static', addresses: [{ address: '10.87.53.2/24' }] };
    host.network({ type: 'vlan', master: 'lan0', vlanId: 5, ipam });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    assert.match(ipIn(box.netnsPath, '-d link show dev eth0'), /vlan protocol 802\.1Q id 5/);
    assert.ok(answers(box.netnsPath, '10.87.53.1'));
    await check(host, box);
    await release(host, box, before);
  });

  for (const kind of ['macvlan', 'ipvlan', 'vlan', 'vrf'] as const) {
    test(`${kind}: where the kernel has none, the launch fails with its reason and leaves nothing`, async (t) => {
      const has = missing(kind) === false;
      if (has) return t.skip(`the kernel has interfaces of type ${kind}`);
      const host = await HostNamespace.create(t);
      const link = { type: kind, master: 'lan0', vlanId: 5, ipam: pool(host, 54) };
      if (kind !== 'vrf') host.network(link);
      else host.network({ type: 'ptp', ipam: pool(host, 54) }, { type: 'vrf', vrfname: 'blue' });
      const before = linksIn(host.netnsPath);
      const container = host.fixture.container({ network: ['net'] });
      cleanup(t, () => host.isolator.cleanup(container.id, soon()));
      await host.isolator.prepare(container, soon());
      await assert.rejects(host.isolator.isolate(container, soon()), {
        name: 'CniError',
        message: new RegExp(`CNI plugin ${kind} failed ADD`),
      });
      await release(host, { container, netnsPath: '' }, before);
    });
  }

  test('host-device: an interface of the host moves in, and back at DEL', async (t) => {
    const host = await HostNamespace.create(t);
    ipIn(host.netnsPath, 'link add port0 type veth peer name port1');
    host.network({
      type: 'host-device',
      device: 'port0',
      ipam: { type: 'static', addresses: [{ address: '10.87.55.2/24' }] },
    });
    const before = linksIn(host.netnsPath).toSorted();
    const box = await host.attach(t);
    assert.equal(linksIn(host.netnsPath).includes('port0'), false);
    assert.deepEqual(addresses(box.netnsPath, 'eth0'), ['10.87.55.2/24']);
    await check(host, box);
    await host.isolator.cleanup(box.container.id, soon());
    assert.deepEqual(linksIn(host.netnsPath).toSorted(), before, 'under its own name again');
  });

  test('loopback: is up, whatever the interface is called', async (t) => {
    const host = await HostNamespace.create(t);
    host.network({ type: 'loopback' });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    assert.deepEqual(addresses(box.netnsPath, 'lo'), ['127.0.0.1/8']);
    assert.ok(answers(box.netnsPath, '127.0.0.1'));
    await check(host, box);
    await release(host, box, before);
  });
});

describe('the reference plugins that change an interface', { skip: lacks }, () => {
  test('tuning: settings, hardware address and MTU inside, and only there', async (t) => {
    const host = await HostNamespace.create(t);
    const sysctl = { 'net.ipv4.conf.all.log_martians': '1' };
    const mac = '02:00:0a:57:38:02';
    host.network({ type: 'ptp', ipam: pool(host, 56) }, { type: 'tuning', sysctl, mac, mtu: 1300, promisc: true });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    const file = '/proc/sys/net/ipv4/conf/all/log_martians';
    assert.equal(runIn(box.netnsPath, 'cat', file), '1\n');
    assert.equal(runIn(host.netnsPath, 'cat', file), '0\n');
    assert.match(ipIn(box.netnsPath, '-d link show dev eth0'), /PROMISC.* mtu 1300[\s\S]*02:00:0a:57:38:02/);
    assert.equal(host.isolator.status(box.container.id).networks?.[0]?.mac, mac, 'Berth tells the new address');
    await check(host, box);
    await release(host, box, before);
  });

  test('sbr: answers go out by the interface whose address they come from', async (t) => {
    const host = await HostNamespace.create(t);
    host.network({ type: 'ptp', ipam: pool(host, 57) }, { type: 'sbr' });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    const [address = ''] = addresses(box.netnsPath, 'eth0').map((cidr) => cidr.split('/')[0] ?? '');
    const rules = ipIn(box.netnsPath, 'rule');
    const table = new RegExp(`from ${address.replaceAll('.', '\\.')} lookup (\\d+)`).exec(rules)?.[1];
    assert.ok(table !== undefined, rules);
    assert.match(ipIn(box.netnsPath, `route show table ${table}`), /default via 10\.87\.57\.1/);
    // No CHECK of this chain: ptp would look for the routes that sbr has moved.
    await release(host, box, before);
  });

  test('vrf: the interface belongs to a routing domain of its own', async (t) => {
    if (!needs(t, 'vrf')) return;
    const host = await HostNamespace.create(t);
    host.network({ type: 'ptp', ipam: pool(host, 58) }, { type: 'vrf', vrfname: 'blue' });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    assert.match(ipIn(box.netnsPath, 'link show dev eth0'), /master blue/);
    await check(host, box);
    await release(host, box, before);
  });

  test('bandwidth: limits both directions on the host side', async (t) => {
    if (!needs(t, 'tc', 'ifb')) return;
    const host = await HostNamespace.create(t);
    const limits = { ingressRate: 8_000_000, ingressBurst: 800_000, egressRate: 4_000_000, egressBurst: 400_000 };
    host.network({ type: 'ptp', ipam: pool(host, 59) }, { type: 'bandwidth', ...limits });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    const shaped = runIn(host.netnsPath, 'tc', 'qdisc', 'show');
    assert.match(shaped, /tbf .*dev veth\w+ root .*rate 8Mbit/);
    assert.match(shaped, /ingress .*dev veth/);
    assert.match(shaped, /tbf .*dev bwp\w+ root .*rate 4Mbit/);
    await check(host, box);
    await release(host, box, before);
  });

  test('portmap: leads ports of the host into the container in both families, until DEL', async (t) => {
    const host = await HostNamespace.create(t);
    host.network(
      { type: 'ptp', ipam: pool(host, 60, 'fd00:be:60::/64') },
      { type: 'portmap', capabilities: { portMappings: true }, snat: true },
    );
    const before = linksIn(host.netnsPath);
    const ports = [
      { hostPort: 18_760, containerPort: 80, protocol: 'tcp' },
      { hostPort: 18_761, containerPort: 53, protocol: 'udp', hostIp: '127.0.0.1' },
    ] as const;
    const box = await host.attach(t, { ports });
    const [address = ''] = addresses(box.netnsPath, 'eth0').map((cidr) => cidr.split('/')[0] ?? '');
    const rules = runIn(host.netnsPath, 'iptables-save', '-t', 'nat');
    assert.match(rules, new RegExp(`-p tcp -m tcp --dport 18760 -j DNAT --to-destination ${address}:80`));
    assert.match(
      rules,
      new RegExp(`-d 127\\.0\\.0\\.1/32 -p udp -m udp --dport 18761 -j DNAT --to-destination ${address}:53`),
    );
    assert.match(
      runIn(host.netnsPath, 'ip6tables-save', '-t', 'nat'),
      /--dport 18760 -j DNAT .*\[fd00:be:60::\w+\]:80/,
    );
    // No CHECK: portmap up to 1.1.1 looks for its rules of IPv4 in the table of IPv6.
    await release(host, box, before);
    for (const save of ['iptables-save', 'ip6tables-save']) {
      assert.equal(/1876[01]/.test(runIn(host.netnsPath, save)), false, save);
    }
  });

  test('firewall: lets the address through, and nobody after DEL', async (t) => {
    const host = await HostNamespace.create(t);
    host.network({ type: 'ptp', ipam: pool(host, 61) }, { type: 'firewall', backend: 'iptables' });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    const [address = ''] = addresses(box.netnsPath, 'eth0').map((cidr) => cidr.split('/')[0] ?? '');
    const rules = () => runIn(host.netnsPath, 'iptables-save', '-t', 'filter');
    assert.match(rules(), new RegExp(`-A CNI-FORWARD -s ${address}/32 -j ACCEPT`));
    await check(host, box);
    await release(host, box, before);
    assert.equal(rules().includes(address), false);
  });
});

describe('the reference plugins that give addresses', { skip: lacks }, () => {
  test('static: addresses of both families, routes and resolver', async (t) => {
    const host = await HostNamespace.create(t);
    const list = [
      { address: '10.87.62.9/24', gateway: '10.87.62.1' },
      { address: 'fd00:be:62::9/64', gateway: 'fd00:be:62::1' },
    ];
    const dns = { nameservers: ['10.87.62.53'], domain: 'lan.example', search: ['more.example'], options: ['ndots:2'] };
    const routes = [{ dst: '10.87.63.0/24', gw: '10.87.62.1' }];
    host.network({ type: 'ptp', ipam: { type: 'static', addresses: list, routes, dns } });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    assert.deepEqual(addresses(box.netnsPath, 'eth0'), ['10.87.62.9/24']);
    assert.match(ipIn(box.netnsPath, '-6 address show dev eth0'), /fd00:be:62::9\/64/);
    assert.match(ipIn(box.netnsPath, 'route'), /10\.87\.63\.0\/24 via 10\.87\.62\.1 dev eth0/);
    const resolver = host.fixture.file(box.container, 'resolv.conf');
    assert.equal(resolver, 'nameserver 10.87.62.53\nsearch lan.example more.example\noptions ndots:2\n');
    await check(host, box);
    await release(host, box, before);
  });

  test('dhcp: a lease of a real server for as long as the attachment lives', async (t) => {
    if (!needs(t, 'macvlan')) return;
    const host = await HostNamespace.create(t);
    const server = await dhcpServer(t, host);
    const daemonSocketPath = await dhcpDaemon(t, host);
    host.network({ type: 'macvlan', master: 'lan0', ipam: { type: 'dhcp', daemonSocketPath } });
    const before = linksIn(host.netnsPath);
    const box = await host.attach(t);
    const [address = ''] = addresses(box.netnsPath, 'eth0');
    assert.match(address, /^10\.87\.50\.1[0-9]{2}\/24$/);
    assert.match(
      ipIn(box.netnsPath, 'route'),
      new RegExp(`default via ${LAN_ADDRESS.replaceAll('.', '\\.')} dev eth0`),
    );
    assert.ok(answers(box.netnsPath, LAN_ADDRESS));
    assert.deepEqual(host.isolator.status(box.container.id).networks?.[0]?.addresses, [address]);
    assert.ok(server.said().includes(`sending ACK to ${address.split('/')[0]}`), server.said());
    await release(host, box, before);
    const another = await host.attach(t);
    assert.equal(addresses(another.netnsPath, 'eth0').length, 1);
    await release(host, another, before);
  });
});

/** A DHCP server in the lan namespace, for 10.87.50.100 to 10.87.50.199. */
async function dhcpServer(t: TestScope, host: HostNamespace): Promise<{ readonly said: () => string }> {
  const file = (name: string): string => join(host.fixture.dir, name);
  const settings = [
    ...['start 10.87.50.100', 'end 10.87.50.199', 'interface lan1', 'option subnet 255.255.255.0'],
    ...[`option router ${LAN_ADDRESS}`, 'option lease 600', `lease_file ${file('leases.db')}`],
    `pidfile ${file('udhcpd.pid')}`,
  ];
  writeFileSync(file('udhcpd.conf'), `${settings.join('\n')}\n`);
  writeFileSync(file('leases.db'), '');
  const args = [`--net=${host.lanPath}`, 'busybox', 'udhcpd', '-f', '-a', '50', file('udhcpd.conf')];
  const child = spawn('nsenter', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  endWithTest(t, child);
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  const signal = AbortSignal.timeout(10_000);
  while (!said.includes('started')) await once(child.stderr, 'data', { signal });
  return { said: () => said };
}

/** The plugin's own daemon, which keeps the leases. Resolves with its socket once that is there. */
async function dhcpDaemon(t: TestScope, host: HostNamespace): Promise<string> {
  const path = CNI_BIN_DIRS.map((dir) => join(dir, 'dhcp')).find(existsSync) ?? '';
  const socket = join(host.fixture.dir, 'dhcp.sock');
  const made = Promise.withResolvers<void>();
  const watcher = watch(host.fixture.dir, () => {
    if (existsSync(socket)) made.resolve();
  });
  cleanup(t, () => watcher.close());
  const child = spawn('nsenter', [`--net=${host.netnsPath}`, path, 'daemon', '-socketpath', socket], {
    stdio: 'ignore',
  });
  endWithTest(t, child);
  child.once('exit', () => made.reject(new Error('the dhcp daemon ended')));
  await made.promise;
  return socket;
}

function endWithTest(t: TestScope, child: ReturnType<typeof spawn>): void {
  cleanup(t, async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  });
}
