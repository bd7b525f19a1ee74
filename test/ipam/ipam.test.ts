import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { Ipam } from '../../src/ipam/ipam.ts';
import { readIpamRequest } from '../../src/ipam/ipam-request.ts';
import { decodeLease, type Lease } from '../../src/ipam/lease-table.ts';
import { Database, MemoryStore, type Store } from '../../src/store.ts';
import { cleanup } from '../support/cleanup.ts';
import { tempDir } from '../support/temp-dir.ts';
import { add, call, callOf, failureOf } from './ipam-call.ts';

/** An allocator whose clock goes on by a second at each look. */
function ipamOn(store: Store<Lease> = new MemoryStore<Lease>()): Ipam {
  let seconds = 0;
  const now = (): Date => {
    seconds += 1;
    return new Date(Date.UTC(2026, 0, 1, 0, 0, seconds));
  };
  return new Ipam({ store, log: pino({ enabled: false }), now });
}

const DUAL = { ranges: [[{ subnet: '10.87.30.0/24' }], [{ subnet: 'fd00:be:30::/64', gateway: 'fd00:be:30::ff' }]] };

describe('ADD', () => {
  test('gives one address of each range set with gateway and routes', () => {
    const ipam = ipamOn();
    const routes = [{ dst: '0.0.0.0/0' }, { dst: '10.0.0.0/8', gw: '10.87.30.9', mtu: 1400 }];
    const result = ipam.handle(readIpamRequest(callOf('ADD', { ipam: { ...DUAL, routes } })));
    assert.deepEqual(result, {
      cniVersion: '1.0.0',
      ips: [
        { address: '10.87.30.2/24', gateway: '10.87.30.1' },
        { address: 'fd00:be:30::1/64', gateway: 'fd00:be:30::ff' },
      ],
      routes,
    });
  });

  test('answers in the version of the configuration', () => {
    const ipam = ipamOn();
    const answer = (cniVersion: string, container: string): unknown =>
      ipam.handle(readIpamRequest(callOf('ADD', { cniVersion, container, ipam: { subnet: '10.87.30.0/24' } })));
    assert.deepEqual(answer('0.4.0', 'a'), {
      cniVersion: '0.4.0',
      ips: [{ address: '10.87.30.2/24', gateway: '10.87.30.1', version: '4' }],
      dns: {},
    });
    assert.deepEqual(answer('0.2.0', 'b'), {
      cniVersion: '0.2.0',
      ip4: { ip: '10.87.30.3/24', gateway: '10.87.30.1' },
      dns: {},
    });
    assert.equal(failureOf(() => answer('1.2.0', 'c')).code, 1);
    const two = { ranges: [[{ subnet: '10.87.30.0/25' }], [{ subnet: '10.87.30.128/25' }]] };
    assert.equal(failureOf(() => add(ipam, { cniVersion: '0.2.0', ipam: two })).code, 7);
  });

  test('may be repeated: the same interface keeps what it has', () => {
    const ipam = ipamOn();
    assert.deepEqual(add(ipam, { ipam: DUAL }), add(ipam, { ipam: DUAL }));
    assert.deepEqual(add(ipam, { ipam: DUAL, interfaceName: 'eth1' }), ['10.87.30.3/24', 'fd00:be:30::2/64']);
    assert.equal(ipam.list().length, 4);
  });

  test('goes round: an address that was given back comes last', () => {
    const ipam = ipamOn();
    assert.deepEqual(add(ipam, { container: 'a' }), ['10.87.30.2/29']);
    call(ipam, 'DEL', { container: 'a' });
    const order = ['b', 'c', 'd', 'e', 'f'].flatMap((container) => add(ipam, { container }));
    assert.deepEqual(order, ['10.87.30.3/29', '10.87.30.4/29', '10.87.30.5/29', '10.87.30.6/29', '10.87.30.2/29']);
  });

  test('answers code 11 with the counts when nothing is left, and writes nothing', () => {
    const ipam = ipamOn();
    for (const container of ['a', 'b', 'c', 'd', 'e']) add(ipam, { container });
    const full = { ranges: [[{ subnet: 'fd00:be:30::/64' }], [{ subnet: '10.87.30.0/29' }]] };
    assert.deepEqual(
      failureOf(() => add(ipam, { container: 'f', ipam: full })),
      {
        code: 11,
        message: 'network net has no free address in 10.87.30.1-10.87.30.6: 5 of 5 are held',
      },
    );
    assert.equal(ipam.list().length, 5);
    call(ipam, 'DEL', { container: 'c' });
    assert.deepEqual(add(ipam, { container: 'f' }), ['10.87.30.4/29']);
  });

  test('keeps networks apart', () => {
    const ipam = ipamOn();
    assert.deepEqual(add(ipam, { network: 'one' }), add(ipam, { network: 'two' }));
    call(ipam, 'DEL', { network: 'one' });
    assert.deepEqual(
      ipam.list().map(({ network }) => network),
      ['two'],
    );
  });

  test('takes ranges of the runtime before those of the configuration', () => {
    const ipam = ipamOn();
    const more = { runtimeConfig: { ipRanges: [[{ subnet: '10.87.31.0/24', rangeStart: '10.87.31.50' }]] } };
    const ipam2 = { subnet: '10.87.32.0/24', rangeStart: '10.87.32.7', ranges: [[{ subnet: '10.87.30.0/24' }]] };
    assert.deepEqual(add(ipam, { more, ipam: ipam2 }), ['10.87.31.50/24', '10.87.32.7/24', '10.87.30.2/24']);
  });

  test('puts the settings of a resolv.conf into the result', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'resolv.conf');
    writeFileSync(path, 'nameserver 10.87.30.1\nsearch berth.test\noptions ndots:2\n');
    const resolving = { subnet: '10.87.30.0/24', resolvConf: path };
    const result = ipamOn().handle(readIpamRequest(callOf('ADD', { ipam: resolving })));
    assert.deepEqual(result?.dns, { nameservers: ['10.87.30.1'], search: ['berth.test'], options: ['ndots:2'] });
    const ipam = ipamOn();
    for (const resolvConf of [join(dir, 'absent'), dir, '/dev/zero']) {
      assert.equal(failureOf(() => add(ipam, { ipam: { ...resolving, resolvConf } })).code, 5, resolvConf);
    }
    assert.deepEqual(ipam.list(), []);
  });
});

describe('static requests', () => {
  const wide = { ranges: [[{ subnet: '10.87.30.0/24' }], [{ subnet: 'fd00:be:30::/64' }]], exclude: ['10.87.30.99'] };

  test('are served from CNI_ARGS, args.cni.ips and runtimeConfig.ips, the old one only alone', () => {
    const ipam = ipamOn();
    const both = { runtimeConfig: { ips: ['fd00:be:30::77/64'] }, args: { cni: { ips: ['10.87.30.78'] } } };
    assert.deepEqual(add(ipam, { container: 'a', ipam: wide, args: 'IgnoreUnknown=1;IP=10.87.30.50' }), [
      '10.87.30.50/24',
      'fd00:be:30::2/64',
    ]);
    assert.deepEqual(add(ipam, { container: 'b', ipam: wide, args: 'IP=10.87.30.51', more: both }), [
      '10.87.30.78/24',
      'fd00:be:30::77/64',
    ]);
    // Repeated, it is served from what the interface has.
    assert.equal(add(ipam, { container: 'b', ipam: wide, more: both })[0], '10.87.30.78/24');
  });

  test('name what cannot be had and why', () => {
    const ipam = ipamOn();
    add(ipam, { container: 'a', ipam: wide, args: 'IP=10.87.30.50' });
    for (const [ip, code, message] of [
      ['10.87.30.50', 11, /is held by eth0 of container a since 2026-/],
      ['10.87.30.1', 7, /is the gateway/],
      ['10.87.30.99', 7, /is excluded/],
      ['10.87.40.1', 7, /is in no range: 10\.87\.30\.1-10\.87\.30\.254, fd00/],
      ['10.87.30.60;IP=10.87.30.61', 7, /10\.87\.30\.61 of network net is one too many/],
    ] as const) {
      const failure = failureOf(() => add(ipam, { container: 'b', ipam: wide, args: `IP=${ip}` }));
      assert.equal(failure.code, code, ip);
      assert.match(failure.message, message);
    }
    assert.match(
      failureOf(() => add(ipam, { container: 'a', ipam: wide, args: 'IP=10.87.30.51' })).message,
      /DEL comes/,
    );
    assert.equal(ipam.list().length, 2);
  });

  test('that hold what they must not are refused (K18)', () => {
    const ipam = ipamOn();
    const refused = [
      'IP',
      'IP=1=2',
      '=10.87.30.5',
      'IP=10.87.30.5\nX=1',
      'IP=10.87.30.5\u0000',
      'IP=',
      'IP=eth0',
      'IP=::ffff:10.87.30.5',
    ];
    for (const args of refused) assert.equal(failureOf(() => add(ipam, { args })).code, 4, JSON.stringify(args));
    for (const ip of ['', '10.87.30.5/64', '10.87.30.5;x', '10.87.30.5\n', '../x']) {
      assert.equal(failureOf(() => add(ipam, { more: { runtimeConfig: { ips: [ip] } } })).code, 7, JSON.stringify(ip));
    }
    assert.deepEqual(ipam.list(), []);
  });
});

describe('sticky addresses', () => {
  const sticky = { subnet: '10.87.30.0/29', sticky: true };

  test('come back to who had them, and go to others when nothing else is left', () => {
    const ipam = ipamOn();
    const give = (container: string): string[] => add(ipam, { container, ipam: sticky });
    for (const container of ['a', 'b', 'c']) give(container);
    for (const container of ['b', 'a']) call(ipam, 'DEL', { container });
    assert.deepEqual(give('a'), ['10.87.30.2/29']);
    call(ipam, 'DEL', { container: 'a' });
    // .5 and .6 are nobody's; then the one kept longest goes: b gave back before a.
    assert.deepEqual(['d', 'e', 'f'].flatMap(give), ['10.87.30.5/29', '10.87.30.6/29', '10.87.30.3/29']);
    assert.deepEqual(give('a'), ['10.87.30.2/29']);
    assert.equal(failureOf(() => give('b')).code, 11);
  });

  test('belong to the pod where there is one', () => {
    const ipam = ipamOn();
    const args = 'IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=db-0';
    assert.deepEqual(add(ipam, { container: 'a', args, ipam: sticky }), ['10.87.30.2/29']);
    call(ipam, 'DEL', { container: 'a' });
    add(ipam, { container: 'x', ipam: sticky });
    assert.deepEqual(add(ipam, { container: 'b', args, ipam: sticky }), ['10.87.30.2/29']);
  });

  test('are kept for as long as the configuration says, a week otherwise', () => {
    const store = new MemoryStore<Lease>();
    let at = Date.UTC(2026, 0, 1);
    const ipam = new Ipam({ store, log: pino({ enabled: false }), now: () => new Date(at) });
    const kept = (): string[] => ipam.list().map(({ containerId }) => containerId);
    add(ipam, { container: 'short', ipam: { ...sticky, stickySeconds: 60 } });
    add(ipam, { container: 'usual', ipam: sticky });
    add(ipam, { container: 'held', ipam: { ...sticky, stickySeconds: 1 } });
    at += 3_600_000;
    for (const container of ['short', 'usual']) call(ipam, 'DEL', { container });
    at += 59_999;
    assert.deepEqual(kept(), ['short', 'usual', 'held'], 'time counts from when it was given back');
    at += 1;
    assert.deepEqual(kept(), ['usual', 'held']);
    assert.equal(store.entries().has('net/10.87.30.2'), false, 'off the record too');
    at += 604_800_000 - 60_001;
    assert.deepEqual(kept(), ['usual', 'held']);
    at += 1;
    // An ADD sees it as well: the address is nobody's now, and others go first no more.
    assert.deepEqual(add(ipam, { container: 'usual', ipam: sticky }), ['10.87.30.5/29']);
    assert.deepEqual(kept(), ['held', 'usual']);
  });

  test('of an earlier version are kept for a week', () => {
    const store = new MemoryStore<Lease>();
    const owner = { network: 'net', containerId: 'a', interfaceName: 'eth0', workload: 'a', sticky: true };
    const times = { allocatedAt: '2026-01-01T00:00:00.000Z', releasedAt: '2026-01-01T00:00:00.000Z' };
    store.create('net/10.87.30.2', { ...owner, ...times, address: '10.87.30.2' });
    let at = Date.parse('2026-01-07T23:59:59.999Z');
    const ipam = new Ipam({ store, log: pino({ enabled: false }), now: () => new Date(at) });
    assert.equal(ipam.list().length, 1);
    at += 1;
    assert.equal(ipam.list().length, 0);
  });

  test('are not kept for no time, a part of a second or for ever', () => {
    for (const stickySeconds of [0, -1, 1.5, 1e12, '60']) {
      assert.equal(failureOf(() => add(ipamOn(), { ipam: { ...sticky, stickySeconds } })).code, 7);
    }
  });

  test('are kept for a bounded number of workloads', () => {
    const ipam = ipamOn();
    const wide = { subnet: '10.86.0.0/16', sticky: true };
    for (let number = 0; number < 1030; number += 1) {
      add(ipam, { container: `c${number}`, ipam: wide });
      call(ipam, 'DEL', { container: `c${number}` });
    }
    assert.equal(ipam.list().length, 1024);
    assert.equal(
      ipam.list().some(({ containerId }) => containerId === 'c5'),
      false,
    );
  });
});

describe('DEL', () => {
  test('gives back everything, may be repeated, and needs no good configuration', () => {
    const ipam = ipamOn();
    add(ipam, { ipam: DUAL });
    add(ipam, { interfaceName: 'eth1' });
    const broken = { cniVersion: '9.9.9', args: 'nonsense', ipam: { ranges: 'none' } };
    for (let round = 0; round < 2; round += 1) call(ipam, 'DEL', broken);
    assert.deepEqual(
      ipam.list().map(({ interfaceName }) => interfaceName),
      ['eth1'],
    );
  });
});

describe('CHECK', () => {
  test('passes while the lease is there and fails when it is not', () => {
    const ipam = ipamOn();
    const [address] = add(ipam);
    const more = { prevResult: { cniVersion: '1.0.0', ips: [{ address }] } };
    call(ipam, 'CHECK', { more });
    const other = { prevResult: { cniVersion: '1.0.0', ips: [{ address: '10.87.30.5/29' }] } };
    assert.deepEqual(
      failureOf(() => call(ipam, 'CHECK', { more: other })),
      {
        code: 101,
        message: 'eth0 of container c1 has no lease of 10.87.30.5 of network net',
      },
    );
    assert.equal(failureOf(() => call(ipam, 'CHECK', { more: { prevResult: { ips: 'none' } } })).code, 6);
    for (const lease of ipam.list()) ipam.release(lease);
    assert.deepEqual(
      failureOf(() => call(ipam, 'CHECK', { more })),
      {
        code: 101,
        message: 'eth0 of container c1 holds no address of network net in 10.87.30.1-10.87.30.6',
      },
    );
  });
});

describe('GC', () => {
  test('gives back what no attachment holds, of this network only', () => {
    const ipam = ipamOn();
    for (const container of ['a', 'b', 'c']) add(ipam, { container });
    add(ipam, { container: 'a', network: 'other' });
    const valid = [
      { containerID: 'b', ifname: 'eth0' },
      { containerID: 'c', ifname: 'eth1' },
    ];
    call(ipam, 'GC', { more: { 'cni.dev/valid-attachments': valid } });
    const left = ipam.list().map(({ network, containerId }) => `${network} ${containerId}`);
    assert.deepEqual(left.sort(), ['net b', 'other a']);
    call(ipam, 'GC', { more: { 'cni.dev/attachments': null } });
    assert.deepEqual(
      ipam.list().map(({ network }) => network),
      ['other'],
    );
  });

  test('refuses to guess when there is no list', () => {
    const ipam = ipamOn();
    add(ipam);
    assert.equal(failureOf(() => call(ipam, 'GC')).code, 7);
    assert.equal(ipam.list().length, 1);
  });
});

describe('STATUS', () => {
  test('passes while there is room and answers code 50 with the counts when there is none', () => {
    const ipam = ipamOn();
    for (const container of ['a', 'b', 'c', 'd', 'e']) {
      call(ipam, 'STATUS');
      add(ipam, { container });
    }
    assert.deepEqual(
      failureOf(() => call(ipam, 'STATUS')),
      {
        code: 50,
        message: 'network net has no free address in 10.87.30.1-10.87.30.6: 5 of 5 are held',
      },
    );
  });
});

describe('bad input', () => {
  test('is refused with a code of the protocol, and nothing is written', () => {
    const ipam = ipamOn();
    const variables = (change: Readonly<Record<string, string>>) =>
      new Map([...callOf('ADD').variables, ...Object.entries(change)]);
    const { stdin } = callOf('ADD');
    for (const [code, wrong] of [
      [4, { variables: variables({ CNI_COMMAND: 'EAT' }), stdin }],
      [4, { variables: new Map<string, string>(), stdin }],
      ...['', '../x', 'a/b', 'a\nb', '-v', '.', 'x'.repeat(300)].map(
        (id) => [4, { variables: variables({ CNI_CONTAINERID: id }), stdin }] as const,
      ),
      ...['', '..', 'a/b', 'a b', 'a:b', 'sixteen-letters-'].map(
        (name) => [4, { variables: variables({ CNI_IFNAME: name }), stdin }] as const,
      ),
      [6, { variables: variables({}), stdin: '' }],
      [6, { variables: variables({}), stdin: `${stdin}${stdin}` }],
      [7, { variables: variables({}), stdin: '[]' }],
      [7, callOf('ADD', { network: '../net' })],
      [7, callOf('ADD', { network: '__proto__' })],
      [7, callOf('ADD', { ipam: {} })],
      [7, callOf('ADD', { ipam: { ranges: [] } })],
      [7, callOf('ADD', { ipam: { ranges: [[]] } })],
      [7, callOf('ADD', { ipam: { ranges: [[{ subnet: 5 }]] } })],
      [7, callOf('ADD', { ipam: { subnet: '10.87.30.0/24', routes: [{ dst: 'everywhere' }] } })],
    ] as const) {
      assert.equal(failureOf(() => ipam.handle(readIpamRequest(wrong))).code, code, JSON.stringify(wrong));
    }
    assert.deepEqual(ipam.list(), []);
  });
});

describe('leases on disk', () => {
  test('are all there after a restart, and the search goes on behind the newest', async (t) => {
    const path = join(await tempDir(t), 'test.db');
    const first = new Database(path);
    const before = ipamOn(first.store('lease', decodeLease));
    const given = ['a', 'b', 'c'].flatMap((container) => add(before, { container }));
    call(before, 'DEL', { container: 'a' });
    first.close();
    const second = new Database(path);
    cleanup(t, () => second.close());
    const after = ipamOn(second.store('lease', decodeLease));
    assert.deepEqual(add(after, { container: 'b' }), given.slice(1, 2));
    assert.deepEqual(add(after, { container: 'd' }), ['10.87.30.5/29']);
  });

  test('that do not decode are left alone, and their addresses are not given', async (t) => {
    const database = new Database(join(await tempDir(t), 'test.db'));
    cleanup(t, () => database.close());
    database.store('lease', (value) => value).write('net/10.87.30.2', { torn: true });
    const store = database.store('lease', decodeLease);
    const ipam = ipamOn(store);
    assert.deepEqual(add(ipam), ['10.87.30.3/29']);
    assert.equal(failureOf(() => add(ipam, { container: 'b', args: 'IP=10.87.30.2' })).code, 5);
    assert.deepEqual([...store.damaged().keys()], ['net/10.87.30.2']);
  });
});
