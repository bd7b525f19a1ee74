/** Networks of a container that runs: connect and disconnect (docs/cni.md), through the real command line. */
import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { ConnectNetworkRequest } from '../../src/api/generated/berth/v1/ConnectNetworkRequest.ts';
import { hostCommand } from '../../src/host-command.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { CNI_BIN_DIRS, needs } from '../support/needs.ts';
import { RecordingPlugins } from '../support/recording-plugin.ts';

const IMAGE = 'busybox:1';

interface Shown {
  readonly id: string;
  readonly pid: number;
  readonly networks: readonly { network: string; interface: string; addresses: string[]; mac: string }[];
}

function needsNetworks(t: TestContext): boolean {
  return needs(t, 'root', 'conmon', 'cni', 'iptables', 'ip', 'nsenter', 'busybox', 'overlayfs');
}

async function inspect(daemon: Daemon, ref: string): Promise<Shown> {
  const [container] = JSON.parse(await daemon.ok(['inspect', ref]));
  return container;
}

/** What the kernel has in the container's namespace: "eth1 02:00:00:00:00:07 10.87.1.7/25". */
async function interfacesOf(pid: number): Promise<string[]> {
  const args = ['-t', String(pid), '-n', 'ip', '-j', 'addr'];
  const links: {
    ifname: string;
    address: string;
    addr_info: { family: string; local: string; prefixlen: number }[];
  }[] = JSON.parse(await hostCommand('nsenter', args, AbortSignal.timeout(10_000)));
  return links.flatMap(({ ifname, address, addr_info }) =>
    ifname === 'lo'
      ? []
      : [
          [
            ifname,
            address,
            ...addr_info.flatMap((ip) => (ip.family === 'inet' ? [`${ip.local}/${ip.prefixlen}`] : [])),
          ].join(' '),
        ],
  );
}

async function hostsOf(pid: number): Promise<string> {
  return hostCommand('cat', [`/proc/${pid}/root/etc/hosts`], AbortSignal.timeout(5000));
}

function told({ networks }: Shown): string[] {
  return networks.map((entry) => [entry.interface, entry.mac, ...entry.addresses].join(' '));
}

test('network connect and disconnect', { timeout: 120_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, { volumes: false });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const [first, second] = daemon.networks;
  await daemon.ok(['run', '-d', '--name', 'box', '--hostname', 'boxhost', IMAGE, '--', 'sleep', '1000']);
  const { pid } = await inspect(daemon, 'box');
  const wanted = second.gateway.replace(/\.129$/, '.200');

  await t.test('give a running container one more interface, with the wishes it was given', async () => {
    const wishes = ['--ip', wanted, '--mac', '02:00:00:00:00:07', '--interface', 'back', '--alias', 'db'];
    const printed = await daemon.ok(['network', 'connect', ...wishes, second.name, 'box']);
    assert.equal(printed, `back ${wanted}/25`);
    const shown = await inspect(daemon, 'box');
    assert.deepEqual(await interfacesOf(pid), told(shown));
    assert.equal(told(shown)[1], `back 02:00:00:00:00:07 ${wanted}/25`);
    assert.match(await hostsOf(pid), new RegExp(`^${wanted.replaceAll('.', '\\.')}\\s+boxhost box`, 'm'));
    assert.equal(await daemon.ok(['network', 'check', 'box', second.name]).then((text) => /passed/.test(text)), true);
    const [network] = JSON.parse(await daemon.ok(['network', 'inspect', second.name]));
    assert.deepEqual([network.containers[0].state, network.containers[0].interface], ['added', 'back']);
  });

  await t.test('refuse what is attached already, a taken name, and a container that does not run', async () => {
    await daemon.ok(['create', '--name', 'idle', IMAGE, '--', 'true']);
    await daemon.ok(['run', '-d', '--name', 'hosted', '--network', 'host', IMAGE, '--', 'sleep', '1000']);
    const cases: [args: string[], reason: RegExp][] = [
      [[second.name, 'box'], /attached to e2e-second already/],
      [['nosuch', 'box'], /"nosuch" is unknown/],
      [[second.name, 'idle'], /idle is created, not running/],
      [[second.name, 'hosted'], /hosted has no network namespace of its own/],
      [[second.name, 'nobody'], /no such container/],
    ];
    for (const [args, reason] of cases) {
      const { code, stderr } = await daemon.cli(['network', 'connect', ...args]);
      assert.equal(code, 1);
      assert.match(stderr, reason);
    }
    assert.match((await daemon.cli(['network', 'disconnect', 'other', 'box'])).stderr, /not attached to network other/);
    await daemon.ok(['rm', '-f', 'idle', 'hosted']);
  });

  await t.test('take the interface away again, and nothing else', async () => {
    await daemon.ok(['network', 'disconnect', second.name, 'box']);
    const shown = await inspect(daemon, 'box');
    assert.deepEqual(
      shown.networks.map(({ network }) => network),
      [first.name],
    );
    assert.deepEqual(await interfacesOf(pid), told(shown));
    assert.doesNotMatch(await hostsOf(pid), new RegExp(wanted.replaceAll('.', '\\.')));
    assert.equal(await daemon.ok(['network', 'disconnect', first.name, 'box']), '');
    assert.deepEqual(await interfacesOf(pid), []);
    assert.match(await hostsOf(pid), /^127\.0\.1\.1\s+boxhost box$/m);
  });

  await t.test('leave nothing of wishes that cannot be had', async () => {
    const taken = await daemon.ok(['network', 'connect', first.name, 'box']);
    assert.match(taken, /^eth0 /);
    const own = taken.split(' ')[1]?.split('/')[0] ?? '';
    await daemon.ok(['run', '-d', '--name', 'rival', '--network', second.name, IMAGE, '--', 'sleep', '1000']);
    const used = (await inspect(daemon, 'rival')).networks[0]?.addresses[0]?.split('/')[0] ?? '';
    for (const ip of [used, '192.0.2.1']) {
      const { code, stderr } = await daemon.cli(['network', 'connect', '--ip', ip, second.name, 'box']);
      assert.equal(code, 1, ip);
      assert.match(stderr, /host-local|bridge/);
    }
    assert.deepEqual((await interfacesOf(pid)).length, 1);
    assert.match(await hostsOf(pid), new RegExp(own.replaceAll('.', '\\.')));
    await daemon.ok(['rm', '-f', 'rival']);
  });

  await t.test('refuse words that are none before anything is done (K18, K19)', async () => {
    const ips = ['10.0.0.1;MAC=02:00:00:00:00:01', '10.0.0', '10.0.0.1\n', '=', '', '10.0.0.1/33', '__proto__'];
    const macs = [
      '02:00:00:00:00',
      '03:00:00:00:00:01',
      '02:00:00:00:00:01;IP=10.0.0.1',
      'x',
      '02:00:00:00:00:01\n',
      '',
    ];
    const interfaces = ['a/b', '..', '.', 'x'.repeat(16), 'a b', 'a:b', 'a\nb', 'lo', 'eth0'];
    const aliases = ['a b', 'a\n127.0.0.1 evil', '-a', 'a;b', 'x'.repeat(300), ''];
    const names = ['../x', 'a/b', 'a\nb', '', 'x'.repeat(300), '.', '..', '-v', 'a\0b'];
    const wishes: [field: string, wish: Partial<ConnectNetworkRequest>][] = [
      ...ips.map((ip): [string, Partial<ConnectNetworkRequest>] => ['ip', { ips: [ip] }]),
      ...macs.map((mac): [string, Partial<ConnectNetworkRequest>] => ['mac', { mac }]),
      ...interfaces.map((interfaceName): [string, Partial<ConnectNetworkRequest>] => ['interface', { interfaceName }]),
      ...aliases.map((alias): [string, Partial<ConnectNetworkRequest>] => ['alias', { aliases: [alias] }]),
      ...names.map((network): [string, Partial<ConnectNetworkRequest>] => ['network', { network }]),
      ...names.map((container): [string, Partial<ConnectNetworkRequest>] => ['container', { container }]),
    ];
    const { networks } = daemon.api;
    for (const [field, wish] of wishes) {
      const request = { network: second.name, container: 'box', ...wish };
      await assert.rejects(
        networks.call('Connect', request),
        new RegExp(`(INVALID_ARGUMENT|FAILED_PRECONDITION): ${field}`),
        JSON.stringify(wish),
      );
    }
    for (const name of names) {
      await assert.rejects(
        networks.call('Disconnect', { network: first.name, container: name }),
        /INVALID_ARGUMENT: container/,
      );
      await assert.rejects(
        networks.call('Disconnect', { network: name, container: 'box' }),
        /INVALID_ARGUMENT: network/,
      );
    }
    const { code, stderr } = await daemon.cli(['network', 'connect', '--mac', 'x', second.name, 'box']);
    assert.deepEqual([code, /mac: "x" is no address/.test(stderr)], [1, true], stderr);
    assert.deepEqual((await interfacesOf(pid)).length, 1);
  });

  await t.test('are forgotten with the run', async () => {
    await daemon.ok(['network', 'connect', second.name, 'box']);
    await daemon.ok(['stop', '-t', '0', 'box']);
    await daemon.ok(['start', 'box']);
    assert.deepEqual(
      (await inspect(daemon, 'box')).networks.map(({ network }) => network),
      [first.name],
    );
  });

  await daemon.ok(['rm', '-f', 'box']);
  await before.assertClean();
});

test('a daemon that is killed in connect or disconnect (K30)', { timeout: 180_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, { volumes: false });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const [first, second] = daemon.networks;
  await daemon.ok(['run', '-d', '--name', 'box', IMAGE, '--', 'sleep', '1000']);
  const { pid } = await inspect(daemon, 'box');

  // The ends of the chain; network-recovery has a kill after each of its plugins. Each kill costs a start of the daemon.
  for (const plugin of ['bridge', 'firewall']) {
    for (const verb of ['connect', 'disconnect']) {
      await t.test(`after ${plugin} of ${verb}, goes on with the networks the container has for certain`, async () => {
        const command = verb === 'connect' ? 'ADD' : 'DEL';
        if (verb === 'disconnect') await daemon.ok(['network', 'connect', second.name, 'box']);
        const dead = daemon.killAt((line) => line['plugin'] === plugin && line['command'] === command);
        const call = daemon.cli(['network', verb, second.name, 'box']);
        await dead;
        await call;
        await daemon.restart();
        const shown = await inspect(daemon, 'box');
        assert.equal(shown.pid, pid, 'the container went on');
        const [network] = JSON.parse(await daemon.ok(['network', 'inspect', second.name]));
        const states = network.containers.map(({ state }: { state: string }) => state);
        assert.ok(states.length === 0 || states.join() === 'added', `half made: ${states}`);
        assert.deepEqual(await interfacesOf(pid), told(shown));
        // The last step of a connect may have been on record before the kill.
        if (shown.networks.length > 1) await daemon.ok(['network', 'disconnect', second.name, 'box']);
        assert.deepEqual(
          (await inspect(daemon, 'box')).networks.map(({ network }) => network),
          [first.name],
        );
      });
    }
  }

  await daemon.ok(['rm', '-f', 'box']);
  await before.assertClean();
});

test('a network that must not be used is not connected to', { timeout: 60_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const plugins = await RecordingPlugins.create(t, 'liar', 'loose');
  chmodSync(join(plugins.binDir, 'loose'), 0o777);
  const binDirs = [plugins.binDir, ...CNI_BIN_DIRS].flatMap((dir) => ['--cni-bin-dir', dir]);
  const list = (name: string, type: string): object => ({ cniVersion: '1.0.0', name, plugins: [{ type }] });
  const daemon = await startDaemon(t, {
    volumes: false,
    flags: binDirs,
    confFiles: {
      '50-evil.conflist': list('evil', '../../../bin/sh'),
      '51-lost.conflist': list('lost', 'nosuchplugin'),
      '52-loose.conflist': list('loose', 'loose'),
      '53-liar.conflist': list('liar', 'liar'),
    },
  });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  await daemon.ok(['run', '-d', '--name', 'box', IMAGE, '--', 'sleep', '1000']);
  const { pid } = await inspect(daemon, 'box');
  const interfaces = await interfacesOf(pid);

  await t.test('when its plugin is no plain name, missing, or writable by others (K17)', async () => {
    for (const name of ['evil', 'lost', 'loose']) {
      const { code, stderr } = await daemon.cli(['network', 'connect', name, 'box']);
      assert.equal(code, 1);
      assert.match(stderr, /network/, stderr);
    }
    // Plugins that may be run are asked for their versions when the daemon starts.
    const calls = plugins.calls().filter((call) => call !== 'liar VERSION');
    assert.deepEqual(calls, [], 'nothing was run');
  });

  await t.test('when its plugins pass over what was asked for', async () => {
    for (const wish of [
      ['--ip', '192.0.2.9'],
      ['--mac', '02:00:00:00:00:09'],
    ]) {
      const { code, stderr } = await daemon.cli(['network', 'connect', ...wish, 'liar', 'box']);
      assert.equal(code, 1);
      assert.match(stderr, /the network gave .*, not /);
      assert.deepEqual(plugins.calls().slice(-2), ['liar ADD', 'liar DEL'], 'it is taken back');
      const args = plugins.runs().at(-1)?.env['CNI_ARGS'];
      assert.equal(args, `IgnoreUnknown=1;${wish[0] === '--ip' ? 'IP' : 'MAC'}=${wish[1]}`);
    }
  });

  await t.test('when its result holds resolver settings that are none (K20)', async () => {
    const resolvers = await hostCommand('cat', [`/proc/${pid}/root/etc/resolv.conf`], AbortSignal.timeout(5000));
    const dns = { nameservers: ['192.0.2.1\nnameserver 192.0.2.66'], search: ['a b'] };
    plugins.answers('liar', 'ADD', { cniVersion: '1.0.0', dns });
    const { code, stderr } = await daemon.cli(['network', 'connect', 'liar', 'box']);
    assert.equal(code, 1);
    assert.match(stderr, /dns/);
    assert.deepEqual(plugins.calls().slice(-2), ['liar ADD', 'liar DEL'], 'it is taken back');
    const after = await hostCommand('cat', [`/proc/${pid}/root/etc/resolv.conf`], AbortSignal.timeout(5000));
    assert.equal(after, resolvers);
    assert.deepEqual(await interfacesOf(pid), interfaces);
  });

  await daemon.ok(['rm', '-f', 'box']);
  await before.assertClean();
});

test('a disconnect whose DEL fails', { timeout: 60_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const plugins = await RecordingPlugins.create(t, 'stubborn');
  const binDirs = [plugins.binDir, ...CNI_BIN_DIRS].flatMap((dir) => ['--cni-bin-dir', dir]);
  const daemon = await startDaemon(t, { volumes: false, flags: binDirs });
  const list = { cniVersion: '1.0.0', name: 'stubborn', plugins: [{ type: 'stubborn' }] };
  writeFileSync(join(daemon.confDir, '50-stubborn.conflist'), JSON.stringify(list));
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  await daemon.ok(['run', '-d', '--name', 'box', IMAGE, '--', 'sleep', '1000']);
  await daemon.ok(['network', 'connect', 'stubborn', 'box']);
  plugins.answers('stubborn', 'DEL', { cniVersion: '1.0.0', code: 100, msg: 'not now' }, 1);
  const { code, stderr } = await daemon.cli(['network', 'disconnect', 'stubborn', 'box']);
  assert.equal(code, 1);
  assert.match(stderr, /not now/);
  const [network] = JSON.parse(await daemon.ok(['network', 'inspect', 'stubborn']));
  assert.equal(network.containers[0].state, 'deleting', 'it stays on record');
  plugins.does('stubborn', 'DEL', undefined);
  await daemon.ok(['network', 'connect', 'stubborn', 'box']);
  assert.deepEqual(plugins.calls().slice(-2), ['stubborn DEL', 'stubborn ADD'], 'DEL comes before the next ADD');
  plugins.answers('stubborn', 'DEL', { cniVersion: '1.0.0', code: 100, msg: 'not now' }, 1);
  assert.equal((await daemon.cli(['network', 'disconnect', 'stubborn', 'box'])).code, 1);
  const again = daemon.line((line) => line.msg === 'DEL failed again, will be tried again');
  const settled = daemon.line((line) => line.msg === 'networks settled');
  await again;
  plugins.does('stubborn', 'DEL', undefined);
  await settled;
  const [after] = JSON.parse(await daemon.ok(['network', 'inspect', 'stubborn']));
  assert.deepEqual(after.containers, [], 'nobody had to ask for it');
  await daemon.ok(['rm', '-f', 'box']);
  await before.assertClean();
});
