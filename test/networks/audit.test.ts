/** Packet rules and leases beside records, without a host. */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { ResolvedNetwork } from '../../src/cni/network.ts';
import type { NetworkRecord } from '../../src/cni/network-record.ts';
import type { Lease } from '../../src/ipam/lease-table.ts';
import { ELSEWHERE, type Owners, ownersOf } from '../../src/networks/audit-finding.ts';
import { auditLeases, auditOwnLeases, leasesOf } from '../../src/networks/audit-leases.ts';
import { auditRules } from '../../src/networks/audit-rules.ts';
import { type HostRule, ownChainName, parseRule } from '../../src/networks/host-rules.ts';
import { masqueradeRules, missingLines } from '../../src/networks/masquerade.ts';
import { MemoryStore } from '../../src/store.ts';
import { tempDir } from '../support/temp-dir.ts';

const ID = 'a'.repeat(32);
const STRANGER = 'b'.repeat(32);

function network(dataDir = '/nowhere'): ResolvedNetwork {
  return {
    name: 'net',
    cniVersion: '1.0.0',
    disableCheck: false,
    disableGC: false,
    owned: true,
    plugins: [
      { type: 'bridge', ipMasq: true, ipam: { type: 'host-local', dataDir, ranges: [[{ subnet: '10.90.1.0/24' }]] } },
      { type: 'portmap', capabilities: { portMappings: true } },
      { type: 'firewall' },
    ],
  };
}

/** One container with 10.90.1.5, and whatever `change` says of its attachment. */
function recorded(
  of: ResolvedNetwork,
  change: Partial<NetworkRecord['attachments'][number]> = {},
): MemoryStore<NetworkRecord> {
  const store = new MemoryStore<NetworkRecord>();
  const netnsPath = `/run/x/netns/${ID}`;
  const result = {
    interfaces: [{ name: 'eth0', sandbox: netnsPath }],
    ips: [{ address: '10.90.1.5/24', interface: 0 }],
  };
  const entry = { network: of, interfaceName: 'eth0', args: [], capabilityArgs: {}, state: 'added' as const, result };
  store.create(ID, { mode: 'networks', bootId: 'b', netnsPath, attachments: [{ ...entry, ...change }] });
  return store;
}

function owners(of: ResolvedNetwork, elsewhere: readonly string[] = [], store = recorded(of)): Owners {
  return ownersOf(of, store, new Set(), new Set(elsewhere));
}

/** Rules as the plugins make them for a container. */
function rulesOf(id: string, address: string): HostRule[] {
  const [wanted] = masqueradeRules({ containerId: id, network: network(), addresses: [`${address}/24`] });
  assert.ok(wanted !== undefined);
  const nat = [`:${wanted.chain} - [0:0]`, ...wanted.inside, ...wanted.outside];
  const filter = [
    `-A CNI-FORWARD -d ${address}/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
    `-A CNI-FORWARD -s ${address}/32 -j ACCEPT`,
  ];
  return [
    ...nat.flatMap((line) => parseRule(4, 'nat', line) ?? []),
    ...filter.flatMap((line) => parseRule(4, 'filter', line) ?? []),
  ];
}

describe('masqueradeRules', () => {
  test('are those of the bridge plugin, in the order in which iptables-save writes them', () => {
    const [rules, ...rest] = masqueradeRules({ containerId: ID, network: network(), addresses: ['10.90.1.5/24'] });
    assert.equal(rest.length, 0);
    const comment = `-m comment --comment "name: \\"net\\" id: \\"${ID}\\""`;
    const chain = ownChainName('CNI-', 'net', ID);
    assert.equal(chain.length, 28);
    assert.deepEqual(rules?.inside, [
      `-A ${chain} -d 10.90.1.0/24 ${comment} -j ACCEPT`,
      `-A ${chain} ! -d 224.0.0.0/4 ${comment} -j MASQUERADE`,
    ]);
    assert.deepEqual(rules?.outside, [`-A POSTROUTING -s 10.90.1.5/32 ${comment} -j ${chain}`]);
  });

  test('are none without ipMasq, and with nftables', () => {
    for (const plugin of [
      { type: 'bridge' },
      { type: 'bridge', ipMasq: true, ipMasqBackend: 'nftables' },
      { type: 'x', ipMasq: true },
    ]) {
      const other = { ...network(), plugins: [plugin] };
      assert.deepEqual(masqueradeRules({ containerId: ID, network: other, addresses: ['10.90.1.5/24'] }), []);
    }
  });

  test('lack nothing when all are there, and a chain is made whole when one is not', () => {
    const [wanted] = masqueradeRules({ containerId: ID, network: network(), addresses: ['10.90.1.5/24'] });
    assert.ok(wanted !== undefined);
    const all = rulesOf(ID, '10.90.1.5');
    assert.deepEqual(missingLines(wanted, all), []);
    const broken = all.filter(({ rule }) => !rule.includes('MASQUERADE'));
    assert.deepEqual(missingLines(wanted, broken), [`:${wanted.chain} - [0:0]`, ...wanted.inside]);
    const unled = all.filter(({ chain }) => chain !== 'POSTROUTING');
    assert.deepEqual(missingLines(wanted, unled), wanted.outside);
  });
});

describe('auditRules', () => {
  const kinds = (suspects: ReturnType<typeof auditRules>): string[] =>
    suspects.map(({ containerId, missing, name, repair }) =>
      [
        containerId === STRANGER ? 'stranger' : containerId === ID ? 'owner' : '-',
        missing,
        name.split(' ')[0],
        repair !== undefined,
      ].join(' '),
    );

  test('finds nothing where all rules have an owner', () => {
    assert.deepEqual(auditRules(owners(network()), rulesOf(ID, '10.90.1.5'), undefined), []);
  });

  test('finds the rules of a container nobody knows, by its id and by its address', () => {
    const rules = [...rulesOf(ID, '10.90.1.5'), ...rulesOf(STRANGER, '10.90.1.6')];
    const chain = ownChainName('CNI-', 'net', STRANGER);
    assert.deepEqual(kinds(auditRules(owners(network()), rules, undefined)), [
      `stranger false ${chain} true`,
      '- false CNI-FORWARD true',
    ]);
  });

  test('finds the port mappings of a container nobody knows, with the chain they lead to', () => {
    const chain = ownChainName('CNI-DN-', 'net', STRANGER);
    const lines = [
      `:${chain} - [0:0]`,
      `-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"net\\" id: \\"${STRANGER}\\"" -m multiport --dports 8080 -j ${chain}`,
      `-A ${chain} -s 10.90.1.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK`,
      `-A ${chain} -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.90.1.6:80`,
    ];
    const rules = lines.flatMap((line) => parseRule(4, 'nat', line) ?? []);
    assert.equal(rules.length, lines.length);
    const [suspect, ...more] = auditRules(owners(network()), [...rulesOf(ID, '10.90.1.5'), ...rules], undefined);
    assert.deepEqual([suspect?.name, suspect?.containerId, more], [chain, STRANGER, []]);
    assert.match(suspect?.detail ?? '', /^4 rules and chains/);
    assert.notEqual(suspect?.repair, undefined);
  });

  test('leaves alone a network of the same name with other addresses', () => {
    const other = rulesOf(STRANGER, '10.91.1.6');
    assert.deepEqual(auditRules(owners(network()), [...rulesOf(ID, '10.90.1.5'), ...other], undefined), []);
  });

  test('leaves alone other networks, and addresses outside', () => {
    const other = rulesOf(STRANGER, '10.91.1.6').map((rule) => ({ ...rule, network: rule.network && 'other' }));
    assert.deepEqual(auditRules(owners(network()), [...rulesOf(ID, '10.90.1.5'), ...other], undefined), []);
  });

  test('offers no repair for what lives elsewhere', () => {
    const rules = [...rulesOf(ID, '10.90.1.5'), ...rulesOf(STRANGER, '10.90.1.6')];
    const suspects = auditRules(owners(network(), [STRANGER]), rules, undefined);
    assert.equal(suspects.length, 2);
    assert.ok(suspects.every(({ repair }) => repair === undefined));
    assert.equal(suspects[0]?.detail, ELSEWHERE);
  });

  test('judges no address while an attachment is half made', () => {
    const of = network();
    const half = owners(of, [], recorded(of, { state: 'adding', result: undefined }));
    const suspects = auditRules(half, [...rulesOf(ID, '10.90.1.5'), ...rulesOf(STRANGER, '10.90.1.6')], undefined);
    assert.deepEqual(kinds(suspects), [`stranger false ${ownChainName('CNI-', 'net', STRANGER)} true`]);
  });

  test('finds what an owner lacks', () => {
    const of = network();
    const ports = { portMappings: [{ hostPort: 80, containerPort: 80, protocol: 'tcp' }] };
    const suspects = auditRules(owners(of, [], recorded(of, { capabilityArgs: ports })), [], undefined);
    assert.deepEqual(kinds(suspects), [
      'owner true masquerade false',
      'owner true portmap false',
      'owner true firewall false',
    ]);
  });
});

describe('auditLeases', () => {
  test('removes leases of nobody and writes those that are missing', async (t) => {
    const dir = await tempDir(t);
    const of = network(dir);
    mkdirSync(join(dir, 'net'));
    writeFileSync(join(dir, 'net', '10.90.1.6'), `${STRANGER}\r\neth0`);
    writeFileSync(join(dir, 'net', '10.90.1.7'), `${ID}\r\neth9`);
    writeFileSync(join(dir, 'net', 'last_reserved_ip.0'), '10.90.1.7');
    const suspects = auditLeases(owners(of), await leasesOf(of));
    assert.deepEqual(suspects.map(({ name, missing }) => `${name} ${missing}`).sort(), [
      '10.90.1.5 true',
      '10.90.1.6 false',
      '10.90.1.7 false',
    ]);
    for (const { repair } of suspects) await repair?.(AbortSignal.timeout(5000));
    assert.deepEqual(readdirSync(join(dir, 'net')).sort(), ['10.90.1.5', 'last_reserved_ip.0']);
    assert.equal(readFileSync(join(dir, 'net', '10.90.1.5'), 'utf8'), `${ID}\r\neth0`);
    assert.deepEqual(auditLeases(owners(of), await leasesOf(of)), []);
  });

  test('finds leases of Berth\u2019s own allocator that nobody has, and passes over those that are kept', () => {
    const of = { ...network(), plugins: [{ type: 'bridge', ipam: { type: 'berth-ipam' } }] };
    const common = {
      network: 'net',
      interfaceName: 'eth0',
      workload: ID,
      sticky: false,
      allocatedAt: '2026-01-31T12:00:00Z',
    };
    const leases: Lease[] = [
      { ...common, address: '10.90.1.5', containerId: ID },
      { ...common, address: '10.90.1.6', containerId: STRANGER },
      { ...common, address: '10.90.1.7', containerId: STRANGER, releasedAt: '2026-01-31T12:00:00Z' },
      { ...common, address: '10.90.1.8', containerId: STRANGER, network: 'other' },
    ];
    const released: string[] = [];
    const ipam = { list: () => leases, release: ({ address }: Lease) => void released.push(address) };
    const suspects = auditOwnLeases(owners(of), ipam);
    assert.deepEqual(
      suspects.map(({ name, missing }) => [name, missing]),
      [['10.90.1.6', false]],
    );
    for (const { repair } of suspects) void repair?.(AbortSignal.timeout(5000));
    assert.deepEqual(released, ['10.90.1.6']);
    const without = auditOwnLeases(owners(of), { ...ipam, list: () => [] });
    assert.deepEqual(
      without.map(({ name, missing }) => [name, missing]),
      [['10.90.1.5', true]],
    );
  });

  test('only tells of an address that somebody else has a lease for', async (t) => {
    const dir = await tempDir(t);
    const of = network(dir);
    mkdirSync(join(dir, 'net'));
    writeFileSync(join(dir, 'net', '10.90.1.5'), `${STRANGER}\r\neth0`);
    const suspects = auditLeases(owners(of, [STRANGER]), await leasesOf(of));
    assert.deepEqual(
      suspects.map(({ missing, repair }) => [missing, repair]),
      [
        [false, undefined],
        [true, undefined],
      ],
    );
  });
});
