import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { accessModeOf, chooseAccessMode, fitsMode, VOLUME_MODES } from '../../src/csi/access-modes.ts';
import type { PluginCapabilities } from '../../src/csi/protocol.ts';
import { RuntimeError } from '../../src/errors.ts';

const plain: PluginCapabilities = {
  plugin: new Set(),
  controller: new Set(),
  node: new Set(),
  groupController: new Set(),
};
const apart: PluginCapabilities = { ...plain, node: new Set(['SINGLE_NODE_MULTI_WRITER'] as const) };

describe('accessModeOf', () => {
  test('knows the words of CSI in any case, and those of Kubernetes', () => {
    for (const mode of VOLUME_MODES) {
      for (const word of [mode, mode.toLowerCase().replaceAll('_', '-')]) assert.equal(accessModeOf(word), mode);
    }
    assert.deepEqual(
      ['RWO', 'rwop', 'ROX', 'rwx', 'ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteMany', 'ReadWriteOncePod'].map(
        accessModeOf,
      ),
      [
        'RWO',
        'SINGLE_NODE_SINGLE_WRITER',
        'MULTI_NODE_READER_ONLY',
        'MULTI_NODE_MULTI_WRITER',
        'RWO',
        'MULTI_NODE_READER_ONLY',
        'MULTI_NODE_MULTI_WRITER',
        'SINGLE_NODE_SINGLE_WRITER',
      ],
    );
  });

  test('refuses other words and says which there are', () => {
    for (const word of ['', 'UNKNOWN', 'RW', 'writer', 'toString']) {
      assert.throws(
        () => accessModeOf(word),
        (error) => error instanceof RuntimeError && /^access_mode: .*RWO.*single-node-writer/.test(error.message),
        word,
      );
    }
  });
});

test('RWO is the mode that suits the plugin, and both of its modes fit it', () => {
  assert.equal(chooseAccessMode('RWO', plain), 'SINGLE_NODE_WRITER');
  assert.equal(chooseAccessMode('RWO', apart), 'SINGLE_NODE_MULTI_WRITER');
  assert.deepEqual(
    VOLUME_MODES.filter((mode) => fitsMode(mode, 'RWO')),
    ['SINGLE_NODE_WRITER', 'SINGLE_NODE_MULTI_WRITER'],
  );
  assert.equal(fitsMode('MULTI_NODE_MULTI_WRITER', undefined), true);
  assert.equal(fitsMode('MULTI_NODE_MULTI_WRITER', 'SINGLE_NODE_WRITER'), false);
});
