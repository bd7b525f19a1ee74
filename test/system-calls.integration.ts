import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { NetworkNamespaces } from '../src/cni/netns.ts';
import { mountsBelow } from '../src/mountinfo.ts';
import { SystemCalls } from '../src/system-calls.ts';
import { cleanup, type TestScope } from './support/cleanup.ts';
import { tempDir } from './support/temp-dir.ts';

const soon = (): AbortSignal => AbortSignal.timeout(20_000);

function callsOf(t: TestScope): SystemCalls {
  const calls = new SystemCalls({ log: pino({ level: 'silent' }) });
  cleanup(t, () => calls.close());
  return calls;
}

/** Namespaces whose programs are counted. */
async function namespacesOf(t: TestScope, calls: SystemCalls | undefined): Promise<NetworkNamespaces> {
  const systemCall = calls === undefined ? undefined : calls.perform.bind(calls);
  const run = async () => {
    throw new Error('a program was started');
  };
  const tools = calls === undefined ? {} : { run, systemCall };
  const namespaces = new NetworkNamespaces(join(await tempDir(t), 'netns'), tools);
  const plain = new NetworkNamespaces(join(namespaces.path('x'), '..'));
  cleanup(t, () => Promise.all(plain.list().map((id) => plain.remove(id, soon()))));
  return namespaces;
}

function inside(path: string, ...command: readonly string[]): string {
  return execFileSync('nsenter', [`--net=${path}`, ...command], { encoding: 'utf8' });
}

for (const how of ['system calls', 'programs'] as const) {
  describe(`a network namespace by ${how}`, () => {
    test('is another one, with loopback up and its settings, and goes without a trace', async (t) => {
      const namespaces = await namespacesOf(t, how === 'system calls' ? callsOf(t) : undefined);
      const own = readlinkSync('/proc/self/ns/net');
      const path = await namespaces.create('one', soon());
      assert.ok(namespaces.exists('one'));
      assert.notEqual(statSync(path).ino, Number(/\[(\d+)\]/.exec(own)?.[1]));
      assert.match(inside(path, 'ip', 'addr', 'show', 'lo'), /LOOPBACK,UP[\s\S]*inet 127\.0\.0\.1\/8/);
      assert.equal(inside(path, 'cat', '/proc/sys/net/ipv4/ping_group_range').trim(), '0\t2147483647');
      assert.equal(inside(path, 'cat', '/proc/sys/net/ipv6/conf/default/accept_ra').trim(), '0');
      assert.equal(inside(path, 'cat', '/proc/sys/net/ipv4/ip_unprivileged_port_start').trim(), '0');
      await assert.rejects(namespaces.create('one', soon()), { code: 'ALREADY_EXISTS' });
      await namespaces.remove('one', soon());
      assert.deepEqual(namespaces.list(), []);
      assert.deepEqual(mountsBelow(path), []);
      await namespaces.remove('one', soon());
    });
  });
}

test('every thread of this process stays in its own network namespace', async (t) => {
  const namespaces = await namespacesOf(t, callsOf(t));
  const own = readlinkSync('/proc/self/ns/net');
  await Promise.all(['a', 'b', 'c'].map((id) => namespaces.create(id, soon())));
  const threads = execFileSync('sh', ['-c', `readlink /proc/${process.pid}/task/*/ns/net | sort -u`]);
  assert.equal(threads.toString().trim(), own);
  const inodes = new Set(['a', 'b', 'c'].map((id) => statSync(namespaces.path(id)).ino));
  assert.equal(inodes.size, 3);
});

test('an overlay is mounted without device nodes and unmounted, at once or lazily', async (t) => {
  const [calls, dir] = [callsOf(t), await tempDir(t)];
  for (const name of ['lower', 'upper', 'work', 'merged']) mkdirSync(join(dir, name));
  writeFileSync(join(dir, 'lower/file'), 'below');
  const target = join(dir, 'merged');
  const data = `lowerdir=${dir}/lower,upperdir=${dir}/upper,workdir=${dir}/work`;
  cleanup(t, () => {
    for (const mount of mountsBelow(target)) execFileSync('umount', ['-l', mount.mountPoint]);
  });
  for (const lazy of [false, true]) {
    assert.equal(await calls.perform({ kind: 'mountOverlay', target, data }, soon()), true);
    assert.equal(readFileSync(join(target, 'file'), 'utf8'), 'below');
    assert.ok(mountsBelow(target)[0]?.options.includes('nodev'));
    assert.equal(await calls.perform({ kind: 'unmount', path: target, lazy }, soon()), true);
    assert.deepEqual(mountsBelow(target), []);
  }
});

test('a failure names the call, the place and the reason', async (t) => {
  const [calls, dir] = [callsOf(t), await tempDir(t)];
  await assert.rejects(calls.perform({ kind: 'unmount', path: join(dir, 'none'), lazy: false }, soon()), {
    code: 'NOT_FOUND',
    message: `unmount ${dir}/none: umount2: ENOENT`,
  });
  await assert.rejects(calls.perform({ kind: 'mountOverlay', target: dir, data: 'lowerdir=/none' }, soon()), {
    message: new RegExp(`^mount overlay on ${dir}: mount: E`),
  });
});

test('who gives up learns that nothing was begun, or that the outcome is unknown', async (t) => {
  const [calls, dir] = [callsOf(t), await tempDir(t)];
  const gone = AbortSignal.abort(new Error('no longer wanted'));
  await assert.rejects(calls.perform({ kind: 'unmount', path: dir, lazy: true }, gone), /not begun/);
  const controller = new AbortController();
  const [first, second] = [1, 2].map(() =>
    calls.perform({ kind: 'unmount', path: dir, lazy: true }, controller.signal),
  );
  controller.abort(new Error('no longer wanted'));
  await assert.rejects(first ?? Promise.resolve(), /outcome is unknown/);
  await assert.rejects(second ?? Promise.resolve(), /not begun/);
  // What nobody waits for any more answers for itself only.
  await assert.rejects(calls.perform({ kind: 'unmount', path: `${dir}/x`, lazy: true }, soon()), /x: umount2: ENOENT/);
});

test('after the threads have ended a program is due', async (t) => {
  const calls = callsOf(t);
  await calls.close();
  assert.equal(await calls.perform({ kind: 'unmount', path: '/none', lazy: false }, soon()), false);
});
