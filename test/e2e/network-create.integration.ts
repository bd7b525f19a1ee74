/** Networks that Berth makes and takes away (docs/cni.md), through the real command line, daemon and plugins. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { hostCommand } from '../../src/host-command.ts';
import { cleanup } from '../support/cleanup.ts';
import { type Daemon, Oracle, startDaemon } from '../support/daemon.ts';
import { missing, needs } from '../support/needs.ts';
import { claimNetworks } from '../support/test-network.ts';

const IMAGE = 'busybox:1';

function needsNetworks(t: TestContext): boolean {
  return needs(t, 'root', 'conmon', 'cni', 'iptables', 'ip', 'nsenter', 'busybox', 'overlayfs');
}

interface Inspected {
  readonly file: string;
  readonly state: string;
  readonly owned: boolean;
  readonly config: { plugins: { type: string; bridge?: string; ipam: { ranges: { subnet: string }[][] } }[] };
}

async function network(daemon: Daemon, name: string): Promise<Inspected> {
  const [shown] = JSON.parse(await daemon.ok(['network', 'inspect', name]));
  return shown;
}

function bridgeOf({ config }: Inspected): string {
  return config.plugins[0]?.bridge ?? '?';
}

function subnetsOf({ config }: Inspected): string[] {
  return (config.plugins[0]?.ipam.ranges ?? []).map(([range]) => range?.subnet ?? '?');
}

function isThere(link: string): boolean {
  return existsSync(`/sys/class/net/${link}`);
}

async function ip(...args: readonly string[]): Promise<string> {
  return hostCommand('ip', args, AbortSignal.timeout(10_000));
}

/** A daemon whose networks get subnets of this test's own, none of the pool in use. */
async function daemonWithPool(t: TestContext): Promise<{ daemon: Daemon; pool: string }> {
  const { subnet } = await claimNetworks(t);
  return { daemon: await startDaemon(t, { volumes: false, flags: ['--network-pool', subnet] }), pool: subnet };
}

test('network create and rm', { timeout: 120_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const { daemon, pool } = await daemonWithPool(t);
  await daemon.importBusybox(IMAGE);
  const scope = { ...daemon.scope, subnets: [...daemon.scope.subnets, pool] };
  const before = new Oracle(scope);
  const [first] = daemon.networks;

  await t.test('make a network with a free subnet that containers use, and take everything away again', async () => {
    assert.equal(await daemon.ok(['network', 'create', 'own']), 'own');
    const own = await network(daemon, 'own');
    assert.deepEqual([own.state, own.owned, own.file], ['ready', true, join(daemon.confDir, '80-berth-own.conflist')]);
    assert.deepEqual(subnetsOf(own), [pool]);
    const gateway = pool.replace(/0\/24$/, '1');
    const ping = ['ping', '-c', '1', '-W', '2', gateway];
    await daemon.ok(['run', '--rm', '--cap-add', 'NET_RAW', '--network', 'own', IMAGE, '--', ...ping]);
    assert.ok(isThere(bridgeOf(own)));
    await daemon.ok(['run', '-d', '--name', 'user', '--network', 'own', IMAGE, '--', 'sleep', '1000']);
    const refused = await daemon.cli(['network', 'rm', 'own']);
    assert.match(refused.stderr, /own has containers/);
    assert.deepEqual(await daemon.ok(['network', 'prune']), '');
    await daemon.ok(['rm', '-f', 'user']);
    assert.equal(await daemon.ok(['network', 'rm', 'own']), 'own');
    assert.equal(isThere(bridgeOf(own)), false);
    assert.deepEqual(
      readdirSync(daemon.confDir).filter((name) => name.includes('berth')),
      [],
    );
    assert.deepEqual(readdirSync(join(daemon.root, 'leases')), []);
    assert.equal((await daemon.cli(['network', 'rm', 'own'])).code, 1);
  });

  await t.test('refuse a name, a subnet and a pool that are taken', async () => {
    await daemon.ok(['network', 'create', 'own']);
    const cases: [args: string[], reason: RegExp][] = [
      [['own'], /network own is in .*80-berth-own/],
      [[first.name], /network e2e is in/],
      [['more'], /none is free/],
      [['more', '--subnet', pool], /meets .* of network own/],
      [['more', '--subnet', first.subnet], /meets .* of network e2e/],
      [['none'], /means something else/],
      [['../x'], /name: /],
      [['a/b'], /name: /],
      [['more', '--driver', 'macvlan'], /parent: /],
      [['more', '--driver', 'macvlan', '--parent', 'nosuch0', '--subnet', '10.87.250.0/24'], /no interface nosuch0/],
      [['more', '--driver', 'overlay'], /driver/],
      [['more', '--mtu', '1e3'], /mtu/],
    ];
    for (const [args, reason] of cases) {
      const { code, stderr } = await daemon.cli(['network', 'create', ...args]);
      assert.equal(code, 1, args.join(' '));
      assert.match(stderr, reason, args.join(' '));
    }
    assert.deepEqual(readdirSync(daemon.confDir).sort(), [
      '10-e2e.conflist',
      '11-e2e-second.conflist',
      '80-berth-own.conflist',
    ]);
    assert.match((await daemon.cli(['network', 'rm', first.name])).stderr, /was not made by Berth/);
  });

  await t.test('prune what no container names', async () => {
    await daemon.ok(['create', '--name', 'idle', '--network', 'own', IMAGE, '--', 'true']);
    assert.equal(await daemon.ok(['network', 'prune']), '', 'a container that does not run wants it');
    await daemon.ok(['rm', 'idle']);
    assert.equal(await daemon.ok(['network', 'prune']), 'own');
    await network(daemon, first.name);
  });

  await t.test('make networks of both families, internal ones, and small packets', async () => {
    const wishes = ['--ipv6', '--internal', '--mtu', '1300', '--ip-range', pool.replace('0/24', '64/26')];
    await daemon.ok(['network', 'create', 'closed', ...wishes]);
    const script = "ip -o addr show eth0 | awk '{print $3, $4}'; ip route; cat /sys/class/net/eth0/mtu";
    const shown = await daemon.ok(['run', '--rm', '--network', 'closed', IMAGE, '--', 'sh', '-c', script]);
    assert.match(shown, /^inet 10\.87\.\d+\.64\/24$/m);
    assert.match(shown, /^inet6 fd[0-9a-f:]+\/64$/m);
    assert.doesNotMatch(shown, /default/);
    assert.match(shown, /^1300$/m);
    const closed = await network(daemon, 'closed');
    assert.equal(await ip('-4', '-o', 'addr', 'show', bridgeOf(closed)), '', 'the host is not in it');
    // The next port may have a lower hardware address: it does not become the bridge's, which CHECK compares.
    const hardware = (name: string): string =>
      readFileSync(`/sys/class/net/${bridgeOf(closed)}/${name}`, 'utf8').trim();
    assert.equal(hardware('addr_assign_type'), '3', 'it was set');
    const before = hardware('address');
    for (const name of ['one', 'two']) {
      await daemon.ok(['create', '--name', name, '--network', 'closed', IMAGE, '--', 'sleep', '1000']);
      await daemon.ok(['start', name]);
    }
    assert.equal(hardware('address'), before);
    await daemon.ok(['network', 'check', 'one']);
    await daemon.ok(['rm', '-f', 'one', 'two']);
    await daemon.ok(['network', 'rm', 'closed']);
  });

  await t.test('make networks of other kinds', async () => {
    const parent = `par-${pool.split('.')[2]}`;
    await ip('link', 'add', parent, 'type', 'veth', 'peer', 'name', `${parent}p`);
    cleanup(t, () => ip('link', 'delete', parent).catch(() => undefined));
    await ip('link', 'set', parent, 'up');
    const present = (['macvlan', 'ipvlan'] as const).filter((kind) => missing(kind) === false);
    for (const driver of ['ptp', ...present]) {
      const lies = driver === 'ptp' ? [] : ['--parent', parent];
      await daemon.ok(['network', 'create', driver, '--driver', driver, ...lies, '--subnet', pool]);
      const run = ['run', '--rm', '--network', driver, IMAGE, '--', 'ip', '-4', '-o', 'addr', 'show', 'eth0'];
      assert.match(await daemon.ok(run), /inet 10\.87\.\d+\.2\/24/, driver);
      await daemon.ok(['network', 'rm', driver]);
    }
  });

  await before.assertClean({ ignore: ['file'] });
});

test('the network that comes with Berth stays beside created ones', async (t) => {
  if (!needsNetworks(t)) return;
  const { daemon } = await daemonWithPool(t);
  for (const name of readdirSync(daemon.confDir)) renameSync(join(daemon.confDir, name), join(daemon.dir, name));
  await daemon.ok(['network', 'create', 'own']);
  const listed: { name: string; default: boolean }[] = JSON.parse(
    await daemon.ok(['network', 'ls', '--format', 'json']),
  );
  assert.deepEqual(
    listed.map((entry) => [entry.name, entry.default]),
    [
      ['berth', true],
      ['own', false],
    ],
  );
  await daemon.ok(['network', 'rm', 'own']);
});

test('a removal that was cut short (K30)', async (t) => {
  if (!needsNetworks(t)) return;
  const { daemon } = await daemonWithPool(t);
  await daemon.importBusybox(IMAGE);
  await daemon.ok(['network', 'create', 'own']);
  const own = await network(daemon, 'own');
  await daemon.ok(['run', '--rm', '--network', 'own', IMAGE, '--', 'true']);
  const text = readFileSync(own.file, 'utf8');
  await daemon.kill();
  renameSync(own.file, `${own.file}.removing`);
  const draft = join(daemon.confDir, '.80-berth-half.conflist.tmp');
  writeFileSync(draft, text.slice(0, 20));
  await daemon.start();
  assert.equal(isThere(bridgeOf(own)), false);
  assert.equal(existsSync(`${own.file}.removing`), false);
  assert.equal(existsSync(draft), false);
  assert.equal(existsSync(join(daemon.root, 'leases', 'own')), false);
  assert.equal(await daemon.ok(['network', 'create', 'own']), 'own');
  await daemon.ok(['network', 'rm', 'own']);
});
