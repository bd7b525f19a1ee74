/** The embedded driver as a container that a real daemon keeps running: its mounts reach the host and other containers. */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { test } from 'node:test';
import { mountsBelow } from '../../src/mountinfo.ts';
import { signalProcess } from '../../src/process-identity.ts';
import { startDaemon } from '../support/daemon.ts';
import { needs } from '../support/needs.ts';
import { hostProgramMounts, importHostPrograms } from './host-programs-image.ts';
import { DRIVER_MAIN, dropIn, identityOf, isAlive, rows, until, untilRow } from './supervised-host.ts';

const DRIVER = 'local.csi.berth';

test('plugins that the daemon runs as containers', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver'] });
  await daemon.importBusybox();
  const image = await importHostPrograms(t, daemon);
  const data = `${daemon.root}/${DRIVER}`;
  const isReady = ({ name, state }: { name: string; state: string }): boolean => name === DRIVER && state === 'ready';
  const text = (extra = ''): string =>
    [
      `name = "${DRIVER}"`,
      `image = "${image}"`,
      `args = ${JSON.stringify([process.execPath, DRIVER_MAIN, `--data-dir=${data}`, '--node-id={node-id}'])}`,
      `mounts = ${JSON.stringify([...hostProgramMounts(), `${data}:${data}`])}`,
      extra,
    ].join('\n');
  const volumesDir = `${daemon.root}/csi/mounts`;

  await t.test('serve volumes to other containers, and outlive the daemon', async (st) => {
    mkdirSync(data);
    const file = dropIn(st, daemon, 'disk', text('node-id = "node-7"\n'));
    const row = await untilRow(daemon, isReady);
    assert.deepEqual([row.nodeId, row.supervision?.kind, row.supervision?.state], ['node-7', 'container', 'running']);
    const plugin = identityOf(row);
    await daemon.ok(['volume', 'create', 'data', '--size', '64Mi', '--driver', DRIVER]);
    await daemon.ok(['run', '-d', '--name', 'user', '-v', 'data:/data', 'busybox:1', '--', 'sleep', '1000']);
    await daemon.ok(['run', '--rm', '-v', 'data:/data', 'busybox:1', '--', 'sh', '-c', 'echo hello > /data/x']);
    assert.equal(await daemon.ok(['run', '--rm', '-v', 'data:/d', 'busybox:1', '--', 'cat', '/d/x']), 'hello');
    const published = mountsBelow(volumesDir).filter(({ mountPoint }) => mountPoint !== volumesDir);
    assert.ok(
      published.some(({ fsType }) => fsType === 'ext4'),
      JSON.stringify(published),
    );
    // What the plugin sees of the host's root file systems stays inside.
    const rootfs = `${daemon.run}/rootfs`;
    assert.ok(mountsBelow(rootfs).every(({ fsType }) => fsType === 'overlay'));

    await daemon.restart('SIGKILL');
    assert.deepEqual(identityOf(await untilRow(daemon, isReady)), plugin);
    await daemon.restart('SIGTERM');
    const same = await untilRow(daemon, isReady);
    assert.deepEqual([identityOf(same), same.supervision?.restarts], [plugin, 0]);

    // The plugin dies: what it mounted stays, and its successor goes on with it.
    signalProcess(plugin, 'SIGKILL');
    const again = await untilRow(daemon, (one) => isReady(one) && one.supervision?.restarts === 1, 60_000);
    assert.ok(!isAlive(plugin));
    assert.notEqual(identityOf(again).pid, plugin.pid);
    assert.equal(again.supervision?.lastEnd?.exitCode, 137);
    const left = mountsBelow(volumesDir).filter(({ mountPoint }) => mountPoint !== volumesDir);
    assert.deepEqual(
      left.map(({ mountPoint }) => mountPoint),
      published.map(({ mountPoint }) => mountPoint),
    );
    assert.equal(await daemon.ok(['run', '--rm', '-v', 'data:/d', 'busybox:1', '--', 'cat', '/d/x']), 'hello');

    // Its container is removed by hand: the same.
    await daemon.ok(['rm', '-f', 'csi-plugin-disk']);
    await untilRow(daemon, (one) => isReady(one) && (one.supervision?.restarts ?? 0) >= 2, 60_000);
    assert.equal(mountsBelow(volumesDir).filter(({ mountPoint }) => mountPoint !== volumesDir).length, left.length);

    // Its file goes while the volume is in use.
    file.remove();
    const kept = await untilRow(daemon, ({ supervision }) => supervision?.kept !== null);
    assert.match(kept.reason, /^its file is gone; it runs until these volumes are not in use: data$/);
    assert.match(await daemon.ok(['csi', 'logs', 'disk']), /driver listens/);
    await daemon.ok(['rm', '-f', 'user']);
    await until(async () => (await rows(daemon)).length === 0);
    assert.deepEqual(JSON.parse(await daemon.ok(['ps', '-a', '--format', 'json'])), []);
    await until(() => mountsBelow(volumesDir).length === 0);
    dropIn(st, daemon, 'disk', text());
    await untilRow(daemon, isReady);
    await daemon.ok(['volume', 'rm', 'data']);
  });

  await t.test('say why they cannot be started', async (st) => {
    dropIn(st, daemon, 'lost', 'image = "not-there:1"\n');
    const row = await untilRow(daemon, (one) => one.supervision?.name === 'lost' && one.supervision.lastEnd !== null);
    assert.match(row.supervision?.lastEnd?.reason ?? '', /not-there:1/);
    dropIn(st, daemon, 'bare', 'image = "busybox:1"\nargs = ["true"]\nmounts = ["/nonexistent/x:/x"]\n');
    const bare = await untilRow(daemon, (one) => one.supervision?.name === 'bare' && one.supervision.lastEnd !== null);
    assert.match(bare.supervision?.lastEnd?.reason ?? '', /\/nonexistent\/x is not there/);
    await daemon.ok(['create', '--name', 'csi-plugin-taken', 'busybox:1', '--', 'true']);
    dropIn(st, daemon, 'taken', 'image = "busybox:1"\nargs = ["true"]\n');
    const taken = await untilRow(
      daemon,
      (one) => one.supervision?.name === 'taken' && one.supervision.lastEnd !== null,
    );
    assert.match(taken.supervision?.lastEnd?.reason ?? '', /csi-plugin-taken is not the plugin's/);
    await daemon.ok(['rm', 'csi-plugin-taken']);
  });

  await t.test('that do not heed SIGTERM are killed', async (st) => {
    const args = ['/bin/sh', '-c', 'trap "" TERM; echo up; while :; do sleep 1; done'];
    const file = dropIn(st, daemon, 'hung', `image = "busybox:1"\nargs = ${JSON.stringify(args)}\ngrace-seconds = 1\n`);
    await until(async () => (await daemon.cli(['csi', 'logs', 'hung'])).stdout === 'up\n');
    const plugin = identityOf(await untilRow(daemon, ({ supervision }) => supervision?.state === 'running'));
    file.remove();
    await until(async () => (await rows(daemon)).length === 0);
    assert.ok(!isAlive(plugin));
  });
});
