/** What the text of a volume class means, and what a request takes from it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { mayBeDefault, parseVolumeClass, type VolumeClass, withClass } from '../../src/csi/volume-class.ts';
import { isSameRequest, type RequestedVolume } from '../../src/csi/volume-request.ts';
import { RuntimeError } from '../../src/errors.ts';

const FILE = '/etc/berth/volumes.d/fast.toml';

const FULL = `
driver = "some.csi.example"
default = true
size = "10Gi"
access-modes = ["single-node-writer", "multi-node-multi-writer"]
fs-type = "xfs"
mount-flags = ["noatime"]
group = 2000
ownership = "always"
reclaim = "retain"
secrets = "fast"
allowed-topologies = [{ "some.csi.example/zone" = "a" }]
[parameters]
tier = "ssd"
__proto__ = "odd"
[mutable-parameters]
iops = "100"
`;

const parsed = (text: string): VolumeClass => parseVolumeClass('fast', FILE, text);

function refuses(act: () => unknown, reason: RegExp): void {
  assert.throws(
    act,
    (error) => error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT' && reason.test(error.message),
  );
}

describe('parseVolumeClass', () => {
  test('takes every key', () => {
    const { parameters, mutableParameters, ...rest } = parsed(FULL);
    assert.deepEqual(Object.entries(mutableParameters), [['iops', '100']]);
    assert.deepEqual(Object.entries(parameters), [
      ['tier', 'ssd'],
      ['__proto__', 'odd'],
    ]);
    assert.deepEqual(rest, {
      name: 'fast',
      file: FILE,
      driver: 'some.csi.example',
      isDefault: true,
      sizeBytes: 10n * 2n ** 30n,
      access: undefined,
      accessModes: ['SINGLE_NODE_WRITER', 'MULTI_NODE_MULTI_WRITER'],
      fsType: 'xfs',
      mountFlags: ['noatime'],
      group: 2000,
      ownership: 'always',
      reclaim: 'retain',
      secretsName: 'fast',
      allowedTopologies: [{ 'some.csi.example/zone': 'a' }],
    });
  });

  test('needs no more than a driver', () => {
    const { driver, isDefault, accessModes, parameters } = parsed('driver = "a"');
    assert.deepEqual([driver, isDefault, accessModes, parameters], ['a', false, [], {}]);
  });

  const bad: readonly (readonly [title: string, text: string, reason: RegExp])[] = [
    ['is no TOML', 'driver = ', /^file: /],
    ['names no driver', 'reclaim = "delete"', /^driver: /],
    ['has a place without labels', 'driver = "a"\nallowed-topologies = [{}]', /^allowed-topologies: /],
    ['has a label without a value', 'driver = "a"\nallowed-topologies = [{ z = "" }]', /^allowed-topologies: /],
    ['has a key nobody knows', 'driver = "a"\nreclaimpolicy = "delete"', /^reclaimpolicy: /],
    ['has a driver that is none', 'driver = "../a"', /^driver: /],
    ['has a policy nobody knows', 'driver = "a"\nreclaim = "keep"', /^reclaim: /],
    ['has an ownership policy nobody knows', 'driver = "a"\nownership = "often"', /^ownership: /],
    ['has an access mode nobody knows', 'driver = "a"\naccess-modes = ["often"]', /^access_mode: /],
    ['has a size without a unit', 'driver = "a"\nsize = "10"', /^size: "10" is no size/],
    ['has a size of nothing', 'driver = "a"\nsize = "0Gi"', /^size: /],
    ['has a size beyond all bounds', 'driver = "a"\nsize = "99999P"', /^capacityBytes: /],
    ['has a number as a parameter', 'driver = "a"\n[parameters]\nx = 1', /^parameters: must map text to text/],
    ['has secrets instead of their name', 'driver = "a"\nsecrets = "../x"', /^secrets: /],
    ['has a raw device with a file system', 'driver = "a"\naccess = "block"\nfs-type = "xfs"', /^fsType: /],
    ['has a raw device with mount flags', 'driver = "a"\naccess = "block"\nmount-flags = ["ro"]', /^mountFlags: /],
    ['has a group that is none', 'driver = "a"\ngroup = -1', /^group: /],
    ['has too many parameters', `driver = "a"\n[parameters]\nx = "${'y'.repeat(4096)}"`, /^parameters: has 4097 bytes/],
  ];
  for (const [title, text, reason] of bad) {
    test(`refuses a file that ${title}`, () => refuses(() => parsed(text), reason));
  }

  test('refuses a file whose name is no name', () => {
    refuses(() => parseVolumeClass('-a b', FILE, 'driver = "a"'), /^file: /);
  });
});

describe('withClass', () => {
  const wish = { name: 'data', parameters: {} };

  test('fills in what the request leaves out', () => {
    assert.deepEqual(withClass(wish, parsed(FULL.replace('__proto__ = "odd"', ''))), {
      name: 'data',
      driver: 'some.csi.example',
      volumeClass: 'fast',
      capacityBytes: 10n * 2n ** 30n,
      accessMode: 'SINGLE_NODE_WRITER',
      fsType: 'xfs',
      mountFlags: ['noatime'],
      group: 2000,
      ownership: 'always',
      reclaim: 'retain',
      secretsName: 'fast',
      allowedTopologies: [{ 'some.csi.example/zone': 'a' }],
      parameters: { tier: 'ssd' },
      mutableParameters: { iops: '100' },
    });
  });

  test('what the request says wins, parameter by parameter', () => {
    const said = {
      capacityBytes: 1,
      accessMode: 'MULTI_NODE_MULTI_WRITER',
      fsType: 'ext4',
      mountFlags: [],
      group: 1,
      ownership: 'never',
      reclaim: 'delete',
      parameters: { tier: 'hdd', more: 'x' },
      mutableParameters: { iops: '5' },
    } as const;
    const {
      name: _name,
      driver: _driver,
      volumeClass: _class,
      secretsName: _secrets,
      allowedTopologies: _places,
      ...rest
    } = withClass({ ...wish, ...said }, parsed(FULL.replace('__proto__ = "odd"', '')));
    assert.deepEqual(rest, said);
  });

  test('a raw device takes nothing of file systems from a class for both kinds', () => {
    const { fsType, mountFlags, group, access } = withClass({ ...wish, access: 'block' }, parsed(FULL));
    assert.deepEqual([fsType, mountFlags, group, access], [undefined, undefined, undefined, 'block']);
  });

  test('the size is that of the source when there is one', () => {
    const source = { kind: 'volume', name: 'other' } as const;
    assert.equal(withClass({ ...wish, source }, parsed(FULL)).capacityBytes, undefined);
  });

  test('RWO fits the modes it may stand for, on both sides', () => {
    const mode = (modes: string, accessMode: 'RWO' | 'SINGLE_NODE_WRITER'): string | undefined =>
      withClass({ ...wish, accessMode }, parsed(`driver = "a"\naccess-modes = ${modes}`)).accessMode;
    assert.equal(mode('["RWX", "RWO"]', 'RWO'), 'RWO');
    assert.equal(mode('["RWO"]', 'SINGLE_NODE_WRITER'), 'SINGLE_NODE_WRITER');
    assert.equal(mode('["RWX", "single-node-multi-writer"]', 'RWO'), 'SINGLE_NODE_MULTI_WRITER');
    refuses(() => mode('["RWX"]', 'RWO'), /^access_mode: RWO is none of class fast: multi-node-multi-writer/);
  });

  test('refuses another driver, and an access mode that is not of the class', () => {
    refuses(() => withClass({ ...wish, driver: 'other' }, parsed(FULL)), /^driver: class fast is one of some\.csi/);
    refuses(() => withClass({ ...wish, accessMode: 'SINGLE_NODE_READER_ONLY' }, parsed(FULL)), /^access_mode: /);
  });
});

describe('mayBeDefault', () => {
  test('is false only for a text that can be read and does not ask for it', () => {
    for (const text of ['', 'nonsense = 1', 'default = false\nx = 1']) assert.equal(mayBeDefault(text), false, text);
    for (const text of [undefined, 'default = true\nx = 1', 'default = "yes"', 'default = ', 'x']) {
      assert.equal(mayBeDefault(text), true, String(text));
    }
  });
});

describe('isSameRequest', () => {
  const made: RequestedVolume = {
    driver: 'some.csi.example',
    requestedBytes: '1024',
    access: 'mount',
    accessMode: 'SINGLE_NODE_WRITER',
    fsType: 'xfs',
    mountFlags: ['noatime'],
    group: 5,
    ownership: 'always',
    reclaim: 'retain',
    parameters: { tier: 'ssd' },
    mutableParameters: {},
    volumeClass: 'fast',
  };
  const wish = { name: 'data', parameters: {} };

  test('what was left to the class fits whatever the class says by now', () => {
    assert.ok(isSameRequest(made, { ...wish, volumeClass: 'fast' }));
    assert.ok(isSameRequest(made, wish));
    assert.ok(isSameRequest(made, { ...wish, volumeClass: 'fast', capacityBytes: 1024, parameters: { tier: 'ssd' } }));
  });

  test('other words are another request', () => {
    for (const change of [
      { volumeClass: 'slow' },
      { driver: 'other' },
      { capacityBytes: 1 },
      { parameters: { tier: 'hdd' } },
      { parameters: { new: 'x' } },
      { mutableParameters: { iops: '1' } },
      { fsType: 'ext4' },
      { mountFlags: [] },
      { group: 6 },
      { reclaim: 'delete' },
    ] as const) {
      assert.ok(!isSameRequest(made, { ...wish, ...change }), JSON.stringify(change));
    }
  });

  test('without a class, parameters that were not said count', () => {
    const { volumeClass: _class, ...plain } = made;
    const said = {
      ...wish,
      driver: made.driver,
      capacityBytes: 1024,
      fsType: 'xfs',
      mountFlags: ['noatime'],
      group: 5,
    };
    assert.ok(isSameRequest(plain, { ...said, parameters: { tier: 'ssd' } }));
    assert.ok(!isSameRequest(plain, said));
    assert.ok(!isSameRequest(plain, { ...said, parameters: { tier: 'ssd' }, volumeClass: 'fast' }));
  });
});
