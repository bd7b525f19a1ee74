/** Containers through the real command line, daemon, runtime and kernel (docs/cli.md). */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type TestContext, test } from 'node:test';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';
/** A container without network starts faster. */
const QUICK = ['run', '--rm', '--network', 'none'];

async function daemonWithImage(t: TestContext): Promise<Daemon> {
  const daemon = await startDaemon(t, { volumes: false });
  await daemon.importBusybox(IMAGE);
  return daemon;
}

/** Value of a key in /proc/PID/status. */
function statusField(text: string, key: string): string {
  return new RegExp(`^${key}:\\s*(.*)$`, 'm').exec(text)?.[1] ?? '';
}

interface Listed {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly pid: number | null;
}

async function listed(daemon: Daemon, ...flags: string[]): Promise<Listed[]> {
  return JSON.parse(await daemon.ok(['ps', ...flags, '--format', 'json']));
}

test('berth run', async (t) => {
  if (!needs(t, 'root', 'conmon', 'cni', 'busybox', 'overlayfs')) return;
  const daemon = await daemonWithImage(t);
  const before = daemon.oracle();

  await t.test('gives out stdout and stderr byte for byte and exits with the code of the container', async () => {
    const script = 'printf "out\\n\\001tail"; printf "err" >&2; exit 7';
    const { code, stdout, stderr } = await daemon.cli([...QUICK, IMAGE, '--', 'sh', '-c', script]);
    assert.deepEqual({ code, stdout, stderr }, { code: 7, stdout: 'out\n\u0001tail', stderr: 'err' });
  });

  await t.test('passes arguments and environment as they are, and nothing else of the host', async () => {
    const odd = ['a b', '--help', "it's", '$HOME', '', 'x\ny'];
    const shown = await daemon.ok([
      ...QUICK,
      IMAGE,
      '--',
      'sh',
      '-c',
      'for a; do printf "<%s>" "$a"; done',
      'sh',
      ...odd,
    ]);
    assert.equal(shown, odd.map((word) => `<${word}>`).join(''));
    const env = await daemon.ok([...QUICK, '-e', 'COLOUR=deep blue', '-e', 'EMPTY=', IMAGE, '--', 'env']);
    const names = env.split('\n').map((line) => line.split('=')[0]);
    assert.deepEqual(names.toSorted(), ['COLOUR', 'EMPTY', 'HOME', 'HOSTNAME', 'PATH']);
    assert.ok(env.includes('COLOUR=deep blue'));
  });

  await t.test(
    'tells 127 for a command that is not there, 126 for one that cannot be executed, 125 for its own failure',
    async () => {
      const missing = await daemon.cli([...QUICK, IMAGE, '--', 'nosuch']);
      assert.equal(missing.code, 127);
      assert.match(missing.stderr, /nosuch/);
      const denied = await daemon.cli([...QUICK, IMAGE, '--', '/etc/passwd']);
      assert.equal(denied.code, 126);
      const image = await daemon.cli([...QUICK, 'nosuch:1', '--', 'true']);
      assert.equal(image.code, 125);
      assert.match(image.stderr, /nosuch:1/);
      const usage = await daemon.cli(['run', '--no-such-flag', IMAGE]);
      assert.equal(usage.code, 125);
    },
  );

  await t.test('sets working directory, user, entrypoint, hostname and labels', async () => {
    const flags = ['-w', '/made/here', '-u', '1000:1001', '--hostname', 'somewhere', '--entrypoint', '/bin/sh'];
    const script = 'pwd; id -u; id -g; hostname';
    const shown = await daemon.ok([...QUICK, ...flags, IMAGE, '--', '-c', script]);
    assert.equal(shown, '/made/here\n1000\n1001\nsomewhere');
    const name = 'labelled';
    await daemon.ok(['create', '--name', name, '--label', 'tier=front', '--label', 'empty', IMAGE, '--', 'true']);
    const [inspected] = JSON.parse(await daemon.ok(['inspect', name]));
    assert.deepEqual(inspected.labels ?? inspected.spec.labels, { tier: 'front', empty: '' });
    await daemon.ok(['rm', name]);
  });

  await t.test('is hardened unless told otherwise', async () => {
    const status = await daemon.ok([...QUICK, IMAGE, '--', 'cat', '/proc/self/status']);
    assert.equal(statusField(status, 'Seccomp'), '2');
    assert.equal(statusField(status, 'NoNewPrivs'), '1');
    assert.equal(BigInt(`0x${statusField(status, 'CapInh')}`), 0n);
    assert.equal(BigInt(`0x${statusField(status, 'CapAmb')}`), 0n);
    const netRaw = 1n << 13n;
    const effective = BigInt(`0x${statusField(status, 'CapEff')}`);
    assert.equal(effective & netRaw, 0n, 'NET_RAW is not given');
    const writes =
      'for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/profiling; do (echo 1 > $f) 2>/dev/null && echo $f; done; mknod /tmp/d b 254 0 2>/dev/null && dd if=/tmp/d of=/dev/null count=1 2>/dev/null && echo device; ls /proc/self/fd | tr "\\n" " "; :';
    // ls itself opens the directory as 3.
    assert.equal(await daemon.ok([...QUICK, IMAGE, '--', 'sh', '-c', writes]), '0 1 2 3 ');
  });

  await t.test('adds and drops capabilities', async () => {
    const script = ['--', 'cat', '/proc/self/status'];
    const bare = await daemon.ok([...QUICK, '--cap-drop', 'ALL', IMAGE, ...script]);
    assert.equal(BigInt(`0x${statusField(bare, 'CapBnd')}`), 0n);
    const raw = await daemon.ok([...QUICK, '--cap-drop', 'all', '--cap-add', 'NET_RAW', IMAGE, ...script]);
    assert.equal(BigInt(`0x${statusField(raw, 'CapEff')}`), 1n << 13n);
  });

  await t.test('limits memory, CPU and processes, seen by the kernel', async () => {
    const flags = ['-m', '48m', '--cpus', '0.5', '--pids-limit', '20'];
    const script =
      'cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us pids/pids.max 2>/dev/null || cat memory.max cpu.max pids.max';
    const shown = await daemon.ok([...QUICK, ...flags, IMAGE, '--', 'sh', '-c', script]);
    const [memory, quota, period, pids] = shown.split(/\s+/).map(Number);
    assert.equal(memory, 48 * 1024 * 1024);
    assert.equal((quota ?? 0) / (period ?? 1), 0.5);
    assert.equal(pids, 20);
  });

  await t.test('keeps the root file system read-only when asked', async () => {
    const { code, stderr } = await daemon.cli([...QUICK, '--read-only', IMAGE, '--', 'touch', '/x']);
    assert.notEqual(code, 0);
    assert.match(stderr, /read-only/i);
  });

  await t.test('binds host directories, writable and read-only', async () => {
    const dir = join(daemon.dir, 'shared');
    mkdirSync(dir);
    writeFileSync(join(dir, 'from-host'), 'hello');
    const script = 'cat /w/from-host; echo back > /w/from-container; touch /r/x 2>/dev/null || echo " read-only"';
    const mounts = ['-v', `${dir}:/w`, '-v', `${dir}:/r:ro`];
    assert.equal(await daemon.ok([...QUICK, ...mounts, IMAGE, '--', 'sh', '-c', script]), 'hello read-only');
    assert.equal(readFileSync(join(dir, 'from-container'), 'utf8'), 'back\n');
  });

  await t.test('passes signals on', async () => {
    const script = 'trap "echo got it; exit 3" INT; echo ready; while :; do sleep 0.1; done';
    const child = daemon.spawnCli([...QUICK, IMAGE, '--', 'sh', '-c', script]);
    const closed = once(child, 'close');
    assert.ok(child.stdout);
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    assert.equal((await lines.next()).value, 'ready');
    child.kill('SIGINT');
    assert.equal((await lines.next()).value, 'got it');
    const [code] = await closed;
    assert.equal(code, 3);
  });

  await before.assertClean();
});

test('create, start, ps, inspect, logs, wait, stop, kill and rm', async (t) => {
  if (!needs(t, 'root', 'conmon', 'cni', 'busybox', 'overlayfs')) return;
  const daemon = await daemonWithImage(t);
  const before = daemon.oracle();

  await t.test('lead a container through its life', async () => {
    const id = await daemon.ok(['create', '--name', 'life', IMAGE, '--', 'sh', '-c', 'echo run; sleep 1000']);
    assert.match(id, /^[0-9a-f]{32}$/);
    assert.deepEqual(await listed(daemon), []);
    assert.equal((await listed(daemon, '-a'))[0]?.state, 'created');
    assert.equal(await daemon.ok(['logs', 'life']), '', 'nothing was written yet');
    await daemon.ok(['start', 'life']);
    const [running] = await listed(daemon);
    assert.equal(running?.state, 'running');
    assert.ok(running?.pid);
    const parent = statusField(readFileSync(`/proc/${running.pid}/status`, 'utf8'), 'PPid');
    assert.equal(readFileSync(`/proc/${parent}/comm`, 'utf8').trim(), 'conmon');
    await daemon.ok(['stop', '-t', '0', 'life']);
    const [stopped] = await listed(daemon, '-a');
    assert.equal(stopped?.state, 'exited');
    assert.equal(stopped?.pid ?? null, null);
    await daemon.ok(['start', id.slice(0, 10)]);
    const refused = await daemon.cli(['rm', 'life']);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /stop/);
    await daemon.ok(['rm', '-f', 'life']);
    assert.deepEqual(await listed(daemon, '-a'), []);
    assert.equal((await daemon.cli(['inspect', 'life'])).code, 1);
  });

  await t.test('keep the writable layer from run to run until the container is removed', async () => {
    const script = 'echo x >> /count; wc -l < /count';
    await daemon.ok(['create', '--name', 'layer', '--network', 'none', IMAGE, '--', 'sh', '-c', script]);
    for (const _ of [1, 2, 3]) {
      await daemon.ok(['start', 'layer']);
      assert.equal(await daemon.ok(['wait', 'layer']), '0');
    }
    assert.equal(await daemon.ok(['logs', 'layer']), '1\n2\n3');
    await daemon.ok(['rm', 'layer']);
  });

  await t.test('wait prints the code, also for a container that was stopped by a signal', async () => {
    await daemon.ok(['run', '-d', '--name', 'waited', '--network', 'none', IMAGE, '--', 'sleep', '1000']);
    const waiting = daemon.ok(['wait', 'waited']);
    await daemon.ok(['kill', '-s', 'KILL', 'waited']);
    assert.equal(await waiting, '137');
    await daemon.ok(['rm', 'waited']);
  });

  await t.test('stats shows what a container uses and may use', async () => {
    const flags = ['-d', '--name', 'measured', '--network', 'none', '-m', '48m'];
    await daemon.ok(['run', ...flags, IMAGE, '--', 'sh', '-c', 'sleep 1000 & wait']);
    const rows: { container: string; memoryBytes: number; memoryLimitBytes: number; pids: number }[] = JSON.parse(
      await daemon.ok(['stats', '--format', 'json']),
    );
    const [row] = rows;
    assert.equal(rows.length, 1);
    assert.deepEqual([row?.container, row?.memoryLimitBytes], ['measured', 48 * 1024 * 1024]);
    assert.ok(row !== undefined && row.memoryBytes > 0 && row.memoryBytes < row.memoryLimitBytes, JSON.stringify(row));
    assert.ok(row.pids >= 1 && row.pids <= 3, JSON.stringify(row));
    await daemon.ok(['rm', '-f', 'measured']);
    assert.equal((await daemon.cli(['stats', 'measured'])).code, 1);
  });

  await t.test('stop asks before it kills', async () => {
    const script = 'trap "echo bye; exit 0" TERM; echo up; while :; do sleep 0.1; done';
    await daemon.ok(['run', '-d', '--name', 'polite', '--network', 'none', IMAGE, '--', 'sh', '-c', script]);
    const logs = daemon.spawnCli(['logs', '-f', 'polite']);
    const closed = once(logs, 'close');
    assert.ok(logs.stdout);
    const lines = createInterface(logs.stdout)[Symbol.asyncIterator]();
    assert.equal((await lines.next()).value, 'up');
    await daemon.ok(['stop', 'polite']);
    assert.equal((await lines.next()).value, 'bye');
    const [code] = await closed;
    assert.equal(code, 0, 'logs -f ends with the container');
    assert.equal(await daemon.ok(['wait', 'polite']), '0');
    await daemon.ok(['rm', 'polite']);
  });

  await t.test('run -d --rm removes the container when it has exited', async () => {
    const id = await daemon.ok(['run', '-d', '--rm', IMAGE, '--', 'sleep', '0.2']);
    const gone = await daemon.line((line) => line['containerId'] === id && line['to'] === 'gone', 20_000);
    assert.ok(gone);
    assert.deepEqual(await listed(daemon, '-a'), []);
  });

  await t.test('refuse a name that is taken, and make one up when there is none', async () => {
    await daemon.ok(['create', '--name', 'taken', IMAGE, '--', 'true']);
    const again = await daemon.cli(['create', '--name', 'taken', IMAGE, '--', 'true']);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /taken/);
    const id = await daemon.ok(['create', IMAGE, '--', 'true']);
    const other = (await listed(daemon, '-a')).find((entry) => entry.id === id);
    assert.match(other?.name ?? '', /^[a-z]/);
    await daemon.ok(['rm', 'taken', id]);
  });

  await before.assertClean();
});
