/** Snapshots, restores, clones and groups of the embedded driver, with data that real containers write and read. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import type { TestScope } from '../support/cleanup.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { missing, needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';
const skip = missing('root', 'conmon', 'busybox', 'overlayfs', 'loop', 'ext4', 'losetup', 'fsfreeze');

async function withImage(t: TestScope): Promise<Daemon> {
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  return daemon;
}

/** Runs a script in a container that has the volume at /v. */
const sh = (daemon: Daemon, volume: string, script: string): Promise<string> =>
  daemon.ok(['run', '--rm', '--network', 'none', '-v', `${volume}:/v`, IMAGE, '--', 'sh', '-c', script]);

/** A container that has volumes at /v/NAME and runs a script until it is removed. */
async function user(daemon: Daemon, name: string, volumes: readonly string[], script: string): Promise<void> {
  const flags = volumes.flatMap((volume) => ['-v', `${volume}:/v/${volume}`]);
  await daemon.ok(['run', '-d', '--name', name, '--network', 'none', ...flags, IMAGE, '--', 'sh', '-c', script]);
}

async function driverProcess(daemon: Daemon): Promise<number> {
  const children = readFileSync(`/proc/${daemon.pid}/task/${daemon.pid}/children`, 'utf8').trim().split(' ');
  const pid = children.find((child) => readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('--data-dir'));
  assert.ok(pid, 'the driver is a process of its own');
  return Number(pid);
}

/** Waits for what another process does and shows in no other way. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const giveUpAt = performance.now() + 30_000;
  while (!(await condition())) {
    if (performance.now() > giveUpAt) throw new Error('it did not come true');
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe('the embedded driver', { skip }, () => {
  for (const fsType of ['ext4', 'xfs'] as const) {
    test(`keeps what a running container had written, ${fsType}`, async (t) => {
      if (fsType === 'xfs' && !needs(t, 'xfs')) return;
      const daemon = await withImage(t);
      const before = daemon.oracle();
      const size = fsType === 'xfs' ? ['300Mi', '400Mi'] : ['32Mi', '64Mi'];
      await daemon.ok(['volume', 'create', 'data', '--size', size[0] ?? '', '--fs-type', fsType]);
      await user(daemon, 'writer', ['data'], 'echo first > /v/data/note; sleep 1000');
      await until(async () => (await sh(daemon, 'data', 'cat /v/note || true')) === 'first');
      await daemon.ok(['volume', 'snapshot', 'data', '--name', 'monday']);
      await sh(daemon, 'data', 'echo second > /v/note');
      await daemon.ok(['volume', 'create', 'old', '--from-snapshot', 'monday']);
      await daemon.ok(['volume', 'create', 'copy', '--from-volume', 'data', '--size', size[1] ?? '']);
      // All of them are mounted at once.
      assert.equal(await sh(daemon, 'old', 'cat /v/note; echo own > /v/note'), 'first');
      const [note, usage = ''] = (await sh(daemon, 'copy', 'cat /v/note; df -m /v | tail -1')).split('\n');
      assert.equal(note, 'second');
      const mebibytes = Number(usage.trim().split(/\s+/)[1]);
      assert.ok(mebibytes > (fsType === 'xfs' ? 300 : 48), usage);
      assert.equal(await sh(daemon, 'data', 'cat /v/note'), 'second');
      const listed = JSON.parse(await daemon.ok(['snapshot', 'ls', '--all', '--format', 'json']));
      assert.deepEqual(
        listed.map((snapshot: { name: string }) => snapshot.name),
        ['monday'],
      );
      await daemon.ok(['rm', '-f', 'writer']);
      await daemon.ok(['volume', 'rm', 'data']);
      assert.equal(await sh(daemon, 'old', 'cat /v/note'), 'own');
      await daemon.ok(['snapshot', 'rm', 'monday']);
      await daemon.ok(['volume', 'rm', 'old', 'copy']);
      await before.assertClean();
    });
  }

  test('cuts a group of volumes that one container writes', async (t) => {
    const daemon = await withImage(t);
    const before = daemon.oracle();
    for (const name of ['db', 'log']) await daemon.ok(['volume', 'create', name, '--size', '32Mi']);
    const step =
      'echo $i > /v/log/new && sync && mv /v/log/new /v/log/n && echo $i > /v/db/new && sync && mv /v/db/new /v/db/n';
    await user(daemon, 'writer', ['db', 'log'], `i=0; while :; do i=$((i+1)); ${step}; done`);
    await until(async () => (await sh(daemon, 'db', 'cat /v/n || true')) !== '');
    assert.equal(await daemon.ok(['snapshot', 'group', 'create', 'nightly', 'db', 'log']), 'nightly.db\nnightly.log');
    const numbers: number[] = [];
    for (const name of ['db', 'log']) {
      await daemon.ok(['volume', 'create', `${name}-old`, '--from-snapshot', `nightly.${name}`]);
      numbers.push(Number(await sh(daemon, `${name}-old`, 'cat /v/n')));
    }
    const [db = 0, log = 0] = numbers;
    assert.ok(db > 0 && (log === db || log === db + 1), `${db}, ${log}`);
    const alone = await daemon.cli(['snapshot', 'rm', 'nightly.db']);
    assert.match(alone.stderr, /ends with its group nightly only/);
    // The writer never noticed.
    const now = Number(await sh(daemon, 'db', 'cat /v/n'));
    await until(async () => Number(await sh(daemon, 'db', 'cat /v/n')) > now);
    await daemon.ok(['rm', '-f', 'writer']);
    await daemon.ok(['snapshot', 'group', 'rm', 'nightly']);
    await daemon.ok(['volume', 'rm', 'db', 'log', 'db-old', 'log-old']);
    await before.assertClean();
  });

  test('leaves containers at work when it is killed while it cuts', async (t) => {
    const daemon = await withImage(t);
    const before = daemon.oracle();
    await daemon.ok(['volume', 'create', 'data', '--size', '400Mi']);
    await user(
      daemon,
      'writer',
      ['data'],
      'dd if=/dev/urandom of=/v/data/big bs=1M count=300; touch /v/data/done; sleep 1000',
    );
    await until(async () => (await sh(daemon, 'data', 'ls /v')).includes('done'));
    const fresh = `${daemon.root}/local.csi.berth/new`;
    const pid = await driverProcess(daemon);
    const cut = daemon.cli(['volume', 'snapshot', 'data', '--name', 'monday']);
    await until(() => readdirSync(fresh).some((name) => existsSync(`${fresh}/${name}/image`)));
    process.kill(pid, 'SIGKILL');
    assert.equal(await sh(daemon, 'data', 'echo alive > /v/note; cat /v/note'), 'alive');
    const { code } = await cut;
    if (code !== 0) await daemon.ok(['volume', 'snapshot', 'data', '--name', 'monday']);
    await daemon.ok(['volume', 'create', 'old', '--from-snapshot', 'monday']);
    assert.match(await sh(daemon, 'old', 'ls /v'), /big/);
    await daemon.ok(['rm', '-f', 'writer']);
    await daemon.ok(['snapshot', 'rm', 'monday']);
    await daemon.ok(['volume', 'rm', 'data', 'old']);
    assert.deepEqual(readdirSync(fresh), []);
    await before.assertClean();
  });
});
