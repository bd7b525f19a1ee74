/** What plugins tell about volumes: how full they are and how they fare. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { worse } from '../../src/csi/volume-condition.ts';
import { failWith, hang } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, request, soon, volumeHost } from './volume-host.ts';

const TELLS = {
  controller: ['CREATE_DELETE_VOLUME', 'GET_VOLUME', 'VOLUME_CONDITION'],
  node: ['STAGE_UNSTAGE_VOLUME', 'GET_VOLUME_STATS', 'VOLUME_CONDITION'],
};

describe('volume stats', { skip: missing('root', 'loop') }, () => {
  test('tell bytes, inodes and the worse condition', async (t) => {
    const host = await volumeHost(t, TELLS);
    await host.volumes.create(request(), soon());
    assert.deepEqual((await host.volumes.stats('data', soon())).reason, 'no container uses it');
    const { path } = await host.volumes.publish('data', A, { readOnly: false }, soon());
    host.plugin.operations.nodeCondition = { abnormal: false, message: 'fine' };
    host.plugin.operations.controllerCondition = { abnormal: true, message: 'a disk is lost' };
    assert.deepEqual(await host.volumes.stats('data', soon()), {
      name: 'data',
      usage: [
        { unit: 'bytes', total: '1000', used: '400', available: '600' },
        { unit: 'inodes', total: '50', used: '5', available: '45' },
      ],
      condition: { abnormal: true, message: 'a disk is lost', from: 'controller' },
    });
    const [sent] = host.plugin.requests('NodeGetVolumeStats');
    assert.equal(sent?.['volumePath'], path);
    assert.notEqual(sent?.['stagingTargetPath'], '');
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('that hang or fail have a reason and stall no other call for the volume', async (t) => {
    const host = await volumeHost(t, TELLS);
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    host.plugin.next('NodeGetVolumeStats', failWith('INTERNAL', { message: 'no idea' }));
    assert.match((await host.volumes.stats('data', soon())).reason ?? '', /no idea/);
    host.plugin.next('NodeGetVolumeStats', hang());
    const stop = new AbortController();
    const stuck = host.volumes.stats('data', stop.signal);
    await host.volumes.release('data', A, soon());
    stop.abort();
    assert.notEqual((await stuck).reason, undefined);
    assert.deepEqual(host.mounts(), []);
  });

  test('are not asked while another call for the volume is under way, and are broken off for one', async (t) => {
    const host = await volumeHost(t, { ...TELLS, abortsWhenBusy: true });
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    // A call under way: no question beside it.
    const [arrived, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    host.plugin.next('NodeUnpublishVolume', async (_request, effect) => {
      arrived.resolve();
      await go.promise;
      return effect();
    });
    const releasing = host.volumes.release('data', A, soon());
    await arrived.promise;
    host.plugin.operations.controllerCondition = { abnormal: true, message: 'a disk is lost' };
    assert.match(
      (await host.volumes.stats('data', soon())).reason ?? '',
      /another call for it is under way|no container/,
    );
    assert.equal(host.plugin.requests('ControllerGetVolume').length, 0);
    go.resolve();
    await releasing;
    // A question under way: the call waits for its end, and is not turned down by a plugin that takes one at a time.
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    const asked = Promise.withResolvers<void>();
    host.plugin.next('NodeGetVolumeStats', async (_request, effect) => {
      asked.resolve();
      await new Promise((resolve) => setTimeout(resolve, 100));
      return effect();
    });
    const stats = host.volumes.stats('data', soon());
    await asked.promise;
    await host.volumes.release('data', A, soon());
    assert.equal((await stats).usage.length, 2);
    assert.equal(host.plugin.requests('NodeUnpublishVolume').length, 2);
    assertIdle(host);
  });

  test('are not asked of a plugin that does not offer them', async (t) => {
    const host = await volumeHost(t, { controller: ['CREATE_DELETE_VOLUME'] });
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    assert.equal((await host.volumes.stats('data', soon())).reason, 'the plugin does not tell');
    assert.equal(host.plugin.requests('NodeGetVolumeStats').length, 0);
    await host.volumes.release('data', A, soon());
  });

  test('of two conditions the worse one counts', () => {
    const bad = { abnormal: true, message: 'x', from: 'node' } as const;
    const good = { abnormal: false, message: 'y', from: 'controller' } as const;
    assert.deepEqual(
      [worse(bad, good), worse(good, bad), worse(undefined, good), worse(bad, undefined)],
      [bad, bad, good, bad],
    );
    assert.equal(worse(undefined, undefined), undefined);
  });
});
