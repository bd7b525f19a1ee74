/** Volumes that were there before, and who may use a volume, by the command line with real containers. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { mountsBelow } from '../../src/mountinfo.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { failWith, startFakeCsi } from '../support/fake-csi.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';

async function inspected(daemon: Daemon, name: string): Promise<Record<string, unknown>> {
  const [volume] = JSON.parse(await daemon.ok(['volume', 'inspect', name]));
  return volume;
}

async function refused(daemon: Daemon, args: readonly string[], reason: RegExp, code = 1): Promise<void> {
  const result = await daemon.cli(args);
  assert.equal(result.code, code, result.stderr);
  assert.match(result.stderr, reason);
}

/** A container that ends at once when it is told to. */
const user = (name: string, volume: string): string[] => {
  const script = 'trap "exit 0" TERM; sleep 1000 & wait';
  return ['run', '-d', '--name', name, '--network', 'none', '-v', `${volume}:/data`, IMAGE, '--', 'sh', '-c', script];
};

async function states(daemon: Daemon): Promise<Record<string, string>> {
  const all: { name: string; state: string }[] = JSON.parse(await daemon.ok(['ps', '-a', '--format', 'json']));
  return Object.fromEntries(all.map(({ name, state }) => [name, state]));
}

test('volumes under control', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'losetup')) return;
  const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver'] });
  await daemon.importBusybox(IMAGE);
  const fake = await startFakeCsi(t, {
    socketPath: join(daemon.run, 'csi', 'fake.sock'),
    backingDir: join(daemon.dir, 'fake'),
    controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
    node: ['STAGE_UNSTAGE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
  });
  const create = (name: string): string[] => {
    return ['volume', 'create', name, '--size', '16Mi', '--driver', 'fake.csi.test'];
  };

  await t.test('one that is there is taken on, used, and kept when it is removed', async () => {
    await fake.provide('nas/share 1', false, { server: 'nas' });
    const flags = ['--driver', 'fake.csi.test', '--handle', 'nas/share 1', '--attribute', 'server=nas'];
    const register = ['volume', 'register', 'share', ...flags, '--access-mode', 'RWX', '--size', '1Gi'];
    assert.equal(await daemon.ok(register), 'share');
    assert.equal(await daemon.ok(register), 'share');
    const { volumeId, accessMode, reclaim, capacityBytes, state } = await inspected(daemon, 'share');
    assert.deepEqual(
      [volumeId, accessMode, reclaim, capacityBytes, state],
      ['nas/share 1', 'multi-node-multi-writer', 'retain', 2 ** 30, 'created'],
    );
    await daemon.ok(['run', '--rm', '--network', 'none', '-v', 'share:/data', IMAGE, '--', 'touch', '/data/x']);
    await refused(daemon, ['volume', 'register', 'again', ...flags], /of fake\.csi\.test is volume share/);
    await refused(daemon, ['volume', 'register', 'share', ...flags, '--access-mode', 'RWOP'], /other words/);
    await refused(daemon, ['volume', 'register', 'odd', ...flags, '--attribute', '=x'], /--attribute/);
    await refused(daemon, ['volume', 'register', 'odd', '--driver', 'fake.csi.test'], /--handle/);
    await daemon.ok(['volume', 'rm', 'share']);
    assert.deepEqual(fake.requests('DeleteVolume'), []);
    assert.ok(fake.volumes.has('nas/share 1'));
  });

  await t.test('pause lets nobody begin and stops nobody; drain stops who uses it, and no one else', async () => {
    for (const name of ['data', 'other']) await daemon.ok(create(name));
    for (const name of ['one', 'two']) await daemon.ok(user(name, 'data'));
    await daemon.ok(user('bystander', 'other'));
    await daemon.ok(['volume', 'update', 'data', '--availability', 'pause']);
    await refused(daemon, user('late', 'data'), /volume data is paused: allow it by/, 125);
    await refused(daemon, ['volume', 'rm', 'data'], /used by container .*--availability drain/);
    assert.deepEqual(await states(daemon), { one: 'running', two: 'running', bystander: 'running' });
    assert.match(await daemon.ok(['volume', 'ls']), /^data .* published, paused /m);
    await daemon.ok(['volume', 'update', 'data', '--availability', 'drain']);
    assert.deepEqual(await states(daemon), { one: 'exited', two: 'exited', bystander: 'running' });
    const { state, claims, availability } = await inspected(daemon, 'data');
    assert.deepEqual([state, claims, availability], ['created', [], 'drain']);
    assert.match(fake.requests('ControllerUnpublishVolume').at(-1)?.['volumeId'], /^id-of-data/);
    await refused(daemon, ['start', 'one'], /volume data is being drained: allow it by/);
    await daemon.ok(['volume', 'update', 'data', '--availability', 'active']);
    await daemon.ok(['start', 'one']);
    await daemon.ok(['rm', '-f', 'one', 'two', 'bystander']);
    await daemon.ok(['volume', 'rm', 'data', 'other']);
  });

  await t.test('a drain that a killed daemon left is finished by the next', async () => {
    await daemon.ok(create('data'));
    // Killed without delay when its time is up, which is longer than the daemon lives.
    const script = 'trap "" TERM; sleep 1000 & wait';
    const deaf = [
      'run',
      '-d',
      '--name',
      'deaf',
      '--network',
      'none',
      '-v',
      'data:/data',
      IMAGE,
      '--',
      'sh',
      '-c',
      script,
    ];
    await daemon.ok(deaf);
    const dead = daemon.killAt((line) => line.msg === 'container is stopped: its volume is being drained');
    await daemon.cli(['volume', 'update', 'data', '--availability', 'drain', '--time', '1000']);
    await dead;
    await daemon.start();
    await daemon.ok(['wait', 'deaf']);
    assert.equal((await inspected(daemon, 'data'))['availability'], 'drain');
    await daemon.ok(['rm', '-f', 'deaf']);
    await daemon.ok(['volume', 'rm', 'data']);
  });

  await t.test('detached by force only when the risks were shown, and what was skipped is named', async () => {
    await daemon.ok(create('data'));
    await daemon.ok(['volume', 'detach', 'data']);
    const id = await daemon.ok(user('user', 'data'));
    await refused(daemon, ['volume', 'detach', 'data'], /used by container/);
    const steps = 'NodeUnpublishVolume, NodeUnstageVolume, ControllerUnpublishVolume';
    const shown = new RegExp(`volume data is published.*container ${id.slice(0, 12)} \\(/data\\).*${steps}`, 's');
    await refused(daemon, ['volume', 'detach', '--force', 'data'], shown);
    assert.equal((await inspected(daemon, 'data'))['state'], 'published');
    fake.next('NodeUnpublishVolume', failWith('INTERNAL', { message: 'no way' }));
    const { code, stdout, stderr } = await daemon.cli(['volume', 'detach', '--force', '--yes', 'data']);
    assert.deepEqual([code, stdout], [0, 'data\n']);
    assert.match(stderr, /^berth: volume data: skipped NodeUnpublishVolume: .*no way$/m);
    const volume = await inspected(daemon, 'data');
    assert.deepEqual([volume['state'], volume['claims']], ['created', []]);
    assert.match(JSON.stringify(volume['skipped']), /NodeUnpublishVolume.*no way/);
    assert.match(await daemon.ok(['volume', 'inspect', '--format', 'table', 'data']), /^skipped +NodeUnpublishVolume/m);
    assert.deepEqual(mountsBelow(`${daemon.root}/csi/mounts`), []);
    await daemon.ok(['rm', '-f', 'user']);
    fake.published.clear();
    await daemon.ok(['volume', 'rm', 'data']);
  });
});
