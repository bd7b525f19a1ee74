/**
 * SIGKILL of berthd at every CSI call of a volume's way up and down, by the plugin's clock: when the call has arrived,
 * when it is done and not answered, and while the plugin goes on with it under the next daemon. Every call that is tried
 * has a plugin of its own, so that all are under way at once and one kill tries them all.
 */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import type { ContainerSpec } from '../../src/api/generated/berth/v1/ContainerSpec.ts';
import { LADDER_CALLS, RUNGS } from '../support/csi-message.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { judge } from '../support/fake-csi-ledger.ts';
import { type RemoteCsi, startRemoteCsi } from '../support/fake-csi-remote.ts';
import { needs } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';

const IMAGE = 'busybox:1';
const MIB = 1024 * 1024;

/** When berthd dies: before the plugin has done anything, after it is done, or before, and the plugin does it later. */
const MOMENTS = ['before', 'after', 'late'] as const;

interface Case {
  readonly rpc: (typeof LADDER_CALLS)[number];
  readonly moment: (typeof MOMENTS)[number];
  readonly plugin: string;
  readonly volume: string;
}

const CASES: readonly Case[] = LADDER_CALLS.flatMap((rpc) =>
  MOMENTS.map((moment) => {
    const name = `${rpc.toLowerCase()}-${moment}`;
    return { rpc, moment, plugin: `${name}.csi.test`, volume: name };
  }),
);

type Access = 'mount' | 'block';

function user(access: Access, volumes: readonly string[]): ContainerSpec {
  const image = { image: IMAGE, command: ['true'], networks: ['none'], autoRemove: true };
  if (access === 'mount') return { ...image, mounts: volumes.map((volume) => ({ volume, target: `/mnt/${volume}` })) };
  return { ...image, devices: volumes.map((volume) => ({ volume, path: `/dev/x-${volume}` })) };
}

/** Makes what comes before the call that is tried; returns what sends that call. */
async function begin(daemon: Daemon, access: Access, { rpc, plugin, volume }: Case): Promise<() => Promise<unknown>> {
  const { api } = daemon;
  const request = {
    name: volume,
    driver: plugin,
    capacityBytes: 4 * MIB,
    access: access === 'block' ? ('VOLUME_ACCESS_BLOCK' as const) : ('VOLUME_ACCESS_MOUNT' as const),
  };
  if (rpc === 'CreateVolume') return () => api.volumes.call('Create', request);
  await api.volumes.call('Create', request);
  if (rpc === 'DeleteVolume') return () => api.volumes.call('Remove', { name: volume });
  return () => api.run(user(access, [volume]));
}

/** Waits until every volume rests, and nobody uses it. */
async function settled(daemon: Daemon): Promise<string[]> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const { volumes } = await daemon.api.volumes.call('List', {});
    const busy = volumes.filter(({ state, containerIds }) => state !== 'created' || containerIds.length > 0);
    if (busy.length === 0) return volumes.map(({ name }) => name).sort();
    assert.ok(Date.now() < deadline, `not settled: ${JSON.stringify(busy)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function register(daemon: Daemon, plugins: RemoteCsi): Promise<void> {
  for (const { plugin } of CASES) {
    const text = `name = "${plugin}"\nsocket = "unix://${plugins.socketOf(plugin)}"\n`;
    await writeFile(`${daemon.dir}/csi.d/${plugin}.toml`, text);
  }
}

for (const access of ['mount', 'block'] as const) {
  test(`berthd killed before, after and during every CSI call: ${access}`, { timeout: 180_000 }, async (t) => {
    if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'loop', 'losetup')) return;
    const plugins = await startRemoteCsi(t, {
      dir: await tempDir(t),
      names: CASES.map(({ plugin }) => plugin),
      controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'],
      node: ['STAGE_UNSTAGE_VOLUME'],
      publishContext: { device: 'lun-7' },
    });
    const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver'] });
    await daemon.importBusybox(IMAGE);
    const before = daemon.oracle();
    await register(daemon, plugins);
    const triggers = await Promise.all(CASES.map((one) => begin(daemon, access, one)));

    for (const { plugin, rpc, moment } of CASES) plugins.next(plugin, rpc, { kind: 'hold', done: moment === 'after' });
    const outcomes = Promise.allSettled(triggers.map((trigger) => trigger()));
    await Promise.all(CASES.map(({ plugin }) => plugins.held(plugin)));
    await daemon.kill('SIGKILL');
    await outcomes;
    plugins.callerKilled();
    for (const { plugin, moment } of CASES) {
      if (moment !== 'late') plugins.release(plugin, moment === 'after' ? 'go' : 'drop');
    }
    const late = CASES.filter(({ moment }) => moment === 'late').map(async ({ plugin }) => {
      // The next daemon is told that the call of the first is under way; then that call is done.
      await plugins.aborted(plugin);
      plugins.release(plugin, 'go');
    });
    await daemon.start();
    await Promise.all(late);

    const volumes = await settled(daemon);
    const kept = CASES.filter(({ rpc }) => rpc !== 'DeleteVolume').map(({ volume }) => volume);
    assert.deepEqual(volumes, kept.sort());
    const { containers } = await daemon.api.containers.call('List', { all: true });
    assert.deepEqual(containers, []);
    for (const [name, { volumes: made, attached }] of Object.entries(await plugins.tables())) {
      assert.deepEqual(attached, [], name);
      assert.equal(made.length, name.startsWith('deletevolume') ? 0 : 1, name);
    }

    // All are as good as new.
    assert.equal((await daemon.api.run(user(access, kept))).exitCode, 0);
    await settled(daemon);
    await Promise.all(kept.map((name) => daemon.api.volumes.call('Remove', { name })));
    for (const [name, tables] of Object.entries(await plugins.tables())) {
      assert.deepEqual(tables, { volumes: [], attached: [], violations: [] }, name);
    }
    assert.deepEqual(judge(plugins.journal(), RUNGS), []);
    await before.assertClean();
  });
}
