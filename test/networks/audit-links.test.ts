/** Pairs and ports beside records, without a host. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ResolvedNetwork } from '../../src/cni/network.ts';
import type { NetworkRecord } from '../../src/cni/network-record.ts';
import { type Owners, ownersOf } from '../../src/networks/audit-finding.ts';
import { auditInterfaces } from '../../src/networks/audit-interfaces.ts';
import { auditPairs } from '../../src/networks/audit-pairs.ts';
import { type HostLink, hostEnds, parseHostLinks } from '../../src/networks/host-links.ts';
import { MemoryStore } from '../../src/store.ts';

const ID = 'a'.repeat(32);
const OWN: HostLink = {
  name: 'veth0000000a',
  master: '',
  addresses: ['10.87.80.1'],
  routes: ['10.87.80.2'],
};
const STRAY: HostLink = { ...OWN, name: 'veth0000000b', routes: ['10.87.80.9'] };

function network(type: string, subnet = '10.87.80.0/24', name = 'net'): ResolvedNetwork {
  return {
    name,
    cniVersion: '1.0.0',
    disableCheck: false,
    disableGC: false,
    owned: true,
    plugins: [{ type, bridge: 'brt-none', ipam: { type: 'host-local', ranges: [[{ subnet }]] } }],
  };
}

/** One container at 10.87.80.2 over veth0000000a, and whatever `change` says of its attachment. */
function owners(
  of: ResolvedNetwork,
  change: Partial<NetworkRecord['attachments'][number]> = {},
  elsewhere: readonly string[] = [],
): Owners {
  const store = new MemoryStore<NetworkRecord>();
  const netnsPath = `/run/x/netns/${ID}`;
  const result = {
    interfaces: [
      { name: 'brt-none' },
      { name: 'veth0000000a' },
      // The plugin bandwidth lists its own device so.
      { name: 'bwp00000000000' },
      { name: 'eth0', sandbox: netnsPath },
    ],
    ips: [{ address: '10.87.80.2/24', gateway: '10.87.80.1', interface: 3 }],
  };
  const entry = { network: of, interfaceName: 'eth0', args: [], capabilityArgs: {}, state: 'added' as const, result };
  store.create(ID, { mode: 'networks', bootId: 'b', netnsPath, attachments: [{ ...entry, ...change }] });
  return ownersOf(of, store, new Set(), new Set(elsewhere));
}

function told(suspects: ReturnType<typeof auditPairs>): string[] {
  return suspects.map(({ kind, name, missing, repair }) =>
    [kind, name, missing ? 'missing' : 'extra', repair === undefined ? 'told' : 'mended'].join(' '),
  );
}

function pairs(
  links: readonly HostLink[],
  of: Owners = owners(network('ptp')),
  others: readonly ResolvedNetwork[] = [],
): string[] {
  return told(auditPairs(of, others, { links, run: undefined }));
}

describe('parseHostLinks', () => {
  test('takes ends that are named as plugins name theirs, with what ptp gave them', () => {
    const links = [
      { ifname: 'veth0000000a', addr_info: [{ local: '10.87.80.1' }, { local: 'fe80::1' }] },
      { ifname: 'veth0000000b', master: 'br0', addr_info: [] },
      { ifname: 'vethernet', addr_info: [] },
      {},
    ];
    const routes4 = [
      { dst: 'default', dev: 'veth0000000a' },
      { dst: '10.87.80.2', dev: 'veth0000000a', scope: 'host' },
      { dst: '10.87.0.0/16', dev: 'veth0000000a' },
      { dst: '10.87.80.3', gateway: '192.0.2.1' },
    ];
    const routes6 = [
      { dst: 'fd00:be:80::1', dev: 'veth0000000a', protocol: 'kernel' },
      { dst: 'fd00:be:80::2', dev: 'veth0000000a' },
    ];
    assert.deepEqual(parseHostLinks(JSON.stringify(links), [JSON.stringify(routes4), JSON.stringify(routes6)]), [
      {
        name: 'veth0000000a',
        master: '',
        addresses: ['10.87.80.1', 'fe80::1'],
        routes: ['10.87.80.2', 'fd00:be:80::2'],
      },
      { name: 'veth0000000b', master: 'br0', addresses: [], routes: [] },
    ]);
    assert.deepEqual(parseHostLinks('', ['', '']), []);
  });
});

describe('auditPairs', () => {
  test('finds nothing where each pair has its owner, and in networks without pairs', () => {
    assert.deepEqual(pairs([OWN]), []);
    assert.deepEqual(pairs([OWN, STRAY], owners(network('bridge'))), []);
  });

  test('finds the pair and the route of nobody', () => {
    assert.deepEqual(pairs([OWN, STRAY]), ['interface veth0000000b extra mended']);
    assert.deepEqual(pairs([{ ...OWN, routes: ['10.87.80.2', '10.87.80.7'] }]), ['route 10.87.80.7 extra mended']);
  });

  test('finds the pair that is gone, and a way that is', () => {
    assert.deepEqual(pairs([]), ['interface veth0000000a missing told']);
    assert.deepEqual(pairs([{ ...OWN, routes: [] }]), ['route 10.87.80.2 missing mended']);
    assert.deepEqual(pairs([{ ...OWN, addresses: [] }]), ['route 10.87.80.2 missing mended']);
  });

  test('leaves alone ports of bridges, other subnets, and a subnet that another network has too', () => {
    assert.deepEqual(pairs([OWN, { ...STRAY, master: 'br0' }, { ...STRAY, routes: ['10.87.81.9'] }]), []);
    assert.deepEqual(pairs([OWN, STRAY], undefined, [network('bridge', '10.87.80.0/28', 'other')]), []);
  });

  test('judges no stray while an attachment is half made, and mends none beside another daemon', () => {
    const half = owners(network('ptp'), { state: 'adding', result: undefined });
    assert.deepEqual(pairs([OWN, STRAY], half), []);
    const shared = owners(network('ptp'), {}, ['somebody']);
    assert.deepEqual(pairs([OWN, STRAY], shared), ['interface veth0000000b extra told']);
  });
});

describe('auditInterfaces', () => {
  test('tells of a port that is gone, and takes no device of another plugin for one', () => {
    const of = owners(network('bridge'));
    assert.deepEqual(hostEnds(of.owners[0]?.entry.result), ['veth0000000a']);
    assert.deepEqual(told(auditInterfaces(of, [], undefined)), ['interface veth0000000a missing told']);
    assert.deepEqual(auditInterfaces(of, [network('bridge', '10.87.81.0/24', 'other')], undefined), []);
  });
});
