/** Addresses through a whole daemon: containers, the command line, and SIGKILL at any moment (docs/ipam.md). */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { missing } from '../support/needs.ts';
import { runPlugin } from './ipam-fixture.ts';

/** No volumes here. */
const NO_DRIVER = ['--no-csi-local-driver'] as const;
const SLEEP = ['--', 'sleep', '1000'] as const;

/** A lease as `berth ipam ls --format json` shows it. */
interface ShownLease {
  readonly address: string;
  readonly network: string;
  readonly container: string;
  readonly interface: string;
  readonly state: string;
  readonly ipam: string;
}

/** A daemon with one more network whose addresses berth-ipam gives. */
async function daemonWith(t: TestScope, name: string, bridge: string, ipam: object): Promise<Daemon> {
  cleanup(t, () => spawnSync('ip', ['link', 'delete', bridge, 'type', 'bridge']));
  const plugins = [{ type: 'bridge', bridge, isGateway: true, ipam: { type: 'berth-ipam', ...ipam } }];
  const daemon = await startDaemon(t, {
    flags: NO_DRIVER,
    confFiles: { '50-leased.conflist': { cniVersion: '1.0.0', name, plugins } },
  });
  await daemon.importBusybox();
  return daemon;
}

async function shown(daemon: Daemon, ...args: readonly string[]): Promise<ShownLease[]> {
  return JSON.parse(await daemon.ok(['ipam', 'ls', '--format', 'json', ...args]));
}

describe('addresses of a daemon', { skip: missing('root', 'crun', 'conmon', 'cni', 'ip', 'iptables') }, () => {
  test('250 ADDs at once get 250 addresses of a /24, and none is lost when the daemon is killed between', async (t) => {
    const daemon = await startDaemon(t, { flags: NO_DRIVER });
    const plugin = join(daemon.root, 'cni-bin/berth-ipam');
    const config = { cniVersion: '1.0.0', name: 'crowd', type: 'x', ipam: { subnet: '10.87.35.0/24' } };
    const call = async (command: string, container: string): Promise<string | undefined> => {
      const env = { CNI_COMMAND: command, CNI_CONTAINERID: container, CNI_IFNAME: 'eth0' };
      const { exitCode, answer } = await runPlugin(plugin, env, config);
      if (exitCode !== 0) assert.equal(answer?.code, 11, `${container}: ${JSON.stringify(answer)}`);
      return exitCode === 0 ? (answer?.ips?.[0]?.address ?? '') : undefined;
    };
    const given = new Map<string, string>();
    let up = Promise.resolve();
    let kills = 0;
    let refused = 0;
    const take = async (container: string): Promise<void> => {
      for (;;) {
        await up;
        const address = await call('ADD', container);
        if (address === undefined) {
          refused += 1;
          continue;
        }
        given.set(container, address);
        if (given.size === 40 || given.size === 120 || given.size === 200) {
          kills += 1;
          up = up.then(() => daemon.restart('SIGKILL'));
        }
        return;
      }
    };
    const containers = Array.from({ length: 250 }, () => randomBytes(16).toString('hex'));
    await Promise.all(containers.map(take));
    assert.deepEqual([given.size, new Set(given.values()).size, kills], [250, 250, 3]);
    t.diagnostic(`${refused} calls met a daemon that was not there`);
    assert.ok(refused > 0, 'no call met the kill');
    const leases = await shown(daemon, '--network', 'crowd');
    const onRecord = new Map(leases.map((lease) => [lease.container, `${lease.address}/24`]));
    assert.deepEqual(new Map([...onRecord].sort()), new Map([...given].sort()));
    assert.ok(leases.every(({ state, ipam }) => state === 'held' && ipam === 'berth-ipam'));
    const [fourth = '', ...late] = Array.from({ length: 4 }, () => randomBytes(16).toString('hex'));
    const last = await Promise.all(late.map((container) => call('ADD', container)));
    assert.equal(new Set([...given.values(), ...last]).size, 253);
    assert.equal(await call('ADD', fourth), undefined);
    await Promise.all([...containers, ...late, fourth].map((container) => call('DEL', container)));
    assert.deepEqual(await shown(daemon, '--network', 'crowd'), []);
  });

  test('leases are shown with their owners, those of host-local as well, and outlive the daemon', async (t) => {
    const daemon = await daemonWith(t, 'leased', 'bipa34', { subnet: '10.87.34.0/24' });
    const one = await daemon.ok(['run', '-d', '--network', 'leased', '--network', 'e2e', 'busybox:1', ...SLEEP]);
    const expected = [
      { network: 'e2e', container: one, interface: 'eth1', state: 'attached', ipam: 'host-local' },
      {
        address: '10.87.34.2',
        network: 'leased',
        container: one,
        interface: 'eth0',
        state: 'attached',
        ipam: 'berth-ipam',
      },
    ];
    assert.partialDeepStrictEqual(await shown(daemon), expected);
    await daemon.restart('SIGKILL');
    const leases = await shown(daemon);
    assert.partialDeepStrictEqual(leases, expected);
    assert.match(
      await daemon.ok(['ipam', 'ls']),
      /^10\.87\.34\.2 +leased +[0-9a-f]{12} +eth0 +attached +\d+ seconds? +berth-ipam$/m,
    );
    const [foreign] = leases;
    const inspected = JSON.parse(await daemon.ok(['ipam', 'inspect', 'leased/10.87.34.2', foreign?.address ?? '']));
    assert.partialDeepStrictEqual(inspected, [{ address: '10.87.34.2', workload: one }, { ipam: 'host-local' }]);
    await daemon.ok(['rm', '-f', one]);
    assert.deepEqual(await shown(daemon), []);
  });

  test('release refuses while the container is attached, and CHECK tells when it was forced', async (t) => {
    const daemon = await daemonWith(t, 'taken', 'bipa36', { subnet: '10.87.36.0/24' });
    const id = await daemon.ok(['run', '-d', '--network', 'taken', '--network', 'e2e', 'busybox:1', ...SLEEP]);
    await daemon.ok(['network', 'check', id]);
    const refused = await daemon.cli(['ipam', 'release', '10.87.36.2']);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /10\.87\.36\.2 is held by eth0 of container [0-9a-f]+, which is attached/);
    const [foreign] = await shown(daemon, '--network', 'e2e');
    const readOnly = await daemon.cli(['ipam', 'release', '--force', foreign?.address ?? '']);
    assert.equal(readOnly.code, 1);
    assert.match(readOnly.stderr, /is host-local's: only the DEL of its container gives it back/);
    assert.equal(await daemon.ok(['ipam', 'release', '--force', 'taken/10.87.36.2']), 'taken/10.87.36.2');
    const checked = await daemon.cli(['network', 'check', id]);
    assert.notEqual(checked.code, 0);
    assert.match(checked.stdout + checked.stderr, /holds no address of network taken/);
    const gone = await daemon.cli(['ipam', 'inspect', '10.87.36.2']);
    assert.equal(gone.code, 1);
    assert.match(gone.stderr, /nobody holds 10\.87\.36\.2/);
    for (const bad of ['10.87.36', 'taken/10.87.36.2/24', '../10.87.36.2', '-x']) {
      assert.notEqual((await daemon.cli(['ipam', 'release', bad])).code, 0, bad);
    }
    await daemon.ok(['rm', '-f', id]);
  });

  test('a sticky address comes back with the container, a full network says how full it is', async (t) => {
    const daemon = await daemonWith(t, 'sticky', 'bipa37', { subnet: '10.87.37.0/29', sticky: true });
    const name = ['--network', 'sticky', 'busybox:1', ...SLEEP];
    await daemon.ok(['run', '-d', '--name', 'keeper', ...name]);
    await daemon.ok(['stop', '-t', '0', 'keeper']);
    assert.partialDeepStrictEqual(await shown(daemon), [{ address: '10.87.37.2', state: 'kept' }]);
    const others = ['a', 'b', 'c', 'd'];
    for (const other of others) await daemon.ok(['run', '-d', '--name', other, ...name]);
    await daemon.ok(['start', 'keeper']);
    const addresses = (await shown(daemon)).map(({ address, state }) => `${address} ${state}`);
    assert.deepEqual(
      addresses.sort(),
      [2, 3, 4, 5, 6].map((host) => `10.87.37.${host} attached`),
    );
    const full = await daemon.cli(['run', '-d', '--name', 'late', ...name]);
    assert.equal(full.code, 125);
    assert.match(full.stderr, /code 11.*no free address in 10\.87\.37\.1-10\.87\.37\.6: 5 of 5 are held/);
    await Promise.all(['keeper', ...others].map((container) => daemon.ok(['rm', '-f', container])));
    for (const { address } of await shown(daemon)) await daemon.ok(['ipam', 'release', address]);
    assert.deepEqual(await shown(daemon), []);
  });
});
