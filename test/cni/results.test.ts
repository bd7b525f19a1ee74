import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { compareVersions, usableVersions } from '../../src/cni/cni-version.ts';
import { decodeNetworkRecord, type NetworkRecord } from '../../src/cni/network-record.ts';
import { statusOf } from '../../src/cni/network-status.ts';
import type { CniResult } from '../../src/cni/protocol.ts';
import { readResult, writeResult } from '../../src/cni/result-conversion.ts';

const MODERN: CniResult = {
  cniVersion: '1.1.0',
  interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:01', sandbox: '/ns', mtu: 1500, pciID: 'x' }],
  ips: [
    { address: '10.87.10.2/24', gateway: '10.87.10.1', interface: 0 },
    { address: 'fd00::2/64', interface: 0 },
  ],
  routes: [{ dst: '0.0.0.0/0', mtu: 1400 }],
};

describe('versions', () => {
  test('compare by number, what is no version comes first', () => {
    assert.ok(compareVersions('0.10.0', '0.4.0') > 0);
    assert.ok(compareVersions('1', '1.0.0') === 0);
    assert.ok(compareVersions('x', '0.1.0') < 0);
  });

  test('the known ones can be used, the highest first', () => {
    assert.deepEqual(usableVersions('', []), ['0.1.0']);
    assert.deepEqual(usableVersions('', ['0.4.0']), ['0.4.0']);
    assert.deepEqual(usableVersions('1.0', ['9.9.9', '0.4.0', '1.1.0', '1.0.0']), ['1.1.0', '1.0.0', '0.4.0']);
    assert.throws(() => usableVersions('9.9.9', []), TypeError);
    assert.throws(() => usableVersions('1.0.0', ['x']), TypeError);
  });
});

describe('results', () => {
  test('take the version of the configuration when they name none', () => {
    assert.equal(readResult({ ips: [] }, '0.4.0').cniVersion, '0.4.0');
    assert.equal(readResult({ cniVersion: '' }, '1.0.0').cniVersion, '1.0.0');
  });

  test('of 0.2.0 are read as what they would be today', () => {
    const old = {
      ip4: { ip: '10.87.10.2/24', gateway: '10.87.10.1', routes: [{ dst: '0.0.0.0/0' }] },
      dns: { domain: 'x' },
    };
    assert.deepEqual(readResult(old, '0.2.0'), {
      cniVersion: '0.2.0',
      ips: [{ address: '10.87.10.2/24', gateway: '10.87.10.1' }],
      routes: [{ dst: '0.0.0.0/0' }],
      dns: { domain: 'x' },
    });
  });

  test('going to 0.4.0 get families and an empty dns and lose what that version does not know', () => {
    assert.deepEqual(writeResult(MODERN, '0.4.0'), {
      cniVersion: '0.4.0',
      interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:01', sandbox: '/ns' }],
      ips: [
        { address: '10.87.10.2/24', gateway: '10.87.10.1', interface: 0, version: '4' },
        { address: 'fd00::2/64', interface: 0, version: '6' },
      ],
      routes: [{ dst: '0.0.0.0/0', mtu: 1400 }],
      dns: {},
    });
  });

  test('going to 0.2.0 keep the first address of each family', () => {
    const old = writeResult(MODERN, '0.2.0');
    assert.deepEqual(old, {
      cniVersion: '0.2.0',
      ip4: { ip: '10.87.10.2/24', gateway: '10.87.10.1', routes: [{ dst: '0.0.0.0/0' }] },
      ip6: { ip: 'fd00::2/64' },
      dns: {},
    });
    assert.throws(() => writeResult({ ips: [] }, '0.1.0'), TypeError);
  });

  test('survive the way to 0.4.0 and back', () => {
    const there = writeResult(MODERN, '0.4.0');
    const back = writeResult(readResult(there, '0.4.0'), '1.0.0');
    assert.deepEqual(back, {
      cniVersion: '1.0.0',
      interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:01', sandbox: '/ns' }],
      ips: MODERN.ips,
      routes: MODERN.routes,
      dns: {},
    });
  });

  test('are lenient where plugins are, and strict about addresses', () => {
    const odd = {
      cniVersion: '1.0.0',
      interfaces: null,
      ips: [{ address: '10.0.0.1/8', interface: -1, gateway: '' }],
      dns: null,
    };
    assert.equal(readResult(odd, '1.0.0').ips?.length, 1);
    for (const address of ['10.0.0.1', '10.0.0.1/33', '10.0.0.1/8\n', '10.0.0.1/08', 'x/8', 7]) {
      assert.throws(() => readResult({ cniVersion: '1.0.0', ips: [{ address }] }, '1.0.0'), String(address));
    }
  });
});

function recordWith(result: CniResult): NetworkRecord {
  const network = {
    name: 'net',
    cniVersion: '1.0.0',
    disableCheck: false,
    disableGC: false,
    owned: false,
    plugins: [{ type: 'x' }],
  };
  const entry = { network, interfaceName: 'eth0', args: [], capabilityArgs: {}, state: 'added', result } as const;
  return { mode: 'networks', bootId: 'b', netnsPath: '/ns', attachments: [entry] };
}

describe('the status of an attachment', () => {
  test('holds the addresses of the interface inside, not those of the host side', () => {
    const [status] = statusOf(
      recordWith({
        interfaces: [
          { name: 'bcni0', mac: '02:00:00:00:00:02' },
          { name: 'veth1', mac: '02:00:00:00:00:03', sandbox: '' },
          { name: 'eth0', mac: '02:00:00:00:00:01', sandbox: '/ns' },
        ],
        ips: [
          { address: '10.87.10.1/24', interface: 0 },
          { address: '10.87.10.2/24', interface: 2, gateway: '10.87.10.1' },
          { address: '10.87.10.3/24' },
        ],
      }),
    );
    assert.deepEqual(status, {
      network: 'net',
      interfaceName: 'eth0',
      addresses: ['10.87.10.2/24', '10.87.10.3/24'],
      gateways: ['10.87.10.1'],
      mac: '02:00:00:00:00:01',
    });
  });
});

describe('a network record', () => {
  test('is the same after a turn through the database', () => {
    const record = recordWith(MODERN);
    assert.deepEqual(decodeNetworkRecord(JSON.parse(JSON.stringify(record))), record);
    const { result: _, ...planned } = record.attachments[0] ?? {};
    const fresh = { ...record, attachments: [{ ...planned, state: 'planned' }] };
    assert.deepEqual(decodeNetworkRecord(JSON.parse(JSON.stringify(fresh))), fresh);
  });

  test('is refused when it has another shape', () => {
    for (const value of [
      null,
      {},
      { ...recordWith(MODERN), mode: 'other' },
      { ...recordWith(MODERN), attachments: [{}] },
    ]) {
      assert.throws(() => decodeNetworkRecord(value));
    }
  });
});
