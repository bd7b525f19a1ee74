/** Snapshots, restores, clones and groups by the command line, with data written and read by containers. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { TestScope } from '../support/cleanup.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { type FakeCsi, startFakeCsi } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';

const ok = (daemon: Daemon, ...argv: string[]): Promise<string> => daemon.ok(argv);

async function json<T>(daemon: Daemon, ...argv: string[]): Promise<T> {
  return JSON.parse(await ok(daemon, ...argv, '--format', 'json'));
}

async function withDriver(t: TestScope): Promise<{ readonly daemon: Daemon; readonly plugin: FakeCsi }> {
  const daemon = await startDaemon(t);
  const plugin = await startFakeCsi(t, {
    socketPath: `${daemon.run}/csi/fake.sock`,
    backingDir: `${daemon.dir}/backing`,
    controller: ['CREATE_DELETE_VOLUME', 'CREATE_DELETE_SNAPSHOT', 'CLONE_VOLUME', 'LIST_SNAPSHOTS'],
    node: ['STAGE_UNSTAGE_VOLUME'],
    groupController: ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'],
  });
  await daemon.importBusybox();
  return { daemon, plugin };
}

const sh = (daemon: Daemon, volume: string, script: string): Promise<string> =>
  ok(daemon, 'run', '--rm', '--network', 'none', '-v', `${volume}:/v`, 'busybox:1', '--', 'sh', '-c', script);

describe('berth volume snapshot', { skip: missing('root', 'conmon', 'busybox', 'overlayfs', 'loop') }, () => {
  test('a container finds the old data in a restored volume, and the new data in a clone', async (t) => {
    const { daemon, plugin } = await withDriver(t);
    plugin.snapshots.readyAfter = 3;
    await ok(daemon, 'volume', 'create', 'data', '--size', '16Mi', '--driver', plugin.name);
    await sh(daemon, 'data', 'echo first > /v/note');
    assert.equal(
      await ok(daemon, 'volume', 'snapshot', 'data', '--name', 'monday', '--parameter', 'pool=cold'),
      'monday',
    );
    const [snapshot] = await json<{ state: string; volume: string; sizeBytes: number }[]>(
      daemon,
      'snapshot',
      'inspect',
      'monday',
    );
    assert.deepEqual([snapshot?.state, snapshot?.volume, snapshot?.sizeBytes], ['ready', 'data', 16 * 2 ** 20]);
    await sh(daemon, 'data', 'echo second > /v/note');
    await ok(daemon, 'volume', 'create', 'old', '--from-snapshot', 'monday');
    await ok(daemon, 'volume', 'create', 'copy', '--from-volume', 'data', '--size', '32Mi');
    assert.equal(await sh(daemon, 'old', 'cat /v/note'), 'first');
    assert.equal(await sh(daemon, 'copy', 'cat /v/note'), 'second');
    const [copy] = await json<{ fromVolume: string; capacityBytes: number }[]>(daemon, 'volume', 'inspect', 'copy');
    assert.deepEqual([copy?.fromVolume, copy?.capacityBytes], ['data', 32 * 2 ** 20]);
    // The daemon may be restarted in between.
    await daemon.restart();
    const [listed] = await json<{ name: string }[]>(daemon, 'snapshot', 'ls', '--driver', plugin.name, '--all');
    assert.equal(listed?.name, 'monday');
    await ok(daemon, 'snapshot', 'rm', 'monday');
    assert.deepEqual(await json(daemon, 'snapshot', 'ls'), []);
    await ok(daemon, 'volume', 'rm', 'data', 'old', 'copy');
    assert.equal(plugin.snapshots.snapshots.size + plugin.volumes.size, 0);
    assert.deepEqual(plugin.violations, []);
  });

  test('--no-wait returns after the cut; a refusal is one line and exit code 1', async (t) => {
    const { daemon, plugin } = await withDriver(t);
    plugin.snapshots.readyAfter = Number.POSITIVE_INFINITY;
    await ok(daemon, 'volume', 'create', 'data', '--size', '16Mi', '--driver', plugin.name);
    await ok(daemon, 'volume', 'snapshot', 'data', '--name', 'monday', '--no-wait');
    const early = await daemon.cli(['volume', 'create', 'old', '--from-snapshot', 'monday']);
    assert.equal(early.code, 1);
    assert.match(early.stderr, /^berth: snapshot monday is processing: wait until .*\n$/);
    const unsized = await daemon.cli(['volume', 'create', 'new']);
    assert.match(unsized.stderr, /^berth: size: is missing: say one \(--size 10Gi\)/);
    plugin.snapshots.readyAfter = 1;
    await ok(daemon, 'snapshot', 'rm', 'monday');
    await ok(daemon, 'volume', 'rm', 'data');
  });

  test('a group is cut together, restored one by one, and removed together', async (t) => {
    const { daemon, plugin } = await withDriver(t);
    for (const name of ['db', 'log']) {
      await ok(daemon, 'volume', 'create', name, '--size', '16Mi', '--driver', plugin.name);
      await sh(daemon, name, `echo ${name} > /v/note`);
    }
    assert.equal(await ok(daemon, 'snapshot', 'group', 'create', 'nightly', 'db', 'log'), 'nightly.db\nnightly.log');
    const alone = await daemon.cli(['snapshot', 'rm', 'nightly.db']);
    assert.match(alone.stderr, /ends with its group nightly only/);
    await ok(daemon, 'volume', 'create', 'db-old', '--from-snapshot', 'nightly.db');
    assert.equal(await sh(daemon, 'db-old', 'cat /v/note'), 'db');
    await ok(daemon, 'snapshot', 'group', 'rm', 'nightly');
    assert.equal(plugin.snapshots.snapshots.size, 0);
    await ok(daemon, 'volume', 'rm', 'db', 'log', 'db-old');
    assert.deepEqual(plugin.violations, []);
  });
});
