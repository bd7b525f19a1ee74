/** berth-ipam beside the real host-local: the same configuration gets the same answer, or neither gets one. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { readHostLocalLeases } from '../../src/ipam/host-local-leases.ts';
import { missing } from '../support/needs.ts';
import { IpamFixture, type PluginAnswer, referencePlugin, runPlugin } from './ipam-fixture.ts';

/** A sequence of ADDs of one configuration, each for a container of its own. */
interface Case {
  readonly title: string;
  readonly cniVersion?: string;
  readonly ipam: object;
  readonly more?: object;
  readonly args?: string;
  readonly adds?: number;
}

const V4 = [[{ subnet: '10.87.30.0/24' }]];

const CASES: readonly Case[] = [
  { title: 'one subnet', ipam: { ranges: V4, routes: [{ dst: '0.0.0.0/0' }] }, adds: 3 },
  {
    title: 'the old form',
    ipam: { subnet: '10.87.30.0/24', rangeStart: '10.87.30.9', gateway: '10.87.30.254' },
    adds: 2,
  },
  { title: 'the old form and ranges', ipam: { subnet: '10.87.30.0/24', ranges: [[{ subnet: '10.87.31.0/24' }]] } },
  {
    title: 'start and end, until nothing is left',
    ipam: { ranges: [[{ subnet: '10.87.30.0/24', rangeStart: '10.87.30.5', rangeEnd: '10.87.30.7' }]] },
    adds: 4,
  },
  {
    title: 'a gateway in the range',
    ipam: { ranges: [[{ subnet: '10.87.30.0/29', gateway: '10.87.30.4' }]] },
    adds: 6,
  },
  {
    title: 'two ranges in one set',
    ipam: { ranges: [[{ subnet: '10.87.30.0/30' }, { subnet: '10.87.31.0/29' }]] },
    adds: 7,
  },
  {
    title: 'both families',
    ipam: { ranges: [...V4, [{ subnet: 'fd00:be:30::/64' }]], routes: [{ dst: '::/0', gw: 'fd00:be:30::1' }] },
    adds: 2,
  },
  { title: 'a small IPv6 subnet', ipam: { ranges: [[{ subnet: 'fd00:be:30::/126' }]] }, adds: 3 },
  ...['0.2.0', '0.3.1', '0.4.0', '1.0.0'].map((cniVersion) => ({
    title: `version ${cniVersion}`,
    cniVersion,
    ipam: { ranges: V4, routes: [{ dst: '0.0.0.0/0' }, { dst: '10.0.0.0/8', gw: '10.87.30.3' }] },
  })),
  {
    title: 'ranges of the runtime',
    ipam: { ranges: V4 },
    more: { runtimeConfig: { ipRanges: [[{ subnet: '10.87.31.0/24' }]] } },
  },
  {
    title: 'an address of the runtime',
    ipam: { ranges: V4 },
    more: { runtimeConfig: { ips: ['10.87.30.40/24'] } },
    adds: 2,
  },
  { title: 'an address of args', ipam: { ranges: V4 }, more: { args: { cni: { ips: ['10.87.30.41'] } } } },
  { title: 'an address of CNI_ARGS', ipam: { ranges: V4 }, args: 'IgnoreUnknown=1;IP=10.87.30.42;K8S_POD_NAME=x' },
  { title: 'the gateway asked for', ipam: { ranges: V4 }, args: 'IP=10.87.30.1' },
  { title: 'an address of another subnet', ipam: { ranges: V4 }, args: 'IP=10.87.99.1' },
  { title: 'no ranges', ipam: {} },
  { title: 'bits of a host', ipam: { ranges: [[{ subnet: '10.87.30.9/24' }]] } },
  { title: 'a start outside', ipam: { ranges: [[{ subnet: '10.87.30.0/24', rangeStart: '10.87.31.1' }]] } },
  {
    title: 'families mixed in a set',
    ipam: { ranges: [[{ subnet: '10.87.30.0/24' }, { subnet: 'fd00:be:30::/64' }]] },
  },
  { title: 'overlapping sets', ipam: { ranges: [...V4, [{ subnet: '10.87.30.128/25' }]] } },
  { title: 'nothing but a /31', ipam: { ranges: [[{ subnet: '10.87.30.0/31' }]] } },
];

/** An answer without what says the same: no settings of a resolver, and no settings in it. */
function plain(answer: PluginAnswer | undefined): unknown {
  const { dns, ...rest } = answer ?? {};
  return typeof dns === 'object' && dns !== null && Object.keys(dns).length > 0 ? { ...rest, dns } : rest;
}

describe('beside host-local', { skip: missing('cni') }, () => {
  for (const { title, cniVersion = '1.0.0', ipam, more, args = '', adds = 1 } of CASES) {
    test(title, async (t) => {
      const fixture = await IpamFixture.create(t);
      const dataDir = join(fixture.dir, 'leases');
      const outcomes = { 'berth-ipam': [] as unknown[], 'host-local': [] as unknown[] };
      for (const type of ['berth-ipam', 'host-local'] as const) {
        const file = type === 'host-local' ? referencePlugin(type) : fixture.plugin;
        const config = { cniVersion, name: 'parity', ipam: { type, dataDir, ...ipam }, ...more };
        for (let number = 0; number < adds; number += 1) {
          const env = {
            CNI_CONTAINERID: `c${number}`,
            CNI_IFNAME: 'eth0',
            CNI_NETNS: '/none',
            CNI_PATH: '/none',
            CNI_ARGS: args,
          };
          const { exitCode, answer } = await runPlugin(file, { ...env, CNI_COMMAND: 'ADD' }, config);
          outcomes[type].push(exitCode === 0 ? plain(answer) : 'refused');
        }
      }
      assert.deepEqual(outcomes['berth-ipam'], outcomes['host-local']);
      const foreign = (await readHostLocalLeases(dataDir)).map(
        ({ address, containerId }) => `parity ${address} ${containerId}`,
      );
      assert.deepEqual(fixture.held(), foreign.sort());
    });
  }

  test('settings of a resolv.conf', async (t) => {
    const fixture = await IpamFixture.create(t);
    const resolvConf = join(fixture.dir, 'resolv.conf');
    writeFileSync(
      resolvConf,
      '# comment\nnameserver 10.87.30.1\nnameserver fd00:be::1\nsearch a.test b.test\noptions ndots:2 edns0\n',
    );
    const ipam = { ranges: V4, resolvConf, dataDir: join(fixture.dir, 'leases') };
    const env = { CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'c', CNI_IFNAME: 'eth0', CNI_NETNS: '/none', CNI_PATH: '/none' };
    const [own, other] = await Promise.all(
      (['berth-ipam', 'host-local'] as const).map((type) => {
        const file = type === 'host-local' ? referencePlugin(type) : fixture.plugin;
        return runPlugin(file, env, { cniVersion: '1.0.0', name: 'parity', ipam: { type, ...ipam } });
      }),
    );
    assert.deepEqual(plain(own?.answer), plain(other?.answer));
  });
});

test('leases of host-local are read as they lie on disk, and what is none is passed over', {
  skip: missing('cni'),
}, async (t) => {
  const fixture = await IpamFixture.create(t);
  const dataDir = join(fixture.dir, 'leases');
  const containerId = randomBytes(16).toString('hex');
  const env = {
    CNI_COMMAND: 'ADD',
    CNI_CONTAINERID: containerId,
    CNI_IFNAME: 'eth7',
    CNI_NETNS: '/none',
    CNI_PATH: '/none',
  };
  const ipam = { type: 'host-local', dataDir, ranges: [...V4, [{ subnet: 'fd00:be:30::/64' }]] };
  await runPlugin(referencePlugin('host-local'), env, { cniVersion: '1.0.0', name: 'read', ipam });
  writeFileSync(join(dataDir, 'read', '10.87.30.200'), 'old-form');
  writeFileSync(join(dataDir, 'read', '10.87.30.201'), 'x'.repeat(5000));
  writeFileSync(join(dataDir, 'stray'), 'x');
  const leases = await readHostLocalLeases(dataDir);
  assert.deepEqual(
    leases
      .map(({ network, address, containerId: owner, interfaceName }) => [network, address, owner, interfaceName])
      .sort(),
    [
      ['read', '10.87.30.2', containerId, 'eth7'],
      ['read', '10.87.30.200', 'old-form', ''],
      ['read', 'fd00:be:30::2', containerId, 'eth7'],
    ],
  );
  assert.deepEqual(await readHostLocalLeases(join(fixture.dir, 'absent')), []);
});
