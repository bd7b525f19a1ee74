/** The plugin berth-ipam, called as runtimes call it and as bridge, ptp and macvlan delegate to it (docs/ipam.md). */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { installIpamPlugin } from '../../src/ipam/ipam-plugin.ts';
import { IpamServer } from '../../src/ipam/ipam-server.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';
import { IpamFixture, ip, type PluginRun, referencePlugin, runPlugin, TestNamespace } from './ipam-fixture.ts';

const ENV = { CNI_CONTAINERID: 'c1', CNI_IFNAME: 'eth0', CNI_NETNS: '/run/netns/none', CNI_PATH: '/nowhere' };

function config(more: object = {}): object {
  const ipam = { type: 'berth-ipam', ranges: [[{ subnet: '10.87.30.0/24' }]], ...more };
  return { cniVersion: '1.0.0', name: 'net', type: 'bridge', ipam };
}

describe('the executable', () => {
  test('gives, checks and takes back an address', async (t) => {
    const fixture = await IpamFixture.create(t);
    const run = (command: string): Promise<PluginRun> =>
      runPlugin(fixture.plugin, { ...ENV, CNI_COMMAND: command }, config());
    const added = await run('ADD');
    assert.deepEqual(
      [added.exitCode, added.answer],
      [0, { cniVersion: '1.0.0', ips: [{ address: '10.87.30.2/24', gateway: '10.87.30.1' }] }],
    );
    assert.deepEqual(fixture.held(), ['net 10.87.30.2 c1']);
    for (const command of ['CHECK', 'STATUS', 'DEL', 'DEL']) {
      const { exitCode, stdout, stderr } = await run(command);
      assert.deepEqual([exitCode, stdout, stderr], [0, '', ''], command);
    }
    assert.deepEqual(fixture.held(), []);
    const checked = await run('CHECK');
    assert.deepEqual([checked.exitCode, checked.answer?.code], [1, 101]);
  });

  test('answers VERSION by itself, and says that the daemon is not there', async (t) => {
    const dir = await tempDir(t);
    installIpamPlugin(join(dir, 'bin'), join(dir, "it's.sock"));
    const run = (command: string): Promise<PluginRun> =>
      runPlugin(join(dir, 'bin/berth-ipam'), { ...ENV, CNI_COMMAND: command }, config());
    const version = await run('VERSION');
    assert.equal(version.exitCode, 0);
    assert.deepEqual(version.answer?.['supportedVersions'], [
      '0.1.0',
      '0.2.0',
      '0.3.0',
      '0.3.1',
      '0.4.0',
      '1.0.0',
      '1.1.0',
    ]);
    for (const [command, code] of [
      ['ADD', 11],
      ['DEL', 11],
      ['CHECK', 11],
      ['STATUS', 50],
    ] as const) {
      const { exitCode, answer } = await run(command);
      assert.deepEqual([exitCode, answer?.code], [1, code], command);
      assert.equal(answer?.details, `${dir}/it's.sock: No such file or directory`);
    }
  });

  test('carries every byte of its variables, and refuses what must not be in them (K18)', async (t) => {
    const fixture = await IpamFixture.create(t);
    for (const [name, bad] of [
      ['CNI_ARGS', 'IP=10.87.30.9;IP=10.87.30.10 & ?=%0d%0a'],
      ['CNI_ARGS', 'IP=10.87.30.9\r\nX-Evil: 1'],
      ['CNI_CONTAINERID', 'x&CNI_CONTAINERID=y'],
      ['CNI_CONTAINERID', "$(touch /tmp/x)`id`'"],
      ['CNI_IFNAME', 'eth0/../x'],
      ['CNI_COMMAND', 'ADD HTTP/1.0'],
    ] as const) {
      const { exitCode, answer } = await runPlugin(
        fixture.plugin,
        { ...ENV, CNI_COMMAND: 'ADD', [name]: bad },
        config(),
      );
      assert.deepEqual([exitCode, answer?.code], [1, 4], `${name} ${bad}`);
    }
    const env = { ...ENV, CNI_COMMAND: 'ADD', CNI_ARGS: 'IgnoreUnknown=1;IP=10.87.30.77;NOTE=a b&c?d%41+/é' };
    const { answer } = await runPlugin(fixture.plugin, env, config());
    assert.deepEqual(answer?.ips?.[0]?.address, '10.87.30.77/24');
    assert.deepEqual(fixture.held(), ['net 10.87.30.77 c1']);
  });

  test('takes a configuration with ten thousand routes, and refuses one without an end', async (t) => {
    const fixture = await IpamFixture.create(t);
    const routes = Array.from({ length: 10_000 }, (_, index) => ({ dst: `10.${index >> 8}.${index & 255}.0/24` }));
    const many = await runPlugin(fixture.plugin, { ...ENV, CNI_COMMAND: 'ADD' }, config({ routes }));
    assert.equal(many.exitCode, 0, many.stdout.slice(0, 200));
    assert.deepEqual(many.answer?.['routes'], routes);
    const note = 'x'.repeat(5 * 1024 * 1024);
    const endless = await runPlugin(
      fixture.plugin,
      { ...ENV, CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'c2' },
      config({ note }),
    );
    assert.deepEqual([endless.exitCode, endless.answer?.code], [1, 6]);
    for (const stdin of ['', '{', 'null', '{}{}']) {
      const { exitCode, answer } = await runPlugin(fixture.plugin, { ...ENV, CNI_COMMAND: 'ADD' }, stdin);
      assert.equal(exitCode, 1);
      assert.ok(answer?.code === 6 || answer?.code === 7, stdin);
    }
    assert.equal(fixture.held().length, 1);
  });

  test('speaks to the daemon that installed it, and to no other', async (t) => {
    const [one, other] = [await IpamFixture.create(t), await IpamFixture.create(t)];
    await runPlugin(one.plugin, { ...ENV, CNI_COMMAND: 'ADD' }, config());
    assert.deepEqual([one.held().length, other.held().length], [1, 0]);
    await runPlugin(one.plugin, { ...ENV, CNI_COMMAND: 'ADD', BERTH_IPAM_SOCKET: other.socketPath }, config());
    assert.deepEqual([one.held().length, other.held().length], [1, 1]);
  });
});

describe('the socket', () => {
  test("is its owner's alone", async (t) => {
    const fixture = await IpamFixture.create(t);
    assert.equal(statSync(fixture.socketPath).mode & 0o777, 0o600);
    assert.equal(statSync(fixture.plugin).mode & 0o777, 0o755);
  });

  test('cuts callers that say nothing, and answers others meanwhile', async (t) => {
    const fixture = await IpamFixture.create(t);
    const mute = connect(fixture.socketPath);
    cleanup(t, () => mute.destroy());
    await once(mute, 'connect');
    mute.write('POST /cni?CNI_COMMAND=ADD HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{');
    const closed = once(mute, 'close');
    const { exitCode } = await runPlugin(fixture.plugin, { ...ENV, CNI_COMMAND: 'ADD' }, config());
    assert.equal(exitCode, 0);
    mute.resume();
    await closed;
  });

  test('answers anything but a call with an error', async (t) => {
    const fixture = await IpamFixture.create(t);
    for (const request of [
      'GET /cni HTTP/1.0\r\n\r\n',
      'POST /other HTTP/1.0\r\nContent-Length: 0\r\n\r\n',
      'nonsense\r\n\r\n',
    ]) {
      const socket = connect(fixture.socketPath);
      socket.end(request);
      assert.match(await text(socket), /^HTTP\/1\.[01] 400 /, request);
    }
  });

  test('is given up when the daemon ends, whoever is connected', async (t) => {
    const dir = await tempDir(t);
    const socketPath = join(dir, 'ipam.sock');
    const handle = (): never => {
      throw new Error('not called');
    };
    const server = new IpamServer({ socketPath, ipam: { handle }, log: pino({ enabled: false }) });
    await server.start(AbortSignal.timeout(5000));
    const socket = connect(socketPath);
    await once(socket, 'connect');
    await server.stop();
    await once(socket.resume(), 'close');
  });
});

/** A reference plugin that delegates to berth-ipam, in a namespace. */
interface Delegation {
  readonly plugin: string;
  readonly third: number;
  /** Keys of the plugin's own; makes what they name. */
  prepare(t: TestScope): object;
}

const DELEGATIONS: readonly Delegation[] = [
  {
    plugin: 'bridge',
    third: 31,
    prepare(t) {
      cleanup(t, () => spawnSync('ip', ['link', 'delete', 'bipa31']));
      return { bridge: 'bipa31', isGateway: true };
    },
  },
  { plugin: 'ptp', third: 32, prepare: () => ({}) },
  {
    plugin: 'macvlan',
    third: 33,
    prepare(t) {
      cleanup(t, () => spawnSync('ip', ['link', 'delete', 'dipa33']));
      ip('link', 'add', 'dipa33', 'type', 'veth', 'peer', 'name', 'dipa33p');
      ip('link', 'set', 'dipa33', 'up');
      return { master: 'dipa33' };
    },
  },
];

describe('reference plugins', { skip: missing('root', 'cni', 'ip', 'netns') }, () => {
  for (const { plugin, third, prepare } of DELEGATIONS) {
    test(`${plugin} gets both families, checks them, and gives them back`, async (t) => {
      const fixture = await IpamFixture.create(t);
      const namespace = new TestNamespace(t);
      const ranges = [
        [{ subnet: `10.87.${third}.0/24`, rangeStart: `10.87.${third}.100` }],
        [{ subnet: `fd00:be:30:${third}::/64` }],
      ];
      const routes = [{ dst: '0.0.0.0/0' }];
      const list = { cniVersion: '1.0.0', name: `n${third}`, type: plugin, ...prepare(t) };
      const request = { ...list, ipam: { type: 'berth-ipam', ranges, routes } };
      const containerId = randomBytes(8).toString('hex');
      const run = (command: string, more: object = {}): Promise<PluginRun> =>
        runPlugin(
          referencePlugin(plugin),
          {
            CNI_COMMAND: command,
            CNI_CONTAINERID: containerId,
            CNI_NETNS: namespace.path,
            CNI_IFNAME: 'eth0',
            CNI_PATH: fixture.cniPath,
          },
          { ...request, ...more },
        );
      const added = await run('ADD');
      assert.equal(added.exitCode, 0, added.stdout);
      const addresses = [`10.87.${third}.100/24`, `fd00:be:30:${third}::2/64`];
      assert.deepEqual(
        added.answer?.ips?.map(({ address }) => address),
        addresses,
      );
      assert.deepEqual(namespace.addresses('eth0'), addresses);
      const previous = { prevResult: added.answer };
      const checked = await run('CHECK', previous);
      assert.equal(checked.exitCode, 0, checked.stdout);
      for (const lease of fixture.ipam.list()) fixture.ipam.release(lease);
      const unleased = await run('CHECK', previous);
      assert.deepEqual([unleased.exitCode, unleased.answer?.code], [1, 101]);
      assert.equal((await run('ADD')).exitCode, 1);
      for (let round = 0; round < 2; round += 1) assert.equal((await run('DEL', previous)).exitCode, 0);
      assert.deepEqual(fixture.held(), []);
      assert.deepEqual(namespace.interfaces(), []);
    });

    test(`${plugin} leaves nothing when no address is free`, async (t) => {
      const fixture = await IpamFixture.create(t);
      const namespace = new TestNamespace(t);
      const ipam = { type: 'berth-ipam', subnet: `10.87.${third + 10}.0/30` };
      const list = { cniVersion: '1.0.0', name: `n${third + 10}`, type: plugin, ...prepare(t), ipam };
      const run = (command: string, containerId: string, interfaceName: string): Promise<PluginRun> =>
        runPlugin(
          referencePlugin(plugin),
          {
            CNI_COMMAND: command,
            CNI_CONTAINERID: containerId,
            CNI_NETNS: namespace.path,
            CNI_IFNAME: interfaceName,
            CNI_PATH: fixture.cniPath,
          },
          list,
        );
      assert.equal((await run('ADD', 'first', 'eth0')).exitCode, 0);
      const second = await run('ADD', 'second', 'eth1');
      assert.deepEqual([second.exitCode, second.answer?.code], [1, 11]);
      const range = `10.87.${third + 10}.1-10.87.${third + 10}.2`;
      assert.equal(second.answer?.msg, `network n${third + 10} has no free address in ${range}: 1 of 1 are held`);
      assert.equal((await run('DEL', 'second', 'eth1')).exitCode, 0);
      assert.deepEqual(fixture.held(), [`n${third + 10} 10.87.${third + 10}.2 first`]);
      assert.deepEqual(namespace.interfaces(), ['eth0']);
      assert.equal((await run('DEL', 'first', 'eth0')).exitCode, 0);
      assert.deepEqual(fixture.held(), []);
    });
  }
});
