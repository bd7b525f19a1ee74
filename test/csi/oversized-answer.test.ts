/** What is found in an answer that is too large to be read. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { volumeIdIn } from '../../src/csi/oversized-answer.ts';
import { loadCsi } from '../../src/csi/protocol.ts';

const definition = loadCsi().service('Controller')['CreateVolume'];

function encoded(volume: object): Buffer {
  const bytes = definition?.responseSerialize({ volume });
  assert.ok(bytes);
  return bytes;
}

describe('volumeIdIn', () => {
  test('finds the id beside every other field', () => {
    const volume = {
      capacityBytes: '9007199254740993',
      volumeId: 'id-ü',
      volumeContext: Object.fromEntries(Array.from({ length: 1000 }, (_, key) => [`k${key}`, 'x'.repeat(200)])),
      contentSource: { snapshot: { snapshotId: 'not this' } },
      accessibleTopology: [{ segments: { zone: 'nor this' } }],
    };
    assert.equal(volumeIdIn(encoded(volume)), 'id-ü');
  });

  test('finds nothing where there is none, and survives what is no message', () => {
    assert.equal(volumeIdIn(encoded({ volumeContext: { a: 'b' } })), undefined);
    const whole = encoded({ volumeId: 'x', volumeContext: { a: 'b'.repeat(300) } });
    for (let length = 0; length < whole.length; length += 1)
      assert.equal(volumeIdIn(whole.subarray(0, length)), undefined);
    for (const bytes of [
      'ff',
      'ffffffffffffffffffffff',
      '0affffffffffffffffff7f',
      '0b',
      '0a02',
      '08',
      '0d00',
      '0900',
    ]) {
      assert.equal(volumeIdIn(Buffer.from(bytes, 'hex')), undefined, bytes);
    }
  });
});
