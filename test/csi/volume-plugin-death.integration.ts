/** Plugins that are killed, lose their socket or come back with an empty memory, under calls and under volumes in use. */
import assert from 'node:assert/strict';
import { mkdirSync, unlinkSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../src/errors.ts';
import { hostCommand } from '../../src/host-command.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { LADDER_CALLS, RUNGS } from '../support/csi-message.ts';
import { judge } from '../support/fake-csi-ledger.ts';
import { loopOver } from '../support/fake-csi-memory.ts';
import { type RemoteCsi, type RemoteCsiOptions, startRemoteCsi } from '../support/fake-csi-remote.ts';
import { missing } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';
import { A, assertNothingHeld, B, ManagerHost, request, soon } from './volume-host.ts';

const patient = (): AbortSignal => AbortSignal.timeout(60_000);

const NAME = 'mortal.csi.test';

async function mortal(
  t: TestScope,
  options: Partial<RemoteCsiOptions> = {},
): Promise<{ host: ManagerHost; plugins: RemoteCsi }> {
  const dir = await tempDir(t);
  mkdirSync(`${dir}/csi`);
  const plugins = await startRemoteCsi(t, {
    dir,
    socketDir: `${dir}/csi`,
    names: [NAME],
    controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
    node: ['STAGE_UNSTAGE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
    publishContext: { device: 'lun-7' },
    ...options,
  });
  const host = new ManagerHost(dir);
  cleanup(t, () => host.stop());
  await host.start({ deadlines: { pluginMs: 40_000, retryForMs: 40_000, settleMs: 500 } });
  return { host, plugins };
}

async function assertGone({ host, plugins }: { host: ManagerHost; plugins: RemoteCsi }): Promise<void> {
  assert.deepEqual((await plugins.tables())[NAME], { volumes: [], attached: [], violations: [] });
  assertNothingHeld(host);
  assert.deepEqual(judge(plugins.journal(), RUNGS), []);
}

function callsOf(plugins: RemoteCsi): string[] {
  return plugins.journal().flatMap((entry) => (entry.at === 'arrived' ? [entry.rpc] : []));
}

describe('a plugin that is killed under a call', { skip: missing('root', 'loop', 'losetup') }, () => {
  for (const done of [false, true]) {
    test(`and started again is given the same call, ${done ? 'done' : 'not done'} before`, async (t) => {
      const { host, plugins } = await mortal(t, { supervised: true });
      const life = async (): Promise<void> => {
        await host.volumes.create(request({ driver: NAME }), patient());
        await host.volumes.publish('data', A, { readOnly: false }, patient());
        // On the way down nobody waits for an absent plugin for long: the caller comes again.
        await again(() => host.volumes.release('data', A, soon()));
        await again(() => host.volumes.remove('data', soon()));
      };
      for (const rpc of LADDER_CALLS) {
        const { deaths } = plugins;
        plugins.next(NAME, rpc, { kind: 'crash', done });
        await life();
        assert.equal(plugins.deaths, deaths + 1, rpc);
      }
      await assertGone({ host, plugins });
    });
  }
});

describe('a plugin that comes back with an empty memory', { skip: missing('root', 'loop', 'losetup') }, () => {
  for (const access of ['mount', 'block'] as const) {
    test(`disturbs no consumer, nor does a daemon that comes back with it: ${access}`, async (t) => {
      const { host, plugins } = await mortal(t);
      const wish = request({ driver: NAME, access, accessMode: 'SINGLE_NODE_MULTI_WRITER' });
      await host.volumes.create(wish, soon());
      const [a, b] = [
        await host.volumes.publish('data', A, { readOnly: false }, soon()),
        await host.volumes.publish('data', B, { readOnly: false }, soon()),
      ];
      assert.notEqual(a.path, b.path);
      const written = access === 'mount' ? [`${a.path}/note`, `${b.path}/note`] : [a.path, b.path];
      const [first = '', second = ''] = written;
      await writeFile(first, 'of a', access === 'block' ? { flag: 'r+', flush: true } : {});
      const calls = callsOf(plugins);

      await plugins.kill();
      await host.start();
      await host.volumes.recover(soon());
      await plugins.start();
      assert.equal((await readFile(second)).subarray(0, 4).toString(), 'of a');
      assert.deepEqual(
        host.volumes.get('data').claims.map(({ containerId, releasing }) => [containerId, releasing]),
        [
          [A, false],
          [B, false],
        ],
      );
      assert.deepEqual(callsOf(plugins), calls, 'nothing was due');

      // One goes, the other stays; a third one comes.
      await host.volumes.release('data', A, soon());
      assert.equal((await readFile(second)).subarray(0, 4).toString(), 'of a');
      assert.ok(!callsOf(plugins).includes('NodeUnstageVolume'));
      await host.volumes.publish('data', 'c'.repeat(32), { readOnly: false }, soon());
      await host.volumes.release('data', B, soon());
      await host.volumes.release('data', 'c'.repeat(32), soon());
      assert.equal(host.volumes.get('data').state, 'created');
      await host.volumes.remove('data', soon());
      await assertGone({ host, plugins });
    });

    test(`after a reboot finds every volume down, and brings it up anew for two: ${access}`, async (t) => {
      const { host, plugins } = await mortal(t);
      const wish = request({ driver: NAME, access, accessMode: 'SINGLE_NODE_MULTI_WRITER' });
      await host.volumes.create(wish, soon());
      for (const id of [A, B]) await host.volumes.publish('data', id, { readOnly: false }, soon());
      await host.stop();
      await plugins.kill();
      // What a reboot takes: mounts, loop devices, all memory.
      for (const path of host.mounts()) await hostCommand('umount', [path], soon());
      await detachLoops(host, plugins);
      await plugins.start();
      await host.start({ bootId: 'boot-2' });
      await host.volumes.recover(soon());
      const { state, claims, publications } = host.volumes.get('data');
      assert.deepEqual([state, claims, publications], ['created', [], []]);
      assertNothingHeld(host);
      for (const id of [A, B]) await host.volumes.publish('data', id, { readOnly: false }, soon());
      assert.equal(host.volumes.get('data').bootId, 'boot-2');
      for (const id of [A, B]) await host.volumes.release('data', id, soon());
      await host.volumes.remove('data', soon());
      await assertGone({ host, plugins });
    });
  }
});

/** Until it is done, or was done by the background. */
async function again(work: () => Promise<void>): Promise<void> {
  for (const deadline = Date.now() + 60_000; ; ) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof RuntimeError) || Date.now() > deadline) throw error;
      if (error.code === 'NOT_FOUND') return;
      if (error.code !== 'UNAVAILABLE') throw error;
    }
  }
}

async function until(come: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!come()) {
    assert.ok(Date.now() < deadline, 'it never came to be');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function detachLoops(host: ManagerHost, plugins: RemoteCsi): Promise<void> {
  const ids = plugins.journal().flatMap((entry) => (entry.at === 'killed' ? [] : [entry.volume]));
  for (const id of new Set(ids)) {
    const loop = await loopOver(`${host.dir}/volumes-${NAME}/${Buffer.from(id).toString('hex').slice(0, 200)}`);
    if (loop !== undefined) await hostCommand('losetup', ['-d', loop], soon());
  }
}

describe('a socket that vanishes under a call', { skip: missing('root') }, () => {
  test('does not end the call; the next one waits for the plugin that comes in its place', async (t) => {
    const { host, plugins } = await mortal(t);
    await host.volumes.create(request({ driver: NAME }), soon());
    plugins.next(NAME, 'NodeStageVolume', { kind: 'hold' });
    const publishing = host.volumes.publish('data', A, { readOnly: false }, soon());
    await plugins.held(NAME);
    unlinkSync(plugins.socketOf(NAME));
    await until(() => host.registry.list().length === 0);
    plugins.release(NAME, 'go');
    await plugins.kill();
    await plugins.start();
    await publishing;
    await host.volumes.release('data', A, soon());
    await host.volumes.remove('data', soon());
    await assertGone({ host, plugins });
  });

  test('leaves a volume that is taken down when the plugin is back', async (t) => {
    const { host, plugins } = await mortal(t);
    await host.volumes.create(request({ driver: NAME }), soon());
    await host.start({ deadlines: { pluginMs: 200, retryForMs: 200, settleMs: 200 } });
    plugins.next(NAME, 'NodePublishVolume', { kind: 'hold', done: true });
    const publishing = host.volumes.publish('data', A, { readOnly: false }, soon());
    const refused = assert.rejects(
      publishing,
      (error) => error instanceof RuntimeError && error.code === 'UNAVAILABLE',
    );
    await plugins.held(NAME);
    unlinkSync(plugins.socketOf(NAME));
    await plugins.kill();
    await refused;
    await assert.rejects(host.volumes.release('data', A, soon()), /start it|UNAVAILABLE|NodeUnpublishVolume/);
    await plugins.start();
    await until(() => host.volumes.get('data').state === 'created');
    await host.volumes.remove('data', soon());
    await assertGone({ host, plugins });
  });
});
