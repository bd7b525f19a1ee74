/** Who may use a volume, and how: access modes, groups, registration, availability, detachment, mounts that hang. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { mkdir, rmdir, stat, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import type { RegisterRequest } from '../../src/csi/volume-request.ts';
import { RuntimeError } from '../../src/errors.ts';
import { hostCommand } from '../../src/host-command.ts';
import { mountAt, readMounts } from '../../src/mountinfo.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { failWith } from '../support/fake-csi.ts';
import { FakeStatus } from '../support/fake-status.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, B, type FakeOptions, request, soon, volumeHost } from './volume-host.ts';

const MANY: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
  node: ['STAGE_UNSTAGE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
};
const STAGED: FakeOptions = { controller: ['CREATE_DELETE_VOLUME'], node: ['STAGE_UNSTAGE_VOLUME'] };
const RW = { readOnly: false };

const hasCode =
  (code: string, text = /./) =>
  (error: unknown) =>
    error instanceof RuntimeError && error.code === code && text.test(error.message);

describe('access modes', { skip: missing('root', 'loop') }, () => {
  test('where many may write, each container has a target with its own words, staged once', async (t) => {
    const host = await volumeHost(t, MANY);
    await host.volumes.create(request(), soon());
    const a = await host.volumes.publish('data', A, RW, soon());
    const b = await host.volumes.publish('data', B, { readOnly: true }, soon());
    assert.notEqual(a.path, b.path);
    assert.ok(Buffer.byteLength(a.path) - Buffer.byteLength(host.dir) < 100);
    assert.equal(host.plugin.requests('NodeStageVolume').length, 1);
    const published = host.plugin.requests('NodePublishVolume');
    assert.deepEqual(
      published.map(({ targetPath, readonly }) => [targetPath, readonly]),
      [
        [a.path, false],
        [b.path, true],
      ],
    );
    await writeFile(`${a.path}/note`, 'x');
    await assert.rejects(writeFile(`${b.path}/note`, 'y'), /EROFS/);
    await host.volumes.release('data', A, soon());
    assert.deepEqual(host.volumes.get('data').publications, [{ key: B, state: 'published', readOnly: true }]);
    assert.equal(host.plugin.requests('NodeUnstageVolume').length, 0);
    await host.volumes.release('data', B, soon());
    assertIdle(host);
  });

  test('a target that cannot be taken down holds up no other container', async (t) => {
    const host = await volumeHost(t, MANY);
    await host.volumes.create(request(), soon());
    const { path } = await host.volumes.publish('data', A, RW, soon());
    await host.volumes.publish('data', B, RW, soon());
    host.plugin.onCall = (rpc, { targetPath }) => {
      if (rpc === 'NodeUnpublishVolume' && targetPath === path) throw new FakeStatus('INTERNAL', 'busy');
    };
    await assert.rejects(host.volumes.release('data', A, soon()), hasCode('INTERNAL', /busy/));
    await host.volumes.release('data', B, soon());
    const { claims, failure, state } = host.volumes.get('data');
    assert.deepEqual([claims.map(({ containerId }) => containerId), state], [[A], 'unpublishing']);
    assert.equal(failure?.step, 'NodeUnpublishVolume');
    assert.ok((failure?.attempts ?? 0) >= 2);
    assert.ok(Date.parse(host.volumes.planned('data')?.nextTryAt ?? '') > Date.now() - 5000);
    host.plugin.onCall = () => undefined;
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('two containers share one block volume, each with a device node of its own', async (t) => {
    const host = await volumeHost(t, MANY);
    await host.volumes.create(request({ access: 'block' }), soon());
    const a = await host.volumes.publish('data', A, RW, soon());
    const b = await host.volumes.publish('data', B, RW, soon());
    assert.notEqual(a.path, b.path);
    assert.deepEqual(a.device, b.device);
    assert.ok(statSync(a.path).isBlockDevice());
    await host.volumes.release('data', A, soon());
    assert.ok(statSync(b.path).isBlockDevice());
    await host.volumes.release('data', B, soon());
    assertIdle(host);
  });

  test('a single writer is alone, and a reader does not write', async (t) => {
    const host = await volumeHost(t, MANY);
    await host.volumes.create(request({ accessMode: 'SINGLE_NODE_SINGLE_WRITER' }), soon());
    await host.volumes.publish('data', A, RW, soon());
    const second = host.volumes.publish('data', B, { readOnly: true }, soon());
    await assert.rejects(second, hasCode('FAILED_PRECONDITION', new RegExp(`single-writer.*${A}`)));
    await host.volumes.release('data', A, soon());
    await host.volumes.publish('data', B, RW, soon());
    await host.volumes.release('data', B, soon());
    await host.volumes.create(request({ name: 'ro', accessMode: 'SINGLE_NODE_READER_ONLY' }), soon());
    await assert.rejects(host.volumes.publish('ro', A, RW, soon()), hasCode('FAILED_PRECONDITION', /-v ro:\/PATH:ro/));
    await host.volumes.publish('ro', A, { readOnly: true }, soon());
    assert.equal(host.plugin.requests('NodePublishVolume').at(-1)?.['readonly'], true);
    await host.volumes.release('ro', A, soon());
    await host.volumes.create(request({ name: 'raw', access: 'block', accessMode: 'SINGLE_NODE_READER_ONLY' }), soon());
    await assert.rejects(
      host.volumes.publish('raw', A, RW, soon()),
      hasCode('FAILED_PRECONDITION', /--device raw:\/dev\/NAME:ro/),
    );
    assertIdle(host);
  });

  test('a mode the plugin does not know is not sent', async (t) => {
    const host = await volumeHost(t, STAGED);
    const made = host.volumes.create(request({ accessMode: 'SINGLE_NODE_SINGLE_WRITER' }), soon());
    await assert.rejects(made, hasCode('INVALID_ARGUMENT', /access_mode: .*SINGLE_NODE_MULTI_WRITER/));
    assert.deepEqual(host.plugin.volumeCalls(), []);
  });

  test('paused volumes take no new container', async (t) => {
    const host = await volumeHost(t, MANY);
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, RW, soon());
    await host.volumes.update('data', 'pause', soon());
    await assert.rejects(host.volumes.publish('data', B, RW, soon()), hasCode('FAILED_PRECONDITION', /--availability/));
    await host.volumes.publish('data', A, RW, soon());
    await host.volumes.update('data', 'active', soon());
    await host.volumes.publish('data', B, RW, soon());
    for (const id of [A, B]) await host.volumes.release('data', id, soon());
    assertIdle(host);
  });
});

describe('groups', { skip: missing('root', 'loop') }, () => {
  test('the plugin is asked where it sets them itself', async (t) => {
    const host = await volumeHost(t, { ...STAGED, node: ['STAGE_UNSTAGE_VOLUME', 'VOLUME_MOUNT_GROUP'] });
    await host.volumes.create(request({ group: 4711, mountFlags: ['noatime'] }), soon());
    const { path } = await host.volumes.publish('data', A, RW, soon());
    for (const rpc of ['NodeStageVolume', 'NodePublishVolume']) {
      const { mount } = host.plugin.requests(rpc)[0]?.['volumeCapability'] ?? {};
      assert.deepEqual([mount.volumeMountGroup, mount.mountFlags], ['4711', ['noatime']]);
    }
    assert.equal((await stat(path)).gid, 0);
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('otherwise Berth gives the files to the group, once, following no link', async (t) => {
    const host = await volumeHost(t, STAGED);
    await host.volumes.create(request(), soon());
    const first = await host.volumes.publish('data', A, RW, soon());
    await mkdir(`${first.path}/deep/er`, { recursive: true });
    await writeFile(`${first.path}/deep/file`, '', { mode: 0o600 });
    await writeFile(`${host.dir}/outside`, '', { mode: 0o600 });
    await hostCommand('ln', ['-s', `${host.dir}/outside`, `${first.path}/link`], soon());
    await host.volumes.release('data', A, soon());
    host.store.write('data', { ...host.volumes.get('data'), group: 4711 });
    const { path } = await host.volumes.publish('data', A, RW, soon());
    const file = await stat(`${path}/deep/file`);
    assert.deepEqual([file.gid, file.mode & 0o7777], [4711, 0o660]);
    assert.equal((await stat(`${path}/deep/er`)).mode & 0o2070, 0o2070);
    assert.equal((await stat(path)).gid, 4711);
    assert.equal((await stat(`${host.dir}/outside`)).gid, 0);
    await writeFile(`${path}/later`, '');
    await hostCommand('chown', ['0:0', `${path}/later`], soon());
    await host.volumes.release('data', A, soon());
    const again = await host.volumes.publish('data', A, RW, soon());
    assert.equal((await stat(`${again.path}/later`)).gid, 0);
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });
});

describe('registered volumes', { skip: missing('root', 'loop') }, () => {
  const known: RegisterRequest = {
    name: 'old',
    driver: 'fake.csi.test',
    volumeId: 'share-1',
    access: 'mount',
    capacityBytes: 0,
    volumeContext: { server: 'nas' },
  };

  test('are used as they are, and kept when they are removed; an id has one name', async (t) => {
    const host = await volumeHost(t, STAGED);
    await host.plugin.provide('share-1', false, { server: 'nas' });
    const made = await host.volumes.register(known, soon());
    assert.deepEqual([made.reclaim, made.volumeId, made.state], ['retain', 'share-1', 'created']);
    assert.deepEqual(await host.volumes.register(known, soon()), made);
    const twice = host.volumes.register({ ...known, name: 'other' }, soon());
    await assert.rejects(twice, hasCode('ALREADY_EXISTS', /is volume old/));
    await host.volumes.publish('old', A, RW, soon());
    await host.volumes.release('old', A, soon());
    await host.volumes.remove('old', soon());
    assert.ok(host.plugin.volumes.has('share-1'));
    assert.equal(host.plugin.requests('DeleteVolume').length, 0);
    await host.volumes.register({ ...known, reclaim: 'delete' }, soon());
    await host.volumes.remove('old', soon());
    assert.ok(!host.plugin.volumes.has('share-1'));
    assertIdle(host);
  });

  test('are compared with what the plugin confirms', async (t) => {
    const host = await volumeHost(t, STAGED);
    await host.plugin.provide('share-1', false, { server: 'nas' });
    const asked: RegisterRequest = { ...known, fsType: 'ext4', mountFlags: ['noatime', 'key=hush'], accessMode: 'RWO' };
    const mount = { fsType: 'ext4', mountFlags: ['key=hush', 'noatime'], volumeMountGroup: '' };
    const mode = { mode: 'SINGLE_NODE_WRITER' };
    const confirming = (capability: object, more: object = {}): void => {
      const confirmed = { volumeCapabilities: [capability], volumeContext: { server: 'nas' }, ...more };
      host.plugin.next('ValidateVolumeCapabilities', async () => ({ confirmed }));
    };
    const wrong: readonly (readonly [RegExp, () => void])[] = [
      [
        /confirms mount of ext4, SINGLE_NODE_READER_ONLY, not mount of ext4, SINGLE_NODE_WRITER/,
        () => confirming({ mount, accessMode: { mode: 'SINGLE_NODE_READER_ONLY' } }),
      ],
      [/confirms block, SINGLE_NODE_WRITER, not mount/, () => confirming({ block: {}, accessMode: mode })],
      [
        /confirms mount of xfs, SINGLE_NODE_WRITER, not mount of ext4/,
        () => confirming({ mount: { ...mount, fsType: 'xfs' }, accessMode: mode }),
      ],
      [/confirms mount of ext4/, () => confirming({ mount: { ...mount, mountFlags: ['noatime'] }, accessMode: mode })],
      [
        /volume_context is not the one asked about/,
        () => confirming({ mount, accessMode: mode }, { volumeContext: { server: 'san' } }),
      ],
      [
        /parameters is not the one asked about/,
        () => confirming({ mount, accessMode: mode }, { parameters: { class: 'slow' } }),
      ],
      [
        /the share is read-only/,
        () => host.plugin.next('ValidateVolumeCapabilities', async () => ({ message: 'the share is read-only' })),
      ],
      [/cannot be used so/, () => host.plugin.next('ValidateVolumeCapabilities', async () => ({}))],
    ];
    for (const [reason, script] of wrong) {
      script();
      await assert.rejects(host.volumes.register(asked, soon()), (error) => {
        assert.ok(error instanceof RuntimeError);
        assert.match(error.message, reason);
        assert.doesNotMatch(error.message, /hush/);
        return true;
      });
      assert.deepEqual(host.volumes.list(), []);
    }
    confirming({ mount, accessMode: mode });
    await host.volumes.register(asked, soon());
    const sent = host.plugin.requests('ValidateVolumeCapabilities').at(-1);
    assert.deepEqual(sent?.['volumeCapabilities'][0].mount, { ...mount, mountFlags: asked.mountFlags });
    await host.volumes.remove('old', soon());
    confirming({ mount: {}, accessMode: mode }, { volumeContext: {} });
    await host.volumes.register(asked, soon());
  });

  test('a made volume can be kept too', async (t) => {
    const host = await volumeHost(t, STAGED);
    await host.volumes.create(request({ reclaim: 'retain' }), soon());
    await host.volumes.remove('data', soon());
    assert.equal(host.plugin.volumes.size, 1);
  });

  test('a plugin that answers with the id of another volume does not get that one deleted', async (t) => {
    const host = await volumeHost(t, { ...STAGED, volumeId: () => 'same' });
    await host.volumes.create(request(), soon());
    await assert.rejects(host.volumes.create(request({ name: 'two' }), soon()), /volume_id is the one of volume data/);
    assert.equal(host.plugin.requests('DeleteVolume').length, 0);
  });
});

describe('detachment', { skip: missing('root', 'loop') }, () => {
  test('by force passes over what fails and names it', async (t) => {
    const host = await volumeHost(t, MANY);
    await host.volumes.create(request(), soon());
    const { path } = await host.volumes.publish('data', A, RW, soon());
    await assert.rejects(host.volumes.detach('data', false, soon()), hasCode('FAILED_PRECONDITION', new RegExp(A)));
    host.plugin.next('NodeUnpublishVolume', failWith('INTERNAL', { message: 'no way' }));
    host.plugin.next('ControllerUnpublishVolume', failWith('INTERNAL', { message: 'not there' }));
    const { state, claims, skipped } = await host.volumes.detach('data', true, soon());
    assert.deepEqual([state, claims], ['created', []]);
    assert.deepEqual(
      skipped.map(({ step }) => step),
      ['NodeUnpublishVolume', 'ControllerUnpublishVolume'],
    );
    assert.match(skipped[0]?.reason ?? '', /no way/);
    assert.equal(mountAt(path), undefined);
    assert.deepEqual(host.mounts(), []);
    await host.volumes.release('data', A, soon());
  });
});

describe('a plugin that forgets', { skip: missing('root', 'loop') }, () => {
  test('a restart with an empty memory costs the container nothing, and its volume comes down', async (t) => {
    const host = await volumeHost(t, MANY);
    await host.volumes.create(request(), soon());
    const { path } = await host.volumes.publish('data', A, RW, soon());
    await writeFile(`${path}/note`, 'kept');
    host.plugin.stop();
    for (const table of [host.plugin.staged, host.plugin.published, host.plugin.attached]) table.clear();
    await host.plugin.start();
    await writeFile(`${path}/note`, 'written');
    host.plugin.next('NodeUnpublishVolume', failWith('NOT_FOUND'));
    host.plugin.next('NodeUnstageVolume', failWith('NOT_FOUND'));
    await host.volumes.release('data', A, soon());
    assert.equal(host.volumes.get('data').state, 'created');
    assertIdle(host);
  });

  test('a target whose mount has gone is published anew', async (t) => {
    const host = await volumeHost(t, MANY);
    await host.volumes.create(request(), soon());
    const { path } = await host.volumes.publish('data', A, RW, soon());
    await hostCommand('umount', [path], soon());
    await rmdir(path);
    await host.volumes.publish('data', A, RW, soon());
    assert.ok(mountAt(path) !== undefined);
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });
});

/** Mounts a FUSE file system that nobody serves: whoever looks at it waits until the holder is killed. */
async function hang(path: string): Promise<ChildProcess> {
  const script =
    'exec 3<>/dev/fuse; mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung "$1" && echo up; exec sleep 120';
  const holder = spawn('/bin/sh', ['-c', script, 'sh', path], { stdio: ['ignore', 'pipe', 'inherit'] });
  if (holder.stdout !== null) await once(holder.stdout, 'data');
  return holder;
}

function letGo(t: TestScope, holder: ChildProcess, path: string): void {
  cleanup(t, async () => {
    const over = once(holder, 'exit');
    if (holder.exitCode === null && holder.signalCode === null) {
      holder.kill('SIGKILL');
      await over;
    }
    if (readMounts().some(({ mountPoint }) => mountPoint === path)) await hostCommand('umount', ['-l', path], soon());
  });
}

describe('a mount that hangs', { skip: missing('root', 'loop') }, () => {
  test('fails its own container in time, stalls no other volume, and is given up by force', async (t) => {
    const host = await volumeHost(t, STAGED, { lookMs: 500 });
    for (const name of ['data', 'well']) await host.volumes.create(request({ name }), soon());
    const shown = Promise.withResolvers<string>();
    host.plugin.next('NodePublishVolume', async ({ targetPath }) => {
      await mkdir(targetPath);
      letGo(t, await hang(targetPath), targetPath);
      shown.resolve(targetPath);
      return {};
    });
    const publishing = host.volumes.publish('data', A, RW, soon());
    const failed = assert.rejects(publishing, hasCode('INTERNAL', /answered OK, but stat .* stopped after 500 ms/));
    const path = await shown.promise;
    const begunMs = performance.now();
    await host.volumes.publish('well', B, RW, soon());
    await host.volumes.release('well', B, soon());
    assert.ok(performance.now() - begunMs < 3000);
    await failed;
    host.plugin.onCall = (rpc) => {
      if (rpc === 'NodeUnpublishVolume') throw new FakeStatus('INTERNAL', 'it hangs');
    };
    const { state, skipped } = await host.volumes.detach('data', true, soon());
    assert.deepEqual([state, skipped.map(({ step }) => step)], ['created', ['NodeUnpublishVolume']]);
    assert.equal(mountAt(path), undefined);
    assert.deepEqual(host.mounts(), []);
  });
});
