/** Volumes through their states over a real plugin: real sockets, bind mounts and loop devices. */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { setTimeout as slowness } from 'node:timers/promises';
import { RuntimeError } from '../../src/errors.ts';
import { failWith, hang } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, B, type FakeOptions, request, soon, volumeHost } from './volume-host.ts';

const hasCode =
  (code: string, text = /./) =>
  (error: unknown) =>
    error instanceof RuntimeError && error.code === code && text.test(error.message);

const FULL: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'],
  node: ['STAGE_UNSTAGE_VOLUME'],
  publishContext: { device: 'lun-7' },
  volumeContext: { pool: 'ssd' },
};

interface Profile extends FakeOptions {
  readonly title: string;
  readonly up: readonly string[];
  readonly down: readonly string[];
}

const PROFILES: readonly Profile[] = [
  {
    title: 'a controller that only makes volumes',
    controller: ['CREATE_DELETE_VOLUME'],
    up: ['CreateVolume', 'NodePublishVolume'],
    down: ['NodeUnpublishVolume', 'DeleteVolume'],
  },
  {
    title: 'staging',
    controller: ['CREATE_DELETE_VOLUME'],
    node: ['STAGE_UNSTAGE_VOLUME'],
    up: ['CreateVolume', 'NodeStageVolume', 'NodePublishVolume'],
    down: ['NodeUnpublishVolume', 'NodeUnstageVolume', 'DeleteVolume'],
  },
  {
    title: 'attaching',
    controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'],
    publishContext: { device: 'lun-7' },
    up: ['CreateVolume', 'ControllerPublishVolume', 'NodePublishVolume'],
    down: ['NodeUnpublishVolume', 'ControllerUnpublishVolume', 'DeleteVolume'],
  },
  {
    title: 'attaching and staging',
    ...FULL,
    up: ['CreateVolume', 'ControllerPublishVolume', 'NodeStageVolume', 'NodePublishVolume'],
    down: ['NodeUnpublishVolume', 'NodeUnstageVolume', 'ControllerUnpublishVolume', 'DeleteVolume'],
  },
  {
    title: 'topology and several writers',
    controller: ['CREATE_DELETE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
    node: ['SINGLE_NODE_MULTI_WRITER'],
    topology: { 'fake.csi.test/zone': 'here' },
    up: ['CreateVolume', 'NodePublishVolume'],
    down: ['NodeUnpublishVolume', 'DeleteVolume'],
  },
];

describe('VolumeManager', { skip: missing('root', 'loop') }, () => {
  for (const { title, up, down, ...options } of PROFILES) {
    for (const access of ['mount', 'block'] as const) {
      test(`goes the whole way up and down: ${access}, ${title}`, async (t) => {
        const host = await volumeHost(t, options);
        const made = await host.volumes.create(request({ access }), soon());
        assert.equal(made.state, 'created');
        const { path } = await host.volumes.publish('data', A, { readOnly: false }, soon());
        assert.equal(host.volumes.get('data').state, 'published');
        if (access === 'block') assert.ok(statSync(path).isBlockDevice());
        else await writeFile(`${path}/hello`, 'world');
        assert.deepEqual(host.plugin.volumeCalls(), up);
        await host.volumes.release('data', A, soon());
        assert.equal(host.volumes.get('data').state, 'created');
        assertIdle(host);
        await host.volumes.remove('data', soon());
        assert.deepEqual(host.plugin.volumeCalls(), [...up, ...down]);
        assert.throws(() => host.volumes.get('data'), hasCode('NOT_FOUND'));
        assert.equal(host.plugin.volumes.size, 0);
      });
    }
  }

  test('uses a volume that is there already, when the plugin makes none', async (t) => {
    const host = await volumeHost(t);
    await host.plugin.provide('share-1', false, { server: 'nas' });
    const made = await host.volumes.create(request({ name: 'share-1', parameters: { server: 'nas' } }), soon());
    assert.equal(made.volumeId, 'share-1');
    await host.volumes.publish('share-1', A, { readOnly: false }, soon());
    await host.volumes.release('share-1', A, soon());
    await host.volumes.remove('share-1', soon());
    assert.deepEqual(host.plugin.volumeCalls(), ['NodePublishVolume', 'NodeUnpublishVolume']);
    assertIdle(host);
  });

  test('keeps what was written from one publication to the next', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    const first = await host.volumes.publish('data', A, { readOnly: false }, soon());
    await writeFile(`${first.path}/note`, 'kept');
    await host.volumes.release('data', A, soon());
    const second = await host.volumes.publish('data', B, { readOnly: true }, soon());
    assert.equal(await readFile(`${second.path}/note`, 'utf8'), 'kept');
    await host.volumes.release('data', B, soon());
    assertIdle(host);
  });

  test('two containers share one publication, which stays until the last is gone', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    const [a, b] = await Promise.all([
      host.volumes.publish('data', A, { readOnly: false }, soon()),
      host.volumes.publish('data', B, { readOnly: true }, soon()),
    ]);
    assert.equal(a.path, b.path);
    assert.equal(host.plugin.requests('NodePublishVolume').length, 1);
    await assert.rejects(host.volumes.remove('data', soon()), hasCode('FAILED_PRECONDITION', new RegExp(A)));
    await host.volumes.release('data', A, soon());
    assert.equal(host.volumes.get('data').state, 'published');
    assert.deepEqual(host.mounts().length, 2);
    await host.volumes.release('data', B, soon());
    await host.volumes.release('data', B, soon());
    assertIdle(host);
  });

  test('the same request may be repeated, another one for the name is refused', async (t) => {
    const host = await volumeHost(t, FULL);
    const parameters = { a: '1', b: '2' };
    const first = await host.volumes.create(request({ parameters }), soon());
    assert.deepEqual(await host.volumes.create(request({ parameters: { b: '2', a: '1' } }), soon()), first);
    assert.equal(host.plugin.requests('CreateVolume').length, 1);
    await assert.rejects(host.volumes.create(request({ capacityBytes: 1 }), soon()), hasCode('ALREADY_EXISTS'));
    await assert.rejects(host.volumes.create(request({ access: 'block' }), soon()), hasCode('ALREADY_EXISTS'));
  });

  test('a refused creation leaves nothing', async (t) => {
    const host = await volumeHost(t, FULL);
    for (const code of ['OUT_OF_RANGE', 'RESOURCE_EXHAUSTED', 'ALREADY_EXISTS'] as const) {
      host.plugin.next('CreateVolume', failWith(code));
      await assert.rejects(host.volumes.create(request(), soon()), RuntimeError);
      assert.deepEqual(host.volumes.list(), []);
    }
    assert.equal(host.plugin.volumes.size, 0);
  });

  test('a creation without outcome is continued by the same request, with the same name', async (t) => {
    const host = await volumeHost(t, FULL);
    host.plugin.next('CreateVolume', failWith('DEADLINE_EXCEEDED', { afterEffect: true }));
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('DEADLINE_EXCEEDED'));
    const record = host.volumes.get('data');
    assert.equal(record.state, 'creating');
    assert.match(record.failure?.message ?? '', /scripted/);
    await assert.rejects(host.volumes.publish('data', A, { readOnly: false }, soon()), hasCode('FAILED_PRECONDITION'));
    assert.equal((await host.volumes.create(request(), soon())).state, 'created');
    assert.equal(host.plugin.volumes.size, 1);
  });

  test('a creation without outcome can be removed, and leaves no volume', async (t) => {
    const host = await volumeHost(t, FULL);
    host.plugin.next('CreateVolume', failWith('DEADLINE_EXCEEDED', { afterEffect: true }));
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('DEADLINE_EXCEEDED'));
    await host.volumes.remove('data', soon());
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });

  test('a caller who gives up leaves a call that is repeated or reversed', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    const impatient = new AbortController();
    host.plugin.next('NodeStageVolume', async (_request, effect) => {
      const answer = await effect();
      impatient.abort();
      return answer;
    });
    const publishing = host.volumes.publish('data', A, { readOnly: false }, impatient.signal);
    await assert.rejects(publishing, hasCode('CANCELLED'));
    assert.equal(host.volumes.get('data').state, 'staging');
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('a call whose caller has gone is waited for: never two in flight for one volume', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    const begun = Promise.withResolvers<void>();
    host.plugin.next('NodeStageVolume', async (_request, effect) => {
      begun.resolve();
      await slowness(150);
      return effect();
    });
    const impatient = new AbortController();
    const publishing = host.volumes.publish('data', A, { readOnly: false }, impatient.signal);
    await begun.promise;
    impatient.abort();
    await assert.rejects(publishing, hasCode('CANCELLED'));
    await host.volumes.release('data', A, soon());
    assert.deepEqual(host.plugin.volumeCalls().slice(2), [
      'NodeStageVolume',
      'NodeUnstageVolume',
      'ControllerUnpublishVolume',
    ]);
    assertIdle(host);
  });

  test('repeats what may be repeated, upward and downward (K29)', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    host.plugin.next('NodeStageVolume', failWith('ABORTED'), failWith('UNAVAILABLE', { afterEffect: true }));
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    host.plugin.next(
      'NodeUnpublishVolume',
      failWith('UNAVAILABLE'),
      failWith('ABORTED'),
      failWith('DEADLINE_EXCEEDED', { afterEffect: true }),
    );
    await host.volumes.release('data', A, soon());
    assert.equal(host.plugin.requests('NodeUnpublishVolume').length, 4);
    assertIdle(host);
  });

  test('a release that failed keeps the claim and its reason, and ends when called again (K29)', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    host.plugin.next('NodeUnstageVolume', failWith('INTERNAL', { message: 'device is busy' }));
    await assert.rejects(host.volumes.release('data', A, soon()), hasCode('INTERNAL', /fake\.csi\.test.*busy/));
    const record = host.volumes.get('data');
    assert.deepEqual([record.state, record.claims.length, record.claims[0]?.releasing], ['unstaging', 1, true]);
    assert.match(record.failure?.message ?? '', /busy/);
    await host.volumes.release('data', A, soon());
    assert.deepEqual(host.volumes.get('data').claims, []);
    assert.equal(host.volumes.get('data').failure, undefined);
    assertIdle(host);
  });

  test('a volume on its way down is taken down before it comes up for another container', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    host.plugin.next('NodeUnstageVolume', failWith('INTERNAL'));
    await assert.rejects(host.volumes.release('data', A, soon()), hasCode('INTERNAL'));
    await host.volumes.publish('data', B, { readOnly: false }, soon());
    await host.volumes.release('data', A, soon());
    assert.equal(host.volumes.get('data').state, 'published');
    await host.volumes.release('data', B, soon());
    assertIdle(host);
  });

  test('a refused step leaves the volume where it was', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    host.plugin.next('NodePublishVolume', failWith('INVALID_ARGUMENT'));
    const refused = host.volumes.publish('data', A, { readOnly: false }, soon());
    await assert.rejects(refused, hasCode('INVALID_ARGUMENT', /change the request/));
    assert.equal(host.volumes.get('data').state, 'staged');
    await host.volumes.release('data', A, soon());
    assert.deepEqual(host.plugin.requests('NodeUnpublishVolume'), []);
    assertIdle(host);
  });

  test('a hung plugin costs the caller no more than its deadline', async (t) => {
    const host = await volumeHost(t, FULL);
    host.plugin.next('CreateVolume', hang());
    const begunMs = performance.now();
    await assert.rejects(host.volumes.create(request(), AbortSignal.timeout(200)), hasCode('DEADLINE_EXCEEDED'));
    assert.ok(performance.now() - begunMs < 2000);
  });

  test('waits for a plugin that restarts, and says what to do when it does not come', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    host.plugin.stop();
    const publishing = host.volumes.publish('data', A, { readOnly: false }, soon());
    await host.plugin.start();
    await publishing;
    await host.volumes.release('data', A, soon());
    host.plugin.stop();
    const absent = host.volumes.publish('data', A, { readOnly: false }, AbortSignal.timeout(300));
    await assert.rejects(absent, hasCode('UNAVAILABLE', /start it/));
    await assert.rejects(
      host.volumes.create(request({ name: 'x', driver: 'none.csi.test' }), AbortSignal.timeout(100)),
      hasCode('UNAVAILABLE', /no CSI plugin none\.csi\.test/),
    );
  });
});
