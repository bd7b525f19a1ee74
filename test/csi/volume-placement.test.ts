/** Where a volume may be used, and where its places lie. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import type { Plugin } from '../../src/csi/plugin.ts';
import type { VolumeRecord } from '../../src/csi/volume.ts';
import { VolumeMounts } from '../../src/csi/volume-mounts.ts';
import { checkReachable, checkRoom, isReachable } from '../../src/csi/volume-placement.ts';
import { RuntimeError } from '../../src/errors.ts';

const hasCode = (code: string, text: RegExp) => (error: unknown) =>
  error instanceof RuntimeError && error.code === code && text.test(error.message);

/** A record as far as it is looked at. */
function volume(change: Partial<VolumeRecord>): VolumeRecord {
  const looked: Partial<VolumeRecord> = {
    name: 'data',
    driver: 'a.csi.test',
    state: 'created',
    accessibleTopology: [],
  };
  return { ...looked, ...change } as VolumeRecord;
}

function plugin(change: Partial<Plugin>): Plugin {
  return change as Plugin;
}

describe('the topology of a volume', () => {
  const here = { 'x/zone': 'a', 'x/rack': '7' };

  test('need not name all that the node has: one entry must hold as a whole', () => {
    assert.ok(isReachable([], here));
    assert.ok(isReachable([{ 'x/zone': 'a' }], here));
    assert.ok(isReachable([{ 'X/Zone': 'a' }], here), 'keys know no case');
    assert.ok(isReachable([{ 'x/zone': 'b' }, { 'x/zone': 'a', 'x/rack': '7' }], here));
    assert.ok(!isReachable([{ 'x/zone': 'a', 'x/rack': '8' }], here));
    assert.ok(!isReachable([{ 'x/zone': 'A' }], here), 'values do');
    assert.ok(!isReachable([{ 'x/zone': 'a' }], {}), 'a node without topology');
  });

  test('is compared with what the node is now, and both sides are shown', () => {
    const far = volume({ accessibleTopology: [{ 'x/zone': 'b' }] });
    const both = /data cannot be reached .*\{"x\/zone":"b"\}, this node is \{"x\/zone":"a"\}/;
    assert.throws(
      () => checkReachable(far, plugin({ topology: { 'x/zone': 'a' } })),
      hasCode('FAILED_PRECONDITION', both),
    );
    checkReachable(far, plugin({ topology: { 'x/zone': 'b' } }));
  });
});

describe('the room of a node', () => {
  test('is counted from the records, of one plugin, half-way ones included', () => {
    const records = [
      volume({ name: 'one', state: 'published' }),
      volume({ name: 'two', state: 'unstaging' }),
      volume({ name: 'idle', state: 'created' }),
      volume({ name: 'other', driver: 'b.csi.test', state: 'published' }),
    ];
    const none: ReadonlySet<string> = new Set();
    const room = (most: number | undefined, climbing: ReadonlySet<string>): void => {
      const limits = most === undefined ? {} : { maxVolumesPerNode: most };
      checkRoom(volume({}), plugin(limits), records, climbing);
    };
    const full = /a\.csi\.test takes 2 volumes per node, here are one, two/;
    assert.throws(() => room(2, none), hasCode('RESOURCE_EXHAUSTED', full));
    room(3, none);
    room(undefined, none);
    assert.throws(() => room(3, new Set(['idle'])), hasCode('RESOURCE_EXHAUSTED', /one, two, idle/));
  });
});

describe('the places of a volume', () => {
  const mounts = new VolumeMounts({ rootDir: '/var/lib/berth', log: pino({ level: 'silent' }) });

  test('are of one plugin and one id, and short, whatever these are', () => {
    const pairs = [
      ['a.csi.test', 'x'],
      ['b.csi.test', 'x'],
      ['a.csi.test', 'y'],
      ['a.csi.test', 'x/../y'],
      ['a.csi.test', '../../../../etc'],
      ['a.csi', '.test\0x'],
      [`${'p'.repeat(60)}.x`, 'ü'.repeat(64)],
    ] as const;
    const all = pairs.map(([driver, volumeId]) => mounts.pathsOf(volume({ driver, volumeId })));
    const places = all.flatMap((paths) => [
      paths.stage,
      paths.target(''),
      paths.target('a'.repeat(32)),
      paths.target('b'.repeat(32)),
    ]);
    assert.equal(new Set(places).size, places.length);
    for (const place of places) {
      assert.match(place, /^\/var\/lib\/berth\/csi\/mounts\/[0-9a-f]{32}\/(stage|target|t-[0-9a-f]{16})$/);
      assert.ok(Buffer.byteLength(place) <= 128, 'every plugin takes paths up to here');
    }
    const again = mounts.pathsOf(volume({ driver: 'a.csi.test', volumeId: 'x' }));
    assert.equal(again.stage, all[0]?.stage);
  });
});
