import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formatAddress, parseAddress, parseAddressOrCidr, parseSubnet } from '../../src/ipam/address.ts';
import {
  capacity,
  describeSet,
  gives,
  nextFree,
  parseRangeSets,
  type RangeRequest,
  type RangeSet,
  whyNever,
} from '../../src/ipam/range.ts';

function setOf(...ranges: readonly RangeRequest[]): RangeSet {
  const [set] = parseRangeSets([ranges], []);
  assert.ok(set !== undefined);
  return set;
}

function value(text: string): bigint {
  const address = parseAddress(text);
  assert.ok(address !== undefined, text);
  return address.value;
}

/** Gives `count` addresses one after another, starting behind `after`. */
function given(set: RangeSet, count: number, taken: Set<bigint> = new Set(), after?: string): (string | undefined)[] {
  let cursor = after === undefined ? undefined : value(after);
  return Array.from({ length: count }, () => {
    const next = nextFree(set, (candidate) => taken.has(candidate), cursor);
    if (next === undefined) return undefined;
    taken.add(next);
    cursor = next;
    return formatAddress({ family: set.family, value: next });
  });
}

describe('addresses', () => {
  test('come back in their canonical form', () => {
    for (const [text, canonical] of [
      ['10.87.30.5', '10.87.30.5'],
      ['FD00:BE:0:0::5', 'fd00:be::5'],
      ['::1', '::1'],
      ['255.255.255.255', '255.255.255.255'],
    ] as const) {
      const address = parseAddress(text);
      assert.ok(address !== undefined, text);
      assert.equal(formatAddress(address), canonical);
    }
  });

  test('that are none are refused', () => {
    const none = [
      '',
      '10.87.30',
      '010.1.1.1',
      '10.1.1.256',
      'fe80::1%eth0',
      '::ffff:10.0.0.1',
      '1.1.1.1 ',
      '1.1.1.1\n',
    ];
    for (const text of none) assert.equal(parseAddress(text), undefined, JSON.stringify(text));
    for (const text of ['10.0.0.0', '10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/08', '10.0.0.0/8/8', 'fd00::/129']) {
      assert.equal(parseSubnet(text), undefined, text);
    }
    assert.equal(parseAddressOrCidr('10.0.0.5/33'), undefined);
    assert.equal(parseAddressOrCidr('10.0.0.5/24')?.value, value('10.0.0.5'));
  });
});

describe('parseRangeSets', () => {
  test('takes the whole subnet less network, broadcast and gateway', () => {
    const set = setOf({ subnet: '10.87.30.0/29' });
    assert.equal(capacity(set), 5n);
    assert.deepEqual(given(set, 6), ['10.87.30.2', '10.87.30.3', '10.87.30.4', '10.87.30.5', '10.87.30.6', undefined]);
    assert.equal(describeSet(set), '10.87.30.1-10.87.30.6');
    assert.equal(whyNever(set, value('10.87.30.1')), 'is the gateway');
  });

  test('takes IPv6, where the last address is one like any other', () => {
    const set = setOf({ subnet: 'fd00:be::/126' });
    assert.deepEqual(given(set, 3), ['fd00:be::2', 'fd00:be::3', undefined]);
    assert.equal(capacity(setOf({ subnet: 'fd00:be::/64' })), (1n << 64n) - 2n);
  });

  test('keeps to rangeStart and rangeEnd and to the gateway given', () => {
    const set = setOf({
      subnet: '10.87.30.0/24',
      rangeStart: '10.87.30.10',
      rangeEnd: '10.87.30.12',
      gateway: '10.87.30.11',
    });
    assert.deepEqual(given(set, 3), ['10.87.30.10', '10.87.30.12', undefined]);
    const whole = setOf({ subnet: '10.87.30.0/30', rangeStart: '10.87.30.0', rangeEnd: '10.87.30.3' });
    assert.deepEqual(given(whole, 2), ['10.87.30.2', undefined]);
  });

  test('leaves out what is excluded, of a range and of all', () => {
    const [set] = parseRangeSets(
      [[{ subnet: '10.87.30.0/28', exclude: ['10.87.30.8/29'] }]],
      ['10.87.30.3', 'fd00::/8'],
    );
    assert.ok(set !== undefined);
    assert.deepEqual(given(set, 5), ['10.87.30.2', '10.87.30.4', '10.87.30.5', '10.87.30.6', '10.87.30.7']);
    assert.equal(gives(set, { family: 4, value: value('10.87.30.9') }), false);
    assert.equal(whyNever(set, value('10.87.30.9')), 'is excluded');
  });

  test('refuses what makes no sense, naming the field', () => {
    const refused: readonly (readonly [RegExp, ...RangeRequest[]])[] = [
      [
        /ipam\.ranges\[0\]\[0\]\.subnet: "10\.0\.0\.1\/24" has bits of a host: the network is 10\.0\.0\.0\/24/,
        { subnet: '10.0.0.1/24' },
      ],
      [/subnet: "10\.0\.0\.0\/31" is too small/, { subnet: '10.0.0.0/31' }],
      [/subnet: "fd00::\/127" is too small/, { subnet: 'fd00::/127' }],
      [/subnet: "x" is no subnet/, { subnet: 'x' }],
      [/rangeStart: "10\.1\.0\.1" is not in 10\.0\.0\.0\/24/, { subnet: '10.0.0.0/24', rangeStart: '10.1.0.1' }],
      [/rangeEnd: comes before rangeStart/, { subnet: '10.0.0.0/24', rangeStart: '10.0.0.9', rangeEnd: '10.0.0.8' }],
      [/gateway: "fd00::1" is not in/, { subnet: '10.0.0.0/24', gateway: 'fd00::1' }],
      [/exclude: "all" is neither/, { subnet: '10.0.0.0/24', exclude: ['all'] }],
      [/\[1\]: IPv4 and IPv6 do not mix/, { subnet: '10.0.0.0/24' }, { subnet: 'fd00::/64' }],
      [/\[1\]: overlaps another range/, { subnet: '10.0.0.0/24' }, { subnet: '10.0.0.0/25' }],
      [/ipam\.ranges\[0\]: holds no range/],
    ];
    for (const [message, ...ranges] of refused) {
      assert.throws(() => setOf(...ranges), { code: 'INVALID_ARGUMENT', message });
    }
    const twice = [[{ subnet: '10.0.0.0/24' }], [{ subnet: '10.0.0.128/25' }]];
    assert.throws(() => parseRangeSets(twice, []), /ipam\.ranges\[1\]: overlaps 10\.0\.0\.1-10\.0\.0\.254/);
  });
});

describe('nextFree', () => {
  const set = setOf(
    { subnet: '10.87.30.0/24', rangeStart: '10.87.30.10', rangeEnd: '10.87.30.12' },
    { subnet: '10.87.31.0/24', rangeStart: '10.87.31.20', rangeEnd: '10.87.31.21' },
  );

  test('goes on behind the address given last, over all ranges, and round', () => {
    const order = ['10.87.30.12', '10.87.31.20', '10.87.31.21', '10.87.30.10', '10.87.30.11', undefined];
    assert.deepEqual(given(set, 6, new Set(), '10.87.30.11'), order);
  });

  test('gives an address that was freed only when its turn has come', () => {
    const taken = new Set<bigint>();
    assert.deepEqual(given(set, 2, taken), ['10.87.30.10', '10.87.30.11']);
    taken.delete(value('10.87.30.10'));
    assert.deepEqual(given(set, 3, taken, '10.87.30.11'), ['10.87.30.12', '10.87.31.20', '10.87.31.21']);
    assert.deepEqual(given(set, 1, taken, '10.87.31.21'), ['10.87.30.10']);
  });

  test('begins anew when the last address is no longer one to give', () => {
    assert.deepEqual(given(set, 1, new Set(), '10.87.30.200'), ['10.87.30.10']);
  });

  test('finds the one free address of a /16 in the time of its taken ones', () => {
    const wide = setOf({ subnet: '10.0.0.0/16' });
    const free = value('10.0.128.7');
    let steps = 0;
    const next = nextFree(
      wide,
      (candidate) => {
        steps += 1;
        return candidate !== free;
      },
      value('10.0.128.7'),
    );
    assert.equal(next, free);
    assert.equal(steps, 65_533);
  });

  test('finds the first of 2^64 at once, however many are excluded', () => {
    const [wide] = parseRangeSets([[{ subnet: 'fd00:be::/64' }]], ['fd00:be::/65']);
    assert.ok(wide !== undefined);
    assert.deepEqual(given(wide, 1), ['fd00:be:0:0:8000::']);
  });
});
