/** Death and new start at every call: what a record left half way becomes, on real mounts. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RUNGS } from '../../src/csi/volume-states.ts';
import { hostCommand } from '../../src/host-command.ts';
import { FakeStatus } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, B, type FakeOptions, request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

const FULL: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'],
  node: ['STAGE_UNSTAGE_VOLUME'],
  publishContext: { device: 'lun-7' },
};

/**
 * Kills the daemon inside the next call of `rpc`, before the plugin has done anything or after: the disk is as it was then.
 */
async function dieIn(host: VolumeHost, rpc: string, afterEffect: boolean): Promise<void> {
  const death = new AbortController();
  host.plugin.next(rpc, async (_request, effect) => {
    if (afterEffect) await effect();
    host.keepDisk();
    death.abort();
    throw new FakeStatus('UNAVAILABLE', 'nobody is listening');
  });
  const { volumes } = host;
  const life = async (): Promise<void> => {
    await volumes.create(request(), death.signal);
    await volumes.publish('data', A, { readOnly: false }, death.signal);
    await volumes.release('data', A, death.signal);
    await volumes.remove('data', death.signal);
  };
  await assert.rejects(life());
  await host.die();
}

describe('VolumeManager.recover', { skip: missing('root', 'loop') }, () => {
  for (const { up, raising, down, lowering } of RUNGS) {
    for (const [rpc, state] of [
      [up, raising],
      [down, lowering],
    ] as const) {
      for (const afterEffect of [false, true]) {
        const when = afterEffect ? 'after' : 'before';
        test(`ends what death in ${rpc} left "${state}", ${when} the plugin did it`, async (t) => {
          const host = await volumeHost(t, FULL);
          await dieIn(host, rpc, afterEffect);
          await host.start();
          assert.equal(host.volumes.get('data').state, state);
          await host.volumes.recover(soon());
          assertIdle(host);
          const states = host.volumes.list().map((record) => [record.state, record.claims]);
          assert.deepEqual(states, rpc === 'DeleteVolume' ? [] : [['created', []]]);
          assert.equal(host.plugin.volumes.size, states.length);
          // And the volume is as good as new.
          await host.volumes.create(request(), soon());
          await host.volumes.publish('data', B, { readOnly: false }, soon());
          await host.volumes.release('data', B, soon());
          await host.volumes.remove('data', soon());
          assertIdle(host);
        });
      }
    }
  }

  test('leaves a published volume to its container', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: true, target: '/mnt' }, soon());
    const before: unknown = JSON.parse(JSON.stringify(host.store.read('data')));
    const calls = host.plugin.volumeCalls();
    await host.start();
    await host.volumes.recover(soon());
    assert.deepEqual(host.store.read('data'), before);
    assert.deepEqual(host.plugin.volumeCalls(), calls);
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('after a reboot no claim holds: what the plugin still believes is undone, and the volume comes up anew', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    await host.volumes.create(request({ name: 'raw', access: 'block' }), soon());
    for (const name of ['data', 'raw']) await host.volumes.publish(name, A, { readOnly: false }, soon());
    await host.stop();
    for (const path of host.mounts()) await hostCommand('umount', [path], soon());
    await host.start({ bootId: 'boot-2' });
    await host.volumes.recover(soon());
    for (const { state, claims } of host.volumes.list()) assert.deepEqual([state, claims], ['created', []]);
    assertIdle(host);
    await host.volumes.publish('data', B, { readOnly: false }, soon());
    assert.equal(host.volumes.get('data').bootId, 'boot-2');
    await host.volumes.release('data', B, soon());
    assertIdle(host);
  });

  test('goes on in the background when the plugin is not there, as soon as it is', async (t) => {
    const host = await volumeHost(t, FULL);
    await dieIn(host, 'NodePublishVolume', true);
    host.plugin.stop();
    await host.start({ deadlines: { pluginMs: 50 } });
    await host.volumes.recover(soon());
    const [left] = host.volumes.list();
    assert.deepEqual([left?.state, left?.claims[0]?.releasing], ['unpublishing', true]);
    assert.match(left?.failure?.message ?? '', /start it/);
    await host.plugin.start();
    const deadline = Date.now() + 10_000;
    while (host.volumes.get('data').state !== 'created' || host.volumes.get('data').claims.length > 0) {
      assert.ok(Date.now() < deadline, `stays ${host.volumes.get('data').state}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assertIdle(host);
  });

  test('one volume that cannot be recovered holds up no other', async (t) => {
    const host = await volumeHost(t, FULL);
    for (const name of ['one', 'two']) {
      await host.volumes.create(request({ name }), soon());
      await host.volumes.publish(name, A, { readOnly: false }, soon());
    }
    await host.start({ bootId: 'boot-2' });
    host.plugin.onCall = (rpc, { volumeId }) => {
      if (rpc === 'NodeUnpublishVolume' && String(volumeId).includes('one')) throw new FakeStatus('INTERNAL', 'broken');
    };
    await host.volumes.recover(soon());
    assert.deepEqual(
      host.volumes.list().map(({ state }) => state),
      ['unpublishing', 'created'],
    );
    host.plugin.onCall = () => undefined;
    await host.volumes.release('one', A, soon());
    assertIdle(host);
  });

  test('a record that does not decode is left alone and reported, not taken for absent', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    host.corrupt('data');
    await host.start();
    await host.volumes.recover(soon());
    assert.throws(() => host.volumes.get('data'), /does not decode/);
    await assert.rejects(host.volumes.create(request(), soon()), /does not decode/);
    assert.equal(host.plugin.volumes.size, 1);
  });
});
