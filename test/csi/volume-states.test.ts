/** Which call comes next, for every state, over the table alone. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Publication, VolumeRecord } from '../../src/csi/volume.ts';
import { newVolume } from '../../src/csi/volume-provisioning.ts';
import { nextDown, nextUp, RUNGS, stateWith, type VolumeState } from '../../src/csi/volume-states.ts';
import { A, B } from './volume-host.ts';

const RECORD: VolumeRecord = {
  name: 'data',
  driver: 'fake.csi.test',
  requestedBytes: '1',
  access: 'mount',
  parameters: {},
  csiName: 'data-0123456789ab',
  accessMode: 'SINGLE_NODE_MULTI_WRITER',
  provisioned: true,
  volumeContext: {},
  capacityBytes: '1',
  state: 'created',
  rungs: ['volume', 'attachment', 'stage', 'publication'],
  bootId: 'boot-1',
  ...newVolume({}, 'delete'),
};

const one = (key: string, state: Publication['state']): Publication => ({ key, state, readOnly: false });

function at(state: VolumeState, ...publications: readonly Publication[]): VolumeRecord {
  return { ...RECORD, state, publications };
}

const up = (record: VolumeRecord): string | undefined => nextUp(record, A)?.rung.up;
const down = (record: VolumeRecord, ...keep: readonly string[]): string | undefined =>
  nextDown(record, { keep: new Set(keep), bootId: 'boot-1' })?.rung.down;

describe('the next call', () => {
  test('up is the one of the next rung, or the one under way again', () => {
    const expected: [VolumeState, string | undefined][] = [
      ['creating', 'CreateVolume'],
      ['created', 'ControllerPublishVolume'],
      ['controller-publishing', 'ControllerPublishVolume'],
      ['controller-published', 'NodeStageVolume'],
      ['staging', 'NodeStageVolume'],
      ['staged', 'NodePublishVolume'],
    ];
    for (const [state, rpc] of expected) assert.equal(up(at(state)), rpc, state);
    assert.equal(up(at('published', one(B, 'published'))), 'NodePublishVolume');
    assert.equal(up(at('publishing', one(A, 'publishing'))), 'NodePublishVolume');
    assert.equal(up(at('published', one(A, 'published'))), undefined);
  });

  test('down reverses what nobody needs, target by target, then rung by rung', () => {
    const both = at('published', one(A, 'published'), one(B, 'published'));
    assert.equal(down(both, A, B), undefined);
    assert.deepEqual(nextDown(both, { keep: new Set([A]), bootId: 'boot-1' }), { rung: RUNGS[3], key: B });
    const expected: [VolumeState, string | undefined][] = [
      ['staged', 'NodeUnstageVolume'],
      ['staging', 'NodeUnstageVolume'],
      ['unstaging', 'NodeUnstageVolume'],
      ['controller-published', 'ControllerUnpublishVolume'],
      ['controller-publishing', 'ControllerUnpublishVolume'],
      ['controller-unpublishing', 'ControllerUnpublishVolume'],
      ['created', undefined],
      ['creating', undefined],
      ['deleting', undefined],
    ];
    for (const [state, rpc] of expected) assert.equal(down(at(state)), rpc, state);
  });

  test('nothing is taken down under a target that is needed, or that could not be taken down', () => {
    assert.equal(down(at('staged'), A), undefined);
    assert.equal(down(at('unstaging'), A), 'NodeUnstageVolume');
    const stuck = at('unpublishing', one(A, 'unpublishing'));
    assert.equal(nextDown(stuck, { keep: new Set(), bootId: 'boot-1', passed: new Set([A]) }), undefined);
  });

  test('another boot voids every target', () => {
    const record = at('published', one(A, 'published'));
    assert.equal(nextDown(record, { keep: new Set([A]), bootId: 'boot-2' })?.key, A);
  });

  test('a volume is as far as the least of its targets', () => {
    assert.equal(stateWith(RECORD, []), 'staged');
    assert.equal(stateWith({ ...RECORD, rungs: ['volume', 'publication'] }, []), 'created');
    assert.equal(stateWith(RECORD, [one(A, 'published'), one(B, 'unpublishing')]), 'unpublishing');
    assert.equal(stateWith(RECORD, [one(A, 'unpublishing'), one(B, 'publishing')]), 'publishing');
    assert.equal(stateWith(RECORD, [one(A, 'published'), one(B, 'published')]), 'published');
  });
});
