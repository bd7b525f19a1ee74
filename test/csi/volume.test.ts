/** The ladder as data, the record as JSON, and the pauses between repeated calls. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { accessModeFor } from '../../src/csi/access-modes.ts';
import type {
  ControllerCapability,
  NodeCapability,
  PluginCapabilities,
  PluginService,
} from '../../src/csi/protocol.ts';
import { withRetries } from '../../src/csi/retry.ts';
import { decodeVolumeRecord, type VolumeRecord } from '../../src/csi/volume.ts';
import { newVolume } from '../../src/csi/volume-provisioning.ts';
import { positionOf, RUNGS, rungAbove, rungsFor, stateBelow } from '../../src/csi/volume-states.ts';

interface Offers {
  readonly plugin?: readonly PluginService[];
  readonly controller?: readonly ControllerCapability[];
  readonly node?: readonly NodeCapability[];
}

function capabilities({ plugin, controller, node }: Offers): PluginCapabilities {
  return { plugin: new Set(plugin), controller: new Set(controller), node: new Set(node), groupController: new Set() };
}

const RECORD: VolumeRecord = {
  name: 'data',
  driver: 'fake.csi.test',
  requestedBytes: '9223372036854775807',
  access: 'mount',
  parameters: {},
  csiName: 'data-0123456789ab',
  accessMode: 'SINGLE_NODE_WRITER',
  provisioned: true,
  volumeId: '../../any text',
  volumeContext: {},
  capacityBytes: '9223372036854775807',
  state: 'staged',
  rungs: ['volume', 'stage', 'publication'],
  ...newVolume({}, 'delete'),
  createdAt: '2026-01-01T00:00:00.000Z',
};

describe('the ladder of volume states', () => {
  test('every state is of one rung and one direction', () => {
    const states = RUNGS.flatMap(({ raising, raised, lowering }) => [raising, raised, lowering]);
    assert.equal(new Set(states).size, 12);
    for (const state of states) assert.equal(positionOf(state).rung[positionOf(state).phase], state);
  });

  test('the capabilities choose the rungs', () => {
    assert.deepEqual(rungsFor(capabilities({})), ['volume', 'publication']);
    const full = capabilities({ controller: ['PUBLISH_UNPUBLISH_VOLUME'], node: ['STAGE_UNSTAGE_VOLUME'] });
    assert.deepEqual(rungsFor(full), ['volume', 'attachment', 'stage', 'publication']);
  });

  test('rungs that are not there are passed over, in both directions', () => {
    const [volume, , stage, publication] = RUNGS;
    assert.equal(rungAbove({ ...RECORD, state: 'created' }), stage);
    assert.equal(rungAbove({ ...RECORD, state: 'staging' }), stage);
    assert.equal(rungAbove({ ...RECORD, state: 'published' }), undefined);
    assert.equal(stateBelow(RECORD, stage), 'created');
    assert.equal(stateBelow(RECORD, publication), 'staged');
    assert.equal(stateBelow(RECORD, volume), undefined);
  });

  test('many writers are named only where controller and node know the word', () => {
    const word = ['SINGLE_NODE_MULTI_WRITER'] as const;
    assert.equal(accessModeFor(capabilities({ node: word })), 'SINGLE_NODE_MULTI_WRITER');
    const plugin = ['CONTROLLER_SERVICE'] as const;
    assert.equal(accessModeFor(capabilities({ plugin, node: word })), 'SINGLE_NODE_WRITER');
    assert.equal(accessModeFor(capabilities({ plugin, controller: word })), 'SINGLE_NODE_WRITER');
    assert.equal(accessModeFor(capabilities({ plugin, controller: word, node: word })), 'SINGLE_NODE_MULTI_WRITER');
  });
});

describe('decodeVolumeRecord', () => {
  test('takes what was written, to the last byte of an int64', () => {
    assert.deepEqual(decodeVolumeRecord(JSON.parse(JSON.stringify(RECORD))), RECORD);
  });

  test('fills in what an earlier version did not write', () => {
    const { name, driver, requestedBytes, access, parameters, csiName, accessMode, volumeId, volumeContext } = RECORD;
    const asked = { name, driver, requestedBytes, access, parameters, csiName, accessMode, volumeId, volumeContext };
    const earlier = { ...asked, provisioned: false, capacityBytes: '1', state: 'unpublishing', rungs: [] };
    const record = decodeVolumeRecord({ ...earlier, publishContext: {}, claims: [], createdAt: RECORD.createdAt });
    assert.deepEqual(record.publications, [{ key: '', state: 'unpublishing', readOnly: false }]);
    assert.deepEqual([record.reclaim, record.availability, record.mountFlags], ['retain', 'active', []]);
  });

  test('refuses what is no record', () => {
    for (const change of [{ state: 'flying' }, { capacityBytes: 1 }, { volumeContext: { a: 1 } }, { name: '../x' }]) {
      assert.throws(() => decodeVolumeRecord({ ...RECORD, ...change }));
    }
    assert.throws(() => decodeVolumeRecord(null));
  });
});

describe('withRetries', () => {
  const always = { budgetMs: 10_000, repeatable: () => true, onRetry: () => undefined };

  test('gives the first result, and says how often it failed before', async () => {
    const pauses: number[] = [];
    let calls = 0;
    const attempt = async (): Promise<string> => {
      calls += 1;
      if (calls < 3) throw new Error('not yet');
      return 'done';
    };
    const options = { ...always, onRetry: (_error: unknown, pauseMs: number) => pauses.push(pauseMs) };
    assert.equal(await withRetries(attempt, options, AbortSignal.timeout(5000)), 'done');
    assert.equal(pauses.length, 2);
    assert.ok(
      pauses.every((ms, index) => ms >= 25 * 2 ** index && ms <= 50 * 2 ** index),
      String(pauses),
    );
  });

  test('throws the last failure when the budget, the caller or the reason gives out', async () => {
    const fail = async (): Promise<never> => {
      throw new Error('the plugin said so');
    };
    const soon = AbortSignal.timeout(5000);
    await assert.rejects(withRetries(fail, { ...always, budgetMs: 0 }, soon), /the plugin said so/);
    await assert.rejects(withRetries(fail, { ...always, repeatable: () => false }, soon), /the plugin said so/);
    await assert.rejects(withRetries(fail, always, AbortSignal.timeout(60)), /the plugin said so/);
  });
});
