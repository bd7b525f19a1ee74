/** Snapshots over a real socket: cut, waited for, deleted, and what faults of the plugin make of them. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { answerWith, type Behaviour, failWith } from '../support/fake-csi.ts';
import { assertGone, hasCode, hostWithVolume, late, until, WORDS } from './snapshot-host.ts';
import { soon, type VolumeHost } from './volume-host.ts';

/** The words of every CreateSnapshot were the same. */
function assertSameWords(host: VolumeHost): void {
  const [first, ...others] = host.plugin.requests('CreateSnapshot');
  for (const other of others) assert.deepEqual(other, first);
}

describe('SnapshotManager.create', () => {
  test('cuts once and tells what the plugin tells', async (t) => {
    const host = await hostWithVolume(t);
    const cut = await host.snapshots.create(WORDS, soon());
    assert.equal(cut.state, 'ready');
    assert.equal(cut.cutAt, '2026-01-01T00:00:00.500Z');
    assert.equal(cut.sizeBytes, String(16 * 2 ** 20));
    const [sent] = host.plugin.requests('CreateSnapshot');
    assert.deepEqual(sent?.['parameters'], { pool: 'cold' });
    assert.equal(sent?.['sourceVolumeId'], host.volumes.get('data').volumeId);
    assert.deepEqual(await host.snapshots.create(WORDS, soon()), cut);
    assert.equal(host.plugin.requests('CreateSnapshot').length, 1);
    await assert.rejects(host.snapshots.create({ ...WORDS, parameters: {} }, soon()), hasCode('ALREADY_EXISTS'));
    await host.snapshots.remove('before', soon());
    assertGone(host);
  });

  test('returns after the cut and asks with the same words until the snapshot is ready', async (t) => {
    const host = await hostWithVolume(t);
    host.plugin.snapshots.readyAfter = 4;
    const cut = await host.snapshots.create(WORDS, soon());
    assert.equal(cut.state, 'processing');
    const ready = await host.snapshots.untilReady('before', soon());
    assert.equal(ready.state, 'ready');
    assert.equal(host.plugin.requests('CreateSnapshot').length, 4);
    assertSameWords(host);
  });

  test('a caller who leaves does not end the waiting, and a new daemon goes on with it', async (t) => {
    const host = await hostWithVolume(t);
    host.plugin.snapshots.readyAfter = Number.POSITIVE_INFINITY;
    await host.snapshots.create(WORDS, soon());
    await assert.rejects(host.snapshots.untilReady('before', AbortSignal.timeout(50)), { name: 'TimeoutError' });
    await host.start();
    await host.snapshots.recover(soon());
    assert.equal(host.snapshots.get('before').state, 'processing');
    await assert.rejects(host.volumes.remove('data', soon()), hasCode('FAILED_PRECONDITION', /snapshot before of it/));
    host.plugin.snapshots.readyAfter = 1;
    await host.snapshots.untilReady('before', soon());
    assertSameWords(host);
  });

  const PASSING: readonly [string, Behaviour][] = [
    ['UNAVAILABLE', failWith('UNAVAILABLE')],
    ['UNAVAILABLE after it was cut', failWith('UNAVAILABLE', { afterEffect: true })],
    ['ABORTED', failWith('ABORTED')],
    ['DEADLINE_EXCEEDED after it was cut', failWith('DEADLINE_EXCEEDED', { afterEffect: true })],
    ['INTERNAL after it was cut', failWith('INTERNAL', { afterEffect: true })],
  ];
  for (const [title, behaviour] of PASSING) {
    test(`${title}: the same words are said again, and there is one snapshot`, async (t) => {
      const host = await hostWithVolume(t);
      host.plugin.next('CreateSnapshot', behaviour);
      assert.equal((await host.snapshots.create(WORDS, soon())).state, 'ready');
      assert.equal(host.plugin.snapshots.snapshots.size, 1);
      assert.equal(host.plugin.requests('CreateSnapshot').length, 2);
      assertSameWords(host);
    });
  }

  for (const code of ['INVALID_ARGUMENT', 'ALREADY_EXISTS', 'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION'] as const) {
    test(`${code}: a refusal leaves nothing`, async (t) => {
      const host = await hostWithVolume(t);
      host.plugin.next('CreateSnapshot', failWith(code));
      await assert.rejects(host.snapshots.create(WORDS, soon()), hasCode(code, /CreateSnapshot of CSI plugin/));
      assertGone(host);
      assert.equal((await host.snapshots.create(WORDS, soon())).state, 'ready');
    });
  }

  test('a cut that comes after its caller has left is found by its name and deleted', async (t) => {
    const host = await hostWithVolume(t);
    host.plugin.next('CreateSnapshot', late(300));
    const leaving = AbortSignal.timeout(100);
    await assert.rejects(host.snapshots.create(WORDS, leaving), hasCode('DEADLINE_EXCEEDED', /will be deleted/));
    assert.equal(host.snapshots.get('before').state, 'deleting');
    await until(() => host.snapshots.list().length === 0, 'deleted');
    assertSameWords(host);
    assert.equal(host.plugin.requests('DeleteSnapshot').length, 1);
    assertGone(host);
  });

  test('the same request again first ends what the one before has left, then cuts anew', async (t) => {
    const host = await hostWithVolume(t);
    host.plugin.next('CreateSnapshot', late(300));
    await assert.rejects(host.snapshots.create(WORDS, AbortSignal.timeout(100)));
    assert.equal((await host.snapshots.create(WORDS, soon())).state, 'ready');
    const names = new Set(host.plugin.requests('CreateSnapshot').map(({ name }) => name));
    assert.equal(names.size, 2);
    assert.equal(host.plugin.snapshots.snapshots.size, 1);
    assert.equal(host.plugin.requests('DeleteSnapshot').length, 1);
  });

  test('an answer that breaks the protocol is refused, and what was cut is deleted', async (t) => {
    const host = await hostWithVolume(t);
    const wrongs = [{ sourceVolumeId: 'other' }, { sizeBytes: '-1' }, { snapshotId: 'x'.repeat(129) }];
    for (const wrong of wrongs) {
      host.plugin.next(
        'CreateSnapshot',
        answerWith(({ snapshot }) => ({ snapshot: { ...snapshot, ...wrong } })),
      );
      await assert.rejects(host.snapshots.create(WORDS, soon()), /breaks the protocol/);
      assert.deepEqual(host.snapshots.list(), []);
    }
    assert.equal(host.plugin.requests('DeleteSnapshot').length, wrongs.length);
  });

  test('a plugin that gives up while it processes: the snapshot is deleted, the reason stays until rm', async (t) => {
    const host = await hostWithVolume(t);
    host.plugin.snapshots.readyAfter = 9;
    await host.snapshots.create(WORDS, soon());
    host.plugin.next('CreateSnapshot', failWith('OUT_OF_RANGE', { message: 'the copy was lost' }));
    await assert.rejects(host.snapshots.untilReady('before', soon()), hasCode('FAILED_PRECONDITION', /copy was lost/));
    assert.equal(host.snapshots.get('before').state, 'failed');
    assert.equal(host.plugin.snapshots.snapshots.size, 0);
    await assert.rejects(
      host.volumes.create({ name: 'copy', source: { kind: 'snapshot', name: 'before' }, parameters: {} }, soon()),
      hasCode('FAILED_PRECONDITION', /is failed/),
    );
    await host.snapshots.remove('before', soon());
    assertGone(host);
  });

  test('failures that may pass are waited out while it is processed', async (t) => {
    const host = await hostWithVolume(t);
    host.plugin.snapshots.readyAfter = 3;
    await host.snapshots.create(WORDS, soon());
    host.plugin.next('CreateSnapshot', failWith('INTERNAL'), failWith('UNKNOWN'), failWith('DEADLINE_EXCEEDED'));
    assert.equal((await host.snapshots.untilReady('before', soon())).state, 'ready');
    assert.equal(host.snapshots.get('before').failure, undefined);
  });

  test('is refused before any side effect where it cannot be', async (t) => {
    const host = await hostWithVolume(t, { controller: ['CREATE_DELETE_VOLUME'] });
    await assert.rejects(host.snapshots.create(WORDS, soon()), hasCode('UNIMPLEMENTED', /CREATE_DELETE_SNAPSHOT/));
    await assert.rejects(host.snapshots.create({ ...WORDS, volume: 'none' }, soon()), hasCode('NOT_FOUND'));
    await assert.rejects(
      host.snapshots.create({ ...WORDS, name: '../x' }, soon()),
      hasCode('INVALID_ARGUMENT', /^name/),
    );
    const long = { key: 'x'.repeat(5000) };
    await assert.rejects(host.snapshots.create({ ...WORDS, parameters: long }, soon()), hasCode('INVALID_ARGUMENT'));
    assert.deepEqual(host.plugin.requests('CreateSnapshot'), []);
    assertGone(host);
  });

  test('nothing else is done with the volume while it is cut', async (t) => {
    const host = await hostWithVolume(t);
    const order: string[] = [];
    host.plugin.next('CreateSnapshot', async (_request, effect) => {
      order.push('cut begins');
      await new Promise((resolve) => setTimeout(resolve, 100));
      order.push('cut ends');
      return effect();
    });
    const cutting = host.snapshots.create(WORDS, soon());
    await until(() => order.length > 0, 'cutting');
    await host.volumes.exclusive('data', async () => order.push('other work'), soon());
    await cutting;
    assert.deepEqual(order, ['cut begins', 'cut ends', 'other work']);
  });
});

describe('SnapshotManager.remove', () => {
  test('a refusal leaves the snapshot as it was, with the reason', async (t) => {
    const host = await hostWithVolume(t);
    await host.snapshots.create(WORDS, soon());
    host.plugin.next('DeleteSnapshot', failWith('FAILED_PRECONDITION', { message: 'a clone needs it' }));
    await assert.rejects(host.snapshots.remove('before', soon()), hasCode('FAILED_PRECONDITION', /a clone needs it/));
    const { state, failure } = host.snapshots.get('before');
    assert.equal(state, 'ready');
    assert.match(failure?.message ?? '', /a clone needs it/);
    await host.snapshots.remove('before', soon());
    assertGone(host);
  });

  test('is repeated until the plugin has done it, also when the plugin was away, and shows why it takes long', async (t) => {
    const host = await hostWithVolume(t);
    await host.snapshots.create(WORDS, soon());
    await host.start({ deadlines: { pluginMs: 50, retryForMs: 50 } });
    host.plugin.stop();
    await assert.rejects(host.snapshots.remove('before', soon()));
    const { state, failure } = host.snapshots.get('before');
    assert.equal(state, 'deleting');
    assert.match(failure?.message ?? '', /fake.csi.test/);
    await host.plugin.start();
    await until(() => host.snapshots.list().length === 0, 'deleted');
    assertGone(host);
  });

  test('what the plugin no longer knows is as good as deleted', async (t) => {
    const host = await hostWithVolume(t);
    await host.snapshots.create(WORDS, soon());
    host.plugin.next('DeleteSnapshot', failWith('NOT_FOUND', { afterEffect: true }));
    await host.snapshots.remove('before', soon());
    assertGone(host);
    await assert.rejects(host.snapshots.remove('before', soon()), hasCode('NOT_FOUND', /berth snapshot ls/));
  });

  test('a snapshot outlives its volume', async (t) => {
    const host = await hostWithVolume(t);
    await host.snapshots.create(WORDS, soon());
    await host.volumes.remove('data', soon());
    await host.volumes.create({ name: 'copy', source: { kind: 'snapshot', name: 'before' }, parameters: {} }, soon());
    await host.snapshots.remove('before', soon());
    assertGone(host);
  });
});
