/** CSI volumes through the real command line, daemon and the embedded driver's process (docs/csi.md). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readMounts } from '../../src/mountinfo.ts';
import { LADDER_CALLS } from '../support/csi-message.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { startFakeCsi } from '../support/fake-csi.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';
const QUICK = ['run', '--rm', '--network', 'none'];
const MIB = 1024 * 1024;

interface Listed {
  readonly name: string;
  readonly state: string;
  readonly driver: string;
}

async function volumes(daemon: Daemon): Promise<Listed[]> {
  return JSON.parse(await daemon.ok(['volume', 'ls', '--format', 'json']));
}

async function pluginProcess(daemon: Daemon, name: string): Promise<number> {
  const plugins: { name: string; socket: string; state: string }[] = JSON.parse(
    await daemon.ok(['csi', 'ls', '--format', 'json']),
  );
  const plugin = plugins.find((entry) => entry.name === name);
  assert.equal(plugin?.state, 'ready');
  assert.ok(plugin?.socket.startsWith(daemon.run), plugin?.socket);
  const children = readFileSync(`/proc/${daemon.pid}/task/${daemon.pid}/children`, 'utf8').trim().split(' ');
  const pid = children.find((child) => readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('--data-dir'));
  assert.ok(pid, 'the driver is a process of its own');
  return Number(pid);
}

test('volumes of the embedded driver', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'loop', 'ext4', 'losetup')) return;
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();

  await t.test('keep what one container wrote for the next, and have the size asked for', async () => {
    await daemon.ok(['volume', 'create', 'data', '--size', '64Mi']);
    assert.deepEqual(
      (await volumes(daemon)).map(({ name, state, driver }) => ({ name, state, driver })),
      [{ name: 'data', state: 'created', driver: 'local.csi.berth' }],
    );
    await daemon.ok([...QUICK, '-v', 'data:/data', IMAGE, '--', 'sh', '-c', 'echo kept > /data/file']);
    const script = 'cat /data/file; df -k /data | tail -1';
    const [content, usage = ''] = (
      await daemon.ok([...QUICK, '-v', 'data:/data', IMAGE, '--', 'sh', '-c', script])
    ).split('\n');
    assert.equal(content, 'kept');
    const kibibytes = Number(usage.trim().split(/\s+/)[1]);
    assert.ok(kibibytes > 48 * 1024 && kibibytes <= 64 * 1024, usage);
    const full = await daemon.cli([
      ...QUICK,
      '-v',
      'data:/data',
      IMAGE,
      '--',
      'dd',
      'if=/dev/zero',
      'of=/data/x',
      'bs=1M',
    ]);
    assert.notEqual(full.code, 0);
    assert.match(full.stderr, /no space left/i);
    await daemon.ok(['volume', 'rm', 'data']);
    await before.assertClean();
  });

  await t.test('are read-only where asked, also inside a container that writes elsewhere', async () => {
    await daemon.ok(['volume', 'create', 'ro', '--size', '16Mi']);
    const { code, stderr } = await daemon.cli([...QUICK, '-v', 'ro:/data:ro', IMAGE, '--', 'touch', '/data/x']);
    assert.notEqual(code, 0);
    assert.match(stderr, /read-only/i);
    await daemon.ok(['volume', 'rm', 'ro']);
  });

  await t.test('of access block are a device of exactly that size, and no other device can be used', async () => {
    await daemon.ok(['volume', 'create', 'raw', '--size', '24Mi', '--access', 'block']);
    const script =
      'blockdev --getsize64 /dev/xvdb; printf magic | dd of=/dev/xvdb 2>/dev/null; ls /dev/loop* 2>/dev/null | wc -l';
    const shown = await daemon.ok([...QUICK, '--device', 'raw:/dev/xvdb', IMAGE, '--', 'sh', '-c', script]);
    assert.equal(shown, `${24 * MIB}\n0`);
    const again = await daemon.ok([...QUICK, '--device', 'raw:/dev/sdz', IMAGE, '--', 'head', '-c', '5', '/dev/sdz']);
    assert.equal(again, 'magic');
    await daemon.ok(['volume', 'rm', 'raw']);
  });

  await t.test('are refused where they do not fit, before anything is made', async () => {
    await daemon.ok(['volume', 'create', 'block', '--size', '8Mi', '--access', 'block']);
    await daemon.ok(['volume', 'create', 'files', '--size', '16Mi']);
    const kept = daemon.oracle();
    const wrong: readonly (readonly string[])[] = [
      ['-v', 'block:/data'],
      ['--device', 'files:/dev/xvdb'],
      ['-v', 'nosuch:/data'],
      ['-v', 'files:/proc/x'],
      ['-v', 'files:relative'],
      ['-v', '../x:/data'],
      ['--device', 'block:/etc/passwd'],
      ['--device', 'block:/dev/../etc/x'],
    ];
    for (const flags of wrong) {
      const { code, stderr } = await daemon.cli([...QUICK, ...flags, IMAGE, '--', 'true']);
      assert.equal(code, 125, `${flags.join(' ')}: ${stderr}`);
      await kept.assertClean();
    }
    const taken = await daemon.cli(['volume', 'create', 'files', '--size', '32Mi']);
    assert.equal(taken.code, 1);
    await daemon.ok(['volume', 'create', 'files', '--size', '16Mi']);
    for (const name of ['../x', 'a/b', '-v', '.', '..', '', 'x'.repeat(300)]) {
      assert.notEqual((await daemon.cli(['volume', 'create', '--size', '8Mi', '--', name])).code, 0, name);
    }
    for (const size of ['0', '-1', '1.5', '1x', '9Ei', '']) {
      assert.notEqual((await daemon.cli(['volume', 'create', 'sized', `--size=${size}`])).code, 0, size);
    }
    await kept.assertClean();
    await daemon.ok(['volume', 'rm', 'block', 'files']);
  });

  await t.test('are not removed while a container has them', async () => {
    await daemon.ok(['volume', 'create', 'busy', '--size', '16Mi']);
    await daemon.ok([
      'run',
      '-d',
      '--name',
      'user',
      '--network',
      'none',
      '-v',
      'busy:/data',
      IMAGE,
      '--',
      'sleep',
      '1000',
    ]);
    const [listed] = JSON.parse(await daemon.ok(['ps', '--format', 'json']));
    const [inspected] = JSON.parse(await daemon.ok(['inspect', 'user']));
    const has = [{ volume: 'busy', driver: 'local.csi.berth', target: '/data', readOnly: false }];
    assert.deepEqual([listed.volumes, inspected.volumes], [has, has]);
    const [volume] = JSON.parse(await daemon.ok(['volume', 'inspect', 'busy']));
    assert.deepEqual([volume.state, volume.containers], ['published', [listed.id]]);
    const { code, stderr } = await daemon.cli(['volume', 'rm', 'busy']);
    assert.equal(code, 1);
    assert.match(stderr, /user|[0-9a-f]{12}/);
    assert.ok(
      readMounts().some((mount) => mount.mountPoint.startsWith(daemon.root) || mount.mountPoint.startsWith(daemon.run)),
    );
    await daemon.ok(['rm', '-f', 'user']);
    await daemon.ok(['volume', 'rm', 'busy']);
  });

  await t.test('outlive the driver: it is started again and goes on', async () => {
    await daemon.ok(['volume', 'create', 'tough', '--size', '16Mi']);
    await daemon.ok([
      'run',
      '-d',
      '--name',
      'user',
      '--network',
      'none',
      '-v',
      'tough:/data',
      IMAGE,
      '--',
      'sleep',
      '1000',
    ]);
    process.kill(await pluginProcess(daemon, 'local.csi.berth'), 'SIGKILL');
    await daemon.ok(['rm', '-f', 'user']);
    await daemon.ok([...QUICK, '-v', 'tough:/data', IMAGE, '--', 'touch', '/data/x']);
    await daemon.ok(['volume', 'rm', 'tough']);
  });

  await before.assertClean();
});

test('a plugin whose socket appears in the plugin directory', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'losetup')) return;
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  const fake = await startFakeCsi(t, {
    name: 'fake.csi.test',
    socketPath: join(daemon.run, 'csi', 'fake.sock'),
    backingDir: join(daemon.dir, 'fake'),
    controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'],
    node: ['STAGE_UNSTAGE_VOLUME'],
    publishContext: { device: 'one' },
  });
  await daemon.ok(['volume', 'create', 'far', '--size', '8Mi', '--driver', 'fake.csi.test']);
  await daemon.ok([...QUICK, '-v', 'far:/data', IMAGE, '--', 'touch', '/data/x']);
  await daemon.ok(['volume', 'rm', 'far']);
  assert.deepEqual(fake.volumeCalls(), [...LADDER_CALLS]);
  assert.deepEqual(fake.violations, []);
  assert.ok(fake.isIdle);
});
