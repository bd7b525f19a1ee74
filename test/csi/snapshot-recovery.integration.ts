/** Death and new start at every call about snapshots: what a record left half way becomes. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { FakeStatus } from '../support/fake-csi.ts';
import { hostWithVolume, WORDS } from './snapshot-host.ts';
import { soon, type VolumeHost } from './volume-host.ts';

const ALL = {
  controller: ['CREATE_DELETE_VOLUME', 'CREATE_DELETE_SNAPSHOT'],
  groupController: ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'],
};

/** Kills the daemon inside the next call of `rpc`: the disk is as it was then. */
async function dieIn(host: VolumeHost, rpc: string, afterEffect: boolean): Promise<void> {
  const death = new AbortController();
  host.plugin.next(rpc, async (_request, effect) => {
    if (afterEffect) await effect();
    host.keepDisk();
    death.abort();
    throw new FakeStatus('UNAVAILABLE', 'nobody is listening');
  });
  const life = async (): Promise<void> => {
    if (rpc.includes('Group')) {
      await host.snapshots.createGroup({ name: 'nightly', volumes: ['data'], parameters: {} }, death.signal);
      await host.snapshots.removeGroup('nightly', death.signal);
    } else {
      await host.snapshots.create(WORDS, death.signal);
      await host.snapshots.remove('before', death.signal);
    }
  };
  await assert.rejects(life());
  await host.die();
}

describe('SnapshotManager.recover', () => {
  for (const [rpc, state] of [
    ['CreateSnapshot', 'cutting'],
    ['DeleteSnapshot', 'deleting'],
    ['CreateVolumeGroupSnapshot', 'cutting'],
    ['DeleteVolumeGroupSnapshot', 'deleting'],
  ] as const) {
    for (const afterEffect of [false, true]) {
      test(`ends what death in ${rpc} left "${state}", ${afterEffect ? 'after' : 'before'} the plugin did it`, async (t) => {
        const host = await hostWithVolume(t, ALL);
        await dieIn(host, rpc, afterEffect);
        await host.start();
        assert.deepEqual(
          host.snapshots.list().map((record) => record.state),
          [state],
        );
        await host.volumes.recover(soon());
        await host.snapshots.recover(soon());
        assert.deepEqual([host.snapshots.list(), host.snapshots.listGroups()], [[], []]);
        assert.equal(host.plugin.snapshots.snapshots.size + host.plugin.snapshots.groups.size, 0);
        assert.deepEqual(host.plugin.violations, []);
        const names = host.plugin.requests(rpc.replace('Delete', 'Create')).map(({ name }) => name);
        assert.equal(new Set(names).size, 1);
        assert.equal((await host.snapshots.create(WORDS, soon())).state, 'ready');
      });
    }
  }

  test('leaves snapshots that are ready alone', async (t) => {
    const host = await hostWithVolume(t, ALL);
    const before: unknown = JSON.parse(JSON.stringify(await host.snapshots.create(WORDS, soon())));
    await host.start();
    await host.snapshots.recover(soon());
    assert.deepEqual(host.snapshots.get('before'), before);
    assert.equal(host.plugin.requests('CreateSnapshot').length, 1);
  });
});
