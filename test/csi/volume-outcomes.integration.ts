/** Calls whose outcome nobody heard, and what is made of a later answer to the same call. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../src/errors.ts';
import { failWith } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, type FakeOptions, request, soon, volumeHost } from './volume-host.ts';

const FULL: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'],
  node: ['STAGE_UNSTAGE_VOLUME'],
};

const hasCode = (code: string) => (error: unknown) => error instanceof RuntimeError && error.code === code;
const unheard = failWith('UNAVAILABLE', { afterEffect: true });

describe('a refusal after a call of unknown outcome', { skip: missing('root', 'loop') }, () => {
  test('of CreateVolume does not disown the volume that the first call made', async (t) => {
    const host = await volumeHost(t, FULL);
    // The storage system counts the volume it has just made as somebody else's.
    host.plugin.next('CreateVolume', unheard, failWith('RESOURCE_EXHAUSTED'));
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('RESOURCE_EXHAUSTED'));
    assert.equal(host.volumes.get('data').state, 'creating');
    await host.volumes.create(request(), soon());
    assert.equal(host.plugin.volumes.size, 1);
    await host.volumes.remove('data', soon());
    assert.equal(host.plugin.volumes.size, 0);
  });

  test('of CreateVolume is believed when it is said again', async (t) => {
    const host = await volumeHost(t, FULL);
    const refused = failWith('RESOURCE_EXHAUSTED');
    host.plugin.next('CreateVolume', failWith('UNAVAILABLE'), refused, refused);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('RESOURCE_EXHAUSTED'));
    await host.volumes.remove('data', soon());
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });

  for (const [up, down] of [
    ['ControllerPublishVolume', 'ControllerUnpublishVolume'],
    ['NodeStageVolume', 'NodeUnstageVolume'],
    ['NodePublishVolume', 'NodeUnpublishVolume'],
  ] as const) {
    test(`of ${up} does not keep ${down} from being sent`, async (t) => {
      const host = await volumeHost(t, FULL);
      await host.volumes.create(request(), soon());
      host.plugin.next(up, unheard, failWith('FAILED_PRECONDITION'));
      const publishing = host.volumes.publish('data', A, { readOnly: false }, soon());
      await assert.rejects(publishing, hasCode('FAILED_PRECONDITION'));
      await host.volumes.release('data', A, soon());
      assert.equal(host.plugin.requests(down).length, 1);
      assertIdle(host);
    });
  }

  test('of DeleteVolume does not bring back a volume that is gone', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    host.plugin.next('DeleteVolume', unheard, failWith('FAILED_PRECONDITION'));
    await assert.rejects(host.volumes.remove('data', soon()), hasCode('FAILED_PRECONDITION'));
    assert.notEqual(host.volumes.list()[0]?.state, 'created');
    await host.volumes.remove('data', soon()).catch(() => undefined);
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });

  test('of CreateVolume whose volume cannot be used is kept on record until that volume is deleted', async (t) => {
    const host = await volumeHost(t, { ...FULL, volumeId: () => 'x'.repeat(200) });
    host.plugin.next('DeleteVolume', failWith('FAILED_PRECONDITION'));
    await assert.rejects(host.volumes.create(request(), soon()), /DeleteVolume/);
    assert.deepEqual([host.volumes.get('data').state, host.plugin.volumes.size], ['creating', 1]);
    await assert.rejects(host.volumes.create(request(), soon()), /volume_id: has 200 bytes/);
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });
});
