/** How volumes are used, asked for and shown by the command line, with a plugin that tells what it was sent. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import type { TestScope } from '../support/cleanup.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { type Behaviour, type FakeCsi, failWith, startFakeCsi } from '../support/fake-csi.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';

async function place(t: TestScope): Promise<{ readonly daemon: Daemon; readonly fake: FakeCsi }> {
  const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver', '--csi-controller-calls', '2'] });
  await daemon.importBusybox(IMAGE);
  const fake = await startFakeCsi(t, {
    socketPath: join(daemon.run, 'csi', 'fake.sock'),
    backingDir: join(daemon.dir, 'fake'),
    controller: ['CREATE_DELETE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
    node: ['STAGE_UNSTAGE_VOLUME', 'SINGLE_NODE_MULTI_WRITER', 'VOLUME_MOUNT_GROUP'],
  });
  return { daemon, fake };
}

async function inspected(daemon: Daemon, name: string): Promise<Record<string, unknown>> {
  const [volume] = JSON.parse(await daemon.ok(['volume', 'inspect', name]));
  return volume;
}

const create = (name: string, ...flags: string[]): string[] => {
  return ['volume', 'create', name, '--size', '16Mi', '--driver', 'fake.csi.test', ...flags];
};

test('volumes as they are used', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'losetup')) return;
  const { daemon, fake } = await place(t);

  await t.test('reach the plugin as asked for, and are shown', async () => {
    const flags = ['--access-mode', 'RWOP', '--mount-flag', 'noatime', '--mount-flag', 'password=hidden'];
    const group = ['--fs-group', '4711', '--ownership', 'always', '--reclaim', 'retain', '--fs-type', 'ext4'];
    await daemon.ok(create('db', ...flags, ...group));
    await daemon.ok(create('db', ...flags, ...group));
    const [request, ...more] = fake.requests('CreateVolume');
    assert.deepEqual(more, []);
    const [capability] = request?.['volumeCapabilities'] ?? [];
    assert.equal(capability.accessMode.mode, 'SINGLE_NODE_SINGLE_WRITER');
    assert.deepEqual([capability.mount.fsType, capability.mount.mountFlags], ['ext4', ['noatime', 'password=hidden']]);
    const shown = await inspected(daemon, 'db');
    const { accessMode, mountFlags, group: gid, ownership, reclaim, availability, fsType } = shown;
    assert.deepEqual(
      [accessMode, mountFlags, gid, ownership, reclaim, availability, fsType],
      ['single-node-single-writer', ['noatime', 'password=***'], 4711, 'always', 'retain', 'active', 'ext4'],
    );
    const text = await daemon.ok(['volume', 'inspect', '--format', 'table', 'db']);
    assert.match(text, /^access mode +single-node-single-writer$/m);
    assert.match(text, /^mount flags +noatime, password=\*{3}$/m);
    assert.match(text, /^group +4711, ownership always$/m);
    assert.doesNotMatch(text, /hidden|undefined|null/);
    assert.doesNotMatch(JSON.stringify([shown, daemon.lines]), /hidden/);
    await daemon.ok(['run', '--rm', '--network', 'none', '-v', 'db:/data', IMAGE, '--', 'true']);
    const mount = fake.requests('NodePublishVolume').at(-1)?.['volumeCapability'].mount;
    assert.deepEqual([mount.volumeMountGroup, mount.mountFlags], ['4711', ['noatime', 'password=hidden']]);
    await daemon.ok(['volume', 'rm', 'db']);
    assert.deepEqual(fake.requests('DeleteVolume'), []);
  });

  await t.test('of another mode are another request', async () => {
    await daemon.ok(create('one', '--access-mode', 'rwo'));
    assert.equal((await inspected(daemon, 'one'))['accessMode'], 'single-node-multi-writer');
    await daemon.ok(create('one', '--access-mode', 'RWO'));
    await daemon.ok(create('one'));
    const { code, stderr } = await daemon.cli(create('one', '--access-mode', 'RWX'));
    assert.equal(code, 1);
    assert.match(stderr, /other words/);
    await daemon.ok(['volume', 'rm', 'one']);
  });

  await t.test('are refused before the plugin is asked when the words make no sense', async () => {
    const before = fake.volumeCalls().length;
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [['--access-mode', 'RW'], /access_mode: "RW" must be RWO, RWOP, ROX, RWX, or one of single-node-writer/],
      [['--fs-group', 'wheel'], /--fs-group/],
      [['--fs-group', '5', '--access', 'block'], /group: a block volume has no files/],
      [['--ownership', 'sometimes'], /never, root-mismatch, always/],
      [['--reclaim', 'recycle'], /delete, retain/],
      [['--mount-flag', 'noatime', '--access', 'block'], /mountFlags: a block volume is not mounted/],
      [['--mount-flag', ''], /mountFlags: flag 1 is empty/],
    ];
    for (const [flags, reason] of cases) {
      const { code, stderr } = await daemon.cli(create('odd', ...flags));
      assert.equal(code, 1, flags.join(' '));
      assert.match(stderr, reason);
    }
    assert.equal(fake.volumeCalls().length, before);
    assert.equal(await daemon.ok(['volume', 'ls', '--format', 'json']), '[]');
  });

  await t.test('show who uses them, what failed, how often, and when it is tried again', async () => {
    await daemon.ok(create('busy'));
    const run = [
      'run',
      '-d',
      '--name',
      'user',
      '--network',
      'none',
      '-v',
      'busy:/data:ro',
      IMAGE,
      '--',
      'sleep',
      '1000',
    ];
    const id = (await daemon.ok(run)).trim();
    const used = await inspected(daemon, 'busy');
    const [claim] = used['claims'] as Record<string, unknown>[];
    assert.deepEqual([claim?.['containerId'], claim?.['target'], claim?.['readOnly']], [id, '/data', true]);
    assert.deepEqual([used['failure'], used['nextTryAt']], [null, null]);
    const failures = Array.from({ length: 40 }, () => failWith('INTERNAL', { message: 'stuck here' }));
    fake.next('NodeUnpublishVolume', ...failures);
    await daemon.cli(['rm', '-f', 'user']);
    const stuck = await inspected(daemon, 'busy');
    const failure = stuck['failure'] as Record<string, unknown>;
    assert.equal(failure['step'], 'NodeUnpublishVolume');
    assert.ok(Number(failure['attempts']) >= 1);
    assert.match(String(failure['message']), /stuck here/);
    assert.ok(Date.parse(String(stuck['nextTryAt'])) > Date.now() - 10_000);
    const list = await daemon.ok(['volume', 'ls']);
    assert.match(list, /^NAME +DRIVER +SIZE +ACCESS +MODE +STATE +CONTAINERS +ERROR +CONDITION$/m);
    assert.match(list, /^busy .* unpublishing .*stuck here/m);
    const text = await daemon.ok(['volume', 'inspect', '--format', 'table', 'busy']);
    assert.match(text, /^failed step +NodeUnpublishVolume, attempt \d+, /m);
    assert.match(text, /^next try +(in|now)/m);
    assert.match(text, new RegExp(`^used by +${id.slice(0, 12)}, /data, .*read-only, given back, not down yet$`, 'm'));
    fake.heal();
    // The daemon's own next attempt may come first.
    const removed = await daemon.cli(['rm', '-f', 'user']);
    assert.ok(removed.code === 0 || /no such container/.test(removed.stderr), removed.stderr);
    await daemon.ok(['volume', 'rm', 'busy']);
  });

  await t.test('are made as many at a time as the daemon was told', async () => {
    const names = ['v1', 'v2', 'v3', 'v4', 'v5'];
    const two = Promise.withResolvers<void>();
    let now = 0;
    let most = 0;
    const count: Behaviour = async (_request, effect) => {
      now += 1;
      most = Math.max(most, now);
      if (now === 2) two.resolve();
      await two.promise;
      const answer = await effect();
      now -= 1;
      return answer;
    };
    fake.next('CreateVolume', ...names.map(() => count));
    await Promise.all(names.map((name) => daemon.ok(create(name))));
    assert.equal(most, 2);
    const info = JSON.parse(await daemon.ok(['info', '--format', 'json']));
    assert.equal(info.csiControllerCalls, '2');
    await daemon.ok(['volume', 'rm', ...names]);
  });

  assert.deepEqual(fake.violations, []);
  assert.ok(fake.isIdle);
});

test('a volume of a group may be written by a user of the group, and by nobody else', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'loop', 'ext4', 'losetup')) return;
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  await daemon.ok(['volume', 'create', 'ours', '--size', '16Mi', '--fs-group', '4711']);
  const as = (user: string, script: string): string[] => {
    return ['run', '--rm', '--network', 'none', '-u', user, '-v', 'ours:/data', IMAGE, '--', 'sh', '-c', script];
  };
  await daemon.ok(as('1000:4711', 'mkdir /data/dir && echo kept > /data/dir/file'));
  const { code, stderr } = await daemon.cli(as('1000:1000', 'echo x > /data/other'));
  assert.notEqual(code, 0);
  assert.match(stderr, /permission denied/i);
  // What is made later belongs to the group, too.
  assert.equal(
    await daemon.ok(as('2000:4711', "stat -c '%u %g' /data/dir/file; cat /data/dir/file")),
    '1000 4711\nkept',
  );
  await daemon.ok(['volume', 'rm', 'ours']);
});
