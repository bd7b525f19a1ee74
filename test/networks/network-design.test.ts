/** From what people ask for to a configuration list. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseNetworkList } from '../../src/cni/network-config-parser.ts';
import { RuntimeError } from '../../src/errors.ts';
import { parseSubnet, type Subnet } from '../../src/ipam/address.ts';
import { parseRoutes4, parseRoutes6 } from '../../src/networks/host-routes.ts';
import { designNetwork, type NetworkRequest, type Surroundings } from '../../src/networks/network-design.ts';
import { subnetsOf } from '../../src/networks/network-subnets.ts';
import { formatSubnet } from '../../src/networks/subnet-choice.ts';

function subnet(text: string): Subnet {
  const parsed = parseSubnet(text);
  assert.ok(parsed !== undefined, text);
  return parsed;
}

function around(change: Partial<Surroundings> = {}): Surroundings {
  const network = { subnet: subnet('10.90.0.0/24'), holder: 'network front' };
  const route = { subnet: subnet('10.90.1.0/25'), holder: 'a route of this host' };
  const pools = [subnet('10.90.0.0/22')];
  return { pools, networks: [network], routes: [route], leaseDir: '/var/lib/x', bridge: 'br-0', ...change };
}

function request(change: Partial<NetworkRequest>): NetworkRequest {
  return { name: 'net', driver: '', subnets: [], gateways: [], ipRanges: [], ipv6: false, internal: false, ...change };
}

/** The list as it is read back. */
function designed(change: Partial<NetworkRequest>, surroundings = around()) {
  const list = parseNetworkList(JSON.stringify(designNetwork(request(change), surroundings)));
  const [first = {}, ...rest] = list.plugins;
  return {
    list,
    first,
    rest: rest.map((plugin) => plugin['type']),
    subnets: subnetsOf({ ...list, cniVersion: '1.0.0' }),
  };
}

function refusal(change: Partial<NetworkRequest>, surroundings?: Surroundings): string {
  try {
    designNetwork(request(change), surroundings ?? around());
  } catch (error) {
    assert.ok(error instanceof RuntimeError, String(error));
    return `${error.code} ${error.message}`;
  }
  assert.fail(`accepted ${JSON.stringify(change)}`);
}

describe('designNetwork', () => {
  test('chooses the first subnet that meets no network and no route', () => {
    const { list, first, rest, subnets } = designed({});
    assert.deepEqual(subnets.map(formatSubnet), ['10.90.2.0/24']);
    // A directory that happens to have its name adds nothing to it.
    assert.deepEqual([list.owned, list.takesFolder], [true, false]);
    assert.deepEqual(
      [first['type'], first['bridge'], first['isGateway'], first['ipMasq']],
      ['bridge', 'br-0', true, true],
    );
    assert.deepEqual(rest, ['portmap', 'firewall']);
    assert.deepEqual(first['ipam'], {
      type: 'host-local',
      dataDir: '/var/lib/x',
      ranges: [[{ subnet: '10.90.2.0/24', gateway: '10.90.2.1' }]],
      routes: [{ dst: '0.0.0.0/0' }],
    });
  });

  test('says when every pool is full', () => {
    assert.match(refusal({}, around({ pools: [subnet('10.90.0.0/23')] })), /^RESOURCE_EXHAUSTED subnet: none is free/);
    assert.match(refusal({}, around({ pools: [] })), /^RESOURCE_EXHAUSTED/);
  });

  test('takes a pool that is smaller than a subnet as one', () => {
    const { subnets } = designed({}, around({ pools: [subnet('10.90.0.64/26'), subnet('10.91.0.64/26')] }));
    assert.deepEqual(subnets.map(formatSubnet), ['10.91.0.64/26']);
  });

  test('takes subnet, gateway and range, one of each family', () => {
    const { first } = designed({
      subnets: ['10.91.0.0/16', 'fd00:9::/64'],
      gateways: ['fd00:9::99', '10.91.9.9'],
      ipRanges: ['10.91.4.0/24', 'fd00:9::1:0/112'],
      mtu: 1400,
    });
    assert.equal(first['mtu'], 1400);
    const ipam: unknown = first['ipam'];
    assert.deepEqual(ipam, {
      type: 'host-local',
      dataDir: '/var/lib/x',
      ranges: [
        [{ subnet: '10.91.0.0/16', gateway: '10.91.9.9', rangeStart: '10.91.4.0', rangeEnd: '10.91.4.255' }],
        [{ subnet: 'fd00:9::/64', gateway: 'fd00:9::99', rangeStart: 'fd00:9::1:0', rangeEnd: 'fd00:9::1:ffff' }],
      ],
      routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
    });
  });

  test('keeps both ends of an IPv4 subnet out of a range', () => {
    const { first } = designed({ subnets: ['10.91.0.0/24'], ipRanges: ['10.91.0.0/24'] });
    assert.match(JSON.stringify(first), /"rangeStart":"10.91.0.1","rangeEnd":"10.91.0.254"/);
  });

  test('adds a local IPv6 subnet that differs every time', () => {
    const [one, other] = [designed({ ipv6: true }).subnets, designed({ ipv6: true }).subnets];
    for (const [, v6] of [one, other]) assert.match(v6 === undefined ? '' : formatSubnet(v6), /^fd[0-9a-f:]+::\/64$/);
    assert.notDeepEqual(one[1], other[1]);
    const given = designed({ ipv6: true, subnets: ['fd00:7::/64'] });
    assert.deepEqual(given.subnets.map(formatSubnet), ['fd00:7::/64']);
  });

  test('gives an internal network no way out', () => {
    const { first, rest } = designed({ internal: true });
    assert.deepEqual([first['isGateway'], first['ipMasq'], rest], [false, false, []]);
    assert.doesNotMatch(JSON.stringify(first), /routes/);
  });

  test('lays macvlan and ipvlan on an interface, beside the route of the host', () => {
    const lan = { subnets: ['10.90.1.0/25'], parent: 'eth0' };
    const { first, rest } = designed({ driver: 'macvlan', ...lan });
    assert.deepEqual([first['type'], first['master'], first['mode'], rest], ['macvlan', 'eth0', 'bridge', []]);
    const other = designed({ driver: 'ipvlan', ...lan }).first;
    assert.deepEqual([other['type'], other['master'], other['mode']], ['ipvlan', 'eth0', 'l2']);
    assert.match(refusal({ subnets: lan.subnets }), /meets 10\.90\.1\.0\/25 of a route of this host/);
  });

  test('makes a pair of interfaces with ptp', () => {
    const { first, rest } = designed({ driver: 'ptp' });
    assert.deepEqual(
      [first['type'], first['ipMasq'], first['bridge'], rest],
      ['ptp', true, undefined, ['portmap', 'firewall']],
    );
  });

  test('refuses what is no name, no driver, no subnet (K18, K19)', () => {
    for (const name of ['', '.', '..', '../x', 'a/b', 'a\nb', 'a\0', '-v', 'x'.repeat(129), 'a b', 'none', 'host']) {
      assert.match(refusal({ name }), /^INVALID_ARGUMENT name: /, JSON.stringify(name));
    }
    for (const driver of ['overlay', '../bridge', 'BRIDGE', '__proto__']) {
      assert.match(refusal({ driver }), /^INVALID_ARGUMENT driver: /);
    }
    for (const text of [
      '',
      '10.91.0.0',
      '10.91.0.5/24',
      '10.91.0.0/33',
      '10.91.0.0/24\n',
      '10.91.0.0/24;x',
      'x',
      '10.91.0.0/31',
    ]) {
      assert.match(refusal({ subnets: [text] }), /^INVALID_ARGUMENT subnet: /, text);
    }
    for (const text of [
      '127.0.0.0/16',
      '224.0.0.0/8',
      '0.0.0.0/0',
      '169.254.0.0/24',
      'fe80::/64',
      'ff00::/16',
      '::/64',
    ]) {
      assert.match(refusal({ subnets: [text] }), /^INVALID_ARGUMENT subnet: .*not for networks/, text);
    }
    assert.match(refusal({ subnets: ['10.91.0.0/24', '10.92.0.0/24'] }), /more than one for IPv4/);
    assert.match(refusal({ subnets: ['10.90.0.128/25'] }), /^FAILED_PRECONDITION .*network front/);
  });

  test('refuses gateways and ranges outside the subnet', () => {
    const subnets = ['10.91.0.0/24'];
    for (const text of ['10.92.0.1', '10.91.0.0', '10.91.0.255', 'x', '', '10.91.0.1/24', 'fd00::1', '10.91.0.1\n']) {
      assert.match(refusal({ subnets, gateways: [text] }), /^INVALID_ARGUMENT gateway: /, text);
    }
    for (const text of ['10.91.0.0/16', '10.92.0.0/24', '10.91.0.130/25', '10.91.0.0/32', '10.91.0.1', 'x', '']) {
      assert.match(refusal({ subnets, ipRanges: [text] }), /^INVALID_ARGUMENT ip-range: /, text);
    }
    assert.match(refusal({ subnets, gateways: ['10.91.0.1', '10.91.0.2'] }), /more than one for 10\.91\.0\.0\/24/);
  });

  test('refuses a parent where none belongs, none where one does, and packets of no size', () => {
    assert.match(refusal({ parent: 'eth0' }), /^INVALID_ARGUMENT parent: bridge lies on no interface/);
    assert.match(refusal({ driver: 'macvlan' }), /^INVALID_ARGUMENT parent: macvlan lies on/);
    for (const parent of ['../eth0', 'a b', '', 'x'.repeat(16), '..']) {
      assert.match(refusal({ driver: 'macvlan', parent }), /^INVALID_ARGUMENT interface name/, parent);
    }
    for (const mtu of [0, 67, 65_536, Number.NaN, 1.5]) assert.match(refusal({ mtu }), /^INVALID_ARGUMENT mtu: /);
    assert.match(refusal({ mtu: 1000, ipv6: true }), /^INVALID_ARGUMENT mtu: 1000 is outside 1280/);
  });
});

describe('host routes', () => {
  test('are read as the kernel writes them, less default routes and those of every link', () => {
    const table = [
      'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT',
      'eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0',
      'br0\t0078570A\t00000000\t0001\t0\t0\t0\t80FFFFFF\t0\t0\t0',
      '',
    ].join('\n');
    assert.deepEqual(parseRoutes4(table).map(formatSubnet), ['10.87.120.0/25']);
    const row = (destination: string, length: string): string =>
      `${destination} ${length} ${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00000100 00000001 00000000 00000001     eth0`;
    const table6 = [
      row('fd000000000000000000000000000000', '40'),
      row('fe800000000000000000000000000000', '40'),
      row('ff000000000000000000000000000000', '08'),
      row('0'.repeat(32), '00'),
    ].join('\n');
    assert.deepEqual(parseRoutes6(table6).map(formatSubnet), ['fd00::/64']);
  });
});
