/** The daemon itself: start, shut-down, version, info, doctor, one daemon a place, secrets. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { identify, isAlive } from '../../src/process-identity.ts';
import { startDaemon } from '../support/daemon.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';
const MAIN = new URL('../../src/main.ts', import.meta.url).pathname;

test('berthd', async (t) => {
  if (!needs(t, 'root', 'conmon', 'cni', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);

  await t.test('tells its version, what it chose, and what the host lacks', async () => {
    const version = JSON.parse(await daemon.ok(['version', '--format', 'json']));
    assert.match(JSON.stringify(version), /"0\.1\.0"/);
    const info = await daemon.ok(['info', '--format', 'json']);
    for (const fact of [daemon.root, daemon.run, daemon.cgroupParent]) assert.ok(info.includes(fact), info);
    const doctor = await daemon.cli(['doctor', '--format', 'json']);
    const checks: { area: string; name: string; state: string; detail: string; remedy?: string }[] = JSON.parse(
      doctor.stdout,
    );
    const areas = new Set(checks.map((check) => check.area));
    for (const area of ['runtime', 'cgroups', 'kernel', 'network', 'volumes']) assert.ok(areas.has(area), area);
    for (const check of checks) {
      assert.ok(['ok', 'warn', 'fail'].includes(check.state), JSON.stringify(check));
      if (check.state === 'fail') assert.ok(check.remedy, `${check.name} says how to mend it`);
    }
    assert.ok(
      checks.some((check) => check.detail.includes('local.csi.berth') || check.name.includes('local.csi.berth')),
    );
    const table = await daemon.cli(['doctor']);
    assert.match(table.stdout, /runtime/);
  });

  await t.test('keeps its directories and its socket to root', () => {
    assert.equal(statSync(daemon.root).mode & 0o777, 0o700);
    assert.equal(statSync(daemon.run).mode & 0o077 & 0o066, 0);
    assert.equal(statSync(daemon.socketPath).mode & 0o777, 0o600);
    assert.equal(statSync(join(daemon.root, 'berth.db')).mode & 0o777, 0o600);
  });

  await t.test('leaves containers running on SIGTERM, ends with 0, and finds them again', async () => {
    const id = await daemon.api.start({ name: 'stays', image: IMAGE, command: ['sleep', '1000'] });
    const { pid } = await daemon.api.containers.call('Inspect', { ref: id });
    const init = identify(Number(pid));
    assert.ok(init);
    const waiting = daemon.cli(['wait', 'stays']);
    assert.equal(await daemon.kill('SIGTERM'), 0);
    assert.notEqual((await waiting).code, 0, 'who waits is told');
    assert.ok(isAlive(init));
    const down = await daemon.cli(['ps']);
    assert.equal(down.code, 1);
    assert.match(down.stderr, /berthd/);
    await daemon.start();
    assert.equal(await daemon.ok(['kill', 'stays']), 'stays');
    assert.equal(await daemon.ok(['wait', 'stays']), '137');
    await daemon.ok(['rm', 'stays']);
  });

  await t.test('reads the exit code of a container that ended while it was down', async () => {
    const command = ['sh', '-c', 'while [ ! -e /flag/go ]; do sleep 0.05; done; echo last words; exit 9'];
    const mounts = [{ hostPath: join(daemon.dir, 'net.d'), target: '/flag' }];
    await daemon.api.start({ name: 'ends', image: IMAGE, command, mounts, networks: ['none'] });
    const { pid } = await daemon.api.containers.call('Inspect', { ref: 'ends' });
    const init = identify(Number(pid));
    assert.ok(init);
    await daemon.kill('SIGKILL');
    writeFileSync(join(daemon.confDir, 'go'), '');
    while (isAlive(init)) await new Promise((resolve) => setTimeout(resolve, 20));
    await daemon.start();
    assert.equal(await daemon.ok(['wait', 'ends']), '9');
    assert.equal(await daemon.ok(['logs', 'ends']), 'last words');
    await daemon.ok(['rm', 'ends']);
  });

  await t.test('refuses a place that another berthd has', async () => {
    const args = [MAIN, '--root', daemon.root, '--run', daemon.run, '--no-csi-local-driver'];
    const second = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    const [said, [code]] = await Promise.all([text(second.stderr), once(second, 'close')]);
    assert.equal(code, 1);
    assert.ok(said.includes(String(daemon.pid)), said);
  });

  await t.test('keeps what is in the environment of a container out of logs and arguments (K24)', async () => {
    const secret = 'correct-horse-battery-staple';
    const spec = { name: 'secretive', image: IMAGE, command: ['sleep', '1000'], env: [`TOKEN=${secret}`] };
    await daemon.api.start({ ...spec, networks: ['none'] });
    const arguments_ = readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
      .map((name) => readIfThere(`/proc/${name}/cmdline`));
    assert.ok(!arguments_.some((line) => line.includes(secret)));
    assert.ok(!JSON.stringify(daemon.lines).includes(secret));
    await daemon.ok(['rm', '-f', 'secretive']);
  });

  await t.test('refuses to start on a socket path that is a symlink, and touches nothing (K25)', async () => {
    await daemon.kill('SIGTERM');
    const canary = join(daemon.dir, 'canary');
    writeFileSync(canary, 'untouched');
    symlinkSync(canary, daemon.socketPath);
    const args = [MAIN, '--root', daemon.root, '--run', daemon.run, '--cni-conf-dir', daemon.confDir];
    const attempt = spawn(process.execPath, [...args, '--cgroup-parent', daemon.cgroupParent], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const [said, [code]] = await Promise.all([text(attempt.stderr), once(attempt, 'close')]);
    assert.equal(code, 1, said);
    assert.equal(readFileSync(canary, 'utf8'), 'untouched');
    unlinkSync(daemon.socketPath);
    await daemon.start();
  });
});

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
