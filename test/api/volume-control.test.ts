import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { RegisterVolumeRequest__Output } from '../../src/api/generated/berth/v1/RegisterVolumeRequest.ts';
import { registerRequestOf, volumeUpdateOf } from '../../src/api/volume-control.ts';
import { RuntimeError } from '../../src/errors.ts';

const WIRE: RegisterVolumeRequest__Output = {
  name: 'share',
  driver: 'nfs.csi.example',
  volumeId: 'nas/share',
  access: 'VOLUME_ACCESS_UNSPECIFIED',
  capacityBytes: '0',
  context: [
    { key: 'server', value: 'nas' },
    { key: '__proto__', value: 'x' },
  ],
};

const refused = (field: string) => (error: unknown) =>
  error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT' && error.message.startsWith(`${field}: `);

describe('a request to register a volume', () => {
  test('says what was said and leaves out what was not', () => {
    const request = registerRequestOf(WIRE);
    assert.deepEqual(Object.entries(request.volumeContext), [
      ['server', 'nas'],
      ['__proto__', 'x'],
    ]);
    assert.deepEqual(
      { ...request, volumeContext: {} },
      {
        name: 'share',
        driver: 'nfs.csi.example',
        volumeId: 'nas/share',
        access: 'mount',
        fsType: undefined,
        capacityBytes: 0n,
        volumeContext: {},
      },
    );
    const use = { accessMode: 'ROX', mountFlags: ['hard'], group: 0, ownership: 'never', reclaim: 'delete' };
    const { accessMode, mountFlags, group, ownership, reclaim } = registerRequestOf({ ...WIRE, use });
    assert.deepEqual(
      [accessMode, mountFlags, group, ownership, reclaim],
      ['MULTI_NODE_READER_ONLY', ['hard'], 0, 'never', 'delete'],
    );
  });

  test('is refused by field', () => {
    const use = { accessMode: '', mountFlags: [], ownership: '', reclaim: '' };
    const wrong: readonly (readonly [string, object])[] = [
      ['name', { name: '' }],
      ['driver', { driver: '' }],
      ['access', { access: 7 }],
      ['ownership', { use: { ...use, ownership: 'sometimes' } }],
      ['reclaim', { use: { ...use, reclaim: 'recycle' } }],
      ['access_mode', { use: { ...use, accessMode: 'RW' } }],
    ];
    for (const [field, change] of wrong) {
      assert.throws(() => registerRequestOf({ ...WIRE, ...change }), refused(field), field);
    }
  });
});

test('a request to update a volume needs a state that there is, and a time that timers can take', () => {
  const wire = { name: 'data', mutableParameters: [] };
  assert.deepEqual(volumeUpdateOf({ ...wire, availability: 'drain' }), {
    name: 'data',
    availability: 'drain',
    parameters: {},
    stopTimeoutMs: 10_000,
  });
  assert.equal(volumeUpdateOf({ ...wire, availability: 'pause', stopTimeoutMs: '0' }).stopTimeoutMs, 0);
  for (const availability of ['', 'off', 'Drain']) {
    assert.throws(() => volumeUpdateOf({ ...wire, availability }), refused('availability'));
  }
  for (const stopTimeoutMs of ['-1', '2147483648', 'x']) {
    assert.throws(() => volumeUpdateOf({ ...wire, availability: 'drain', stopTimeoutMs }), refused('stop_timeout'));
  }
});
