import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { chmodSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../../src/errors.ts';
import { identify } from '../../../src/process-identity.ts';
import { runProgram } from '../../../src/run-program.ts';
import { readUsage } from '../../../src/runtime/cgroup-usage.ts';
import { ExecutableError } from '../../../src/runtime/launcher.ts';
import { cleanup } from '../../support/cleanup.ts';
import { missing } from '../../support/needs.ts';
import { assertGone, cgroupsOf, collected, LauncherFixture, within } from './launcher-fixture.ts';

for (const runtime of ['crun', 'runc'] as const) {
  describe(`OciLauncher with ${runtime}`, { skip: missing('root', 'conmon', 'busybox', runtime) }, () => {
    test('reports the exit code of the process', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      assert.equal((await box.shell(t, 'exit 0')).code, 0);
      assert.equal((await box.shell(t, 'exit 3')).code, 3);
      assert.equal((await box.shell(t, 'exit 255')).code, 255);
    });

    test('says 127 for a missing command and 126 for one that cannot be executed, before anything is spawned', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      for (const [name, text, mode] of [
        ['plain', 'text', 0o644],
        ['odd', '\0\u0001odd', 0o755],
        ['script', '#!/bin/nowhere\n', 0o755],
      ] as const) {
        writeFileSync(join(box.rootfs, 'bin', name), text);
        chmodSync(join(box.rootfs, 'bin', name), mode);
      }
      const expected = {
        nonesuch: 127,
        '/bin/nonesuch': 127,
        '/bin/script': 127,
        plain: 126,
        '/bin/odd': 126,
        '/etc': 126,
      };
      for (const [command, code] of Object.entries(expected)) {
        const id = box.id(t);
        const creating = box.launcher.create(id, await box.contribution(id, [command]), within());
        await assert.rejects(creating, (error) => error instanceof ExecutableError && error.exitCode === code, command);
        assertGone(box, id);
      }
    });

    test('keeps stdout and stderr apart, byte for byte', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const output = await box.shell(t, 'printf "out without end"; printf "err\\n\\nlast\\r" >&2');
      assert.equal(output.stdout.toString(), 'out without end');
      assert.equal(output.stderr.toString(), 'err\n\nlast\r');
    });

    test('carries binary output and lines longer than any buffer', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const script = 'head -c 1000000 /dev/urandom | tee /sum; head -c 300000 /dev/zero >&2';
      const { stdout, stderr } = await box.shell(t, script);
      const written = readFileSync(join(box.rootfs, 'sum'));
      assert.equal(stdout.length, 1_000_000);
      assert.equal(sha256(stdout), sha256(written));
      assert.ok(stderr.equals(Buffer.alloc(300_000)));
    });

    test('gives out everything though the container is destroyed and removed meanwhile', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      await box.launcher.create(id, await box.contribution(id, ['/bin/seq', '1', '20000']), within());
      const logs = await box.launcher.openLogs(id, { follow: true }, within());
      await box.launcher.start(id, within());
      await box.launcher.wait(id, within());
      await box.launcher.destroy(id, within());
      await box.launcher.remove(id);
      const { stdout } = await collected(logs);
      assert.equal(stdout.toString().split('\n').length, 20_001);
      const later = await collected(await box.launcher.openLogs(id, { follow: true }, within()));
      assert.equal(later.stdout.length, 0, 'what is not there is not waited for');
    });

    test('unlinks notes of crun itself, and has the runtime delete any other state', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const verbs: string[] = [];
      const launcher = box.another((program, signal) => {
        verbs.push(program.args.at(-2) ?? '');
        return runProgram(program, signal);
      });
      cleanup(t, () => launcher.close());
      for (const extra of [undefined, 'unknown']) {
        const id = box.id(t);
        await launcher.create(id, await box.contribution(id, ['/bin/true']), within());
        await launcher.start(id, within());
        await launcher.wait(id, within());
        if (extra !== undefined) writeFileSync(join(box.dir, 'run/oci', id, extra), '');
        verbs.length = 0;
        await launcher.destroy(id, within());
        assert.deepEqual(verbs, runtime === 'crun' && extra === undefined ? [] : ['delete']);
        assertGone(box, id);
      }
    });

    test('keeps the log from run to run', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      for (const word of ['first', 'second']) {
        await box.start(id, ['/bin/echo', word]);
        assert.equal((await box.launcher.wait(id, within())).code, 0);
        await box.launcher.destroy(id, within());
      }
      const all = await collected(await box.launcher.openLogs(id, { follow: false }, within()));
      assert.equal(all.stdout.toString(), 'first\nsecond\n');
      const last = await collected(await box.launcher.openLogs(id, { follow: false, tailLines: 1 }, within()));
      assert.equal(last.stdout.toString(), 'second\n');
    });

    test('passes signals on: 143 for one that is handled by its default, 137 for SIGKILL', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const handled = await startedShell(t, box, 'trap "exit 143" TERM; echo ready; while :; do sleep 0.05; done');
      await box.launcher.kill(handled, 'SIGTERM', within());
      assert.equal((await box.launcher.wait(handled, within())).code, 143);
      const deaf = await startedShell(t, box, 'echo ready; sleep 1000');
      await box.launcher.kill(deaf, 'SIGKILL', within());
      assert.equal((await box.launcher.wait(deaf, within())).code, 137);
      await box.launcher.kill(deaf, 'SIGTERM', within());
      await assert.rejects(box.launcher.kill('0'.repeat(32), 'SIGTERM', within()), hasCode('NOT_FOUND'));
    });

    test('terminate ends every process, children of the shell included', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = await startedShell(t, box, 'sleep 1000 & (setsid sleep 1001 &) ; sleep 0.1; echo ready; sleep 1002');
      const pids = pidsOf(id);
      assert.equal(pids.length, 3);
      await box.launcher.terminate(id, within());
      assert.deepEqual(pidsOf(id), []);
      assert.deepEqual(
        pids.filter((pid) => identify(pid) !== undefined),
        [],
      );
      assert.equal((await box.launcher.wait(id, within())).code, 137);
    });

    test('destroy leaves nothing behind and may be called again', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const { id } = await box.shell(t, 'true');
      assert.notDeepEqual(cgroupsOf(id), []);
      await box.launcher.destroy(id, within());
      assertGone(box, id);
      await box.launcher.destroy(id, within());
      await box.launcher.destroy('f'.repeat(32), within());
    });

    test('destroys a container that was created and never started', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      const init = await box.launcher.create(id, await box.contribution(id, ['/bin/true']), within());
      assert.deepEqual(identify(init.pid), init);
      await box.launcher.destroy(id, within());
      assertGone(box, id);
    });

    test('an aborted create leaves only what destroy removes', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      for (const afterMs of [2, 8, 15, 22, 30, 38]) {
        const id = box.id(t);
        const creating = box.launcher.create(
          id,
          await box.contribution(id, ['/bin/true']),
          AbortSignal.timeout(afterMs),
        );
        await creating.catch(() => undefined);
        await box.launcher.destroy(id, within());
        assertGone(box, id);
      }
    });

    test('reports why the runtime refused', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      const mounts = [{ destination: '/mnt', type: 'no-such-fs', source: 'none', options: [] }];
      const creating = box.launcher.create(id, await box.contribution(id, ['/bin/true'], { mounts }), within());
      await assert.rejects(creating, (error) => {
        assert.ok(error instanceof RuntimeError && error.code === 'FAILED_PRECONDITION');
        assert.match(error.message, /no such device/i);
        assert.doesNotMatch(error.message, /"level"/);
        return true;
      });
      await box.launcher.destroy(id, within());
      assertGone(box, id);
    });

    test('limits show in the kernel, and so does usage', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const resources = { memoryBytes: 64 * 1024 * 1024, cpuMillis: 500, pidsLimit: 20 };
      const id = await startedShell(t, box, 'sleep 1000 & echo ready; wait', { resources });
      const usage = readUsage(`/${box.cgroupParent}/${id}`);
      assert.equal(usage.memoryLimitBytes, resources.memoryBytes);
      assert.equal(usage.pids, 2);
      assert.ok((usage.memoryBytes ?? 0) > 0 && (usage.cpuUsageNanos ?? 0n) > 0n);
      assert.equal(cgroupFile(id, 'pids.max'), '20');
      const quota = cgroupFile(id, 'cpu.cfs_quota_us') ?? cgroupFile(id, 'cpu.max')?.split(' ')[0];
      assert.equal(quota, '50000');
    });

    test('tells an OOM kill from other ends', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const resources = { memoryBytes: 16 * 1024 * 1024 };
      // A shell variable that grows is memory of init itself.
      const killed = await box.run(t, ['/bin/busybox', 'tail', '/dev/zero'], { resources });
      assert.deepEqual([killed.code, killed.oomKilled], [137, true]);
      assert.equal((await box.shell(t, 'exit 1', { resources })).oomKilled, false);
    });

    test('defaults are hardened, seen from inside', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const { stdout } = await box.shell(t, 'cat /proc/self/status; cat /proc/1/oom_score_adj');
      const status = Object.fromEntries(
        stdout
          .toString()
          .split('\n')
          .map((line) => line.split(/:\s*/, 2)),
      );
      assert.equal(status['Seccomp'], '2');
      assert.equal(status['NoNewPrivs'], '1');
      assert.equal(status['CapInh'], '0000000000000000');
      assert.equal(status['CapAmb'], '0000000000000000');
      // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, setfcap.
      assert.equal(status['CapEff'], '00000000800405fb');
      assert.equal(status['CapEff'], status['CapBnd']);
      const outcome = await box.shell(
        t,
        [
          'for path in /proc/kcore /proc/keys /proc/timer_list; do [ ! -e $path ] || [ $(wc -c <$path) = 0 ] || echo "reads $path"; done',
          'ls /sys/firmware | head -1',
          'for path in /proc/sys/kernel/domainname /proc/sysrq-trigger; do (echo x >$path) 2>/dev/null && echo "writes $path"; done',
          'mknod /tmp/disk b 254 0 2>/dev/null && echo "made a disk node"',
          'mount -t tmpfs none /mnt 2>/dev/null && echo mounted',
          'unshare -U true 2>/dev/null && echo "made a user namespace"',
          'mkdir /sys/fs/cgroup/memory/x 2>/dev/null && echo "writes cgroups"',
          'true',
        ].join('\n'),
      );
      assert.equal(outcome.stdout.toString() + outcome.stderr.toString(), '');
      assert.equal(outcome.code, 0);
    });

    test('the process has descriptors 0 to 2, exactly the environment asked for, and a stdin at its end', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const env = ['PATH=/bin', 'HOME=/nowhere', 'EMPTY=', 'WORDS=a b=c', 'LATER=1', 'LATER=2'];
      const id = box.id(t);
      await box.launcher.create(id, await box.contribution(id, ['/bin/sleep', '1000'], { process: { env } }), within());
      await box.launcher.start(id, within());
      const [init] = pidsOf(id);
      await untilExec(`/proc/${init}/cmdline`, 'sleep');
      assert.deepEqual(readdirSync(`/proc/${init}/fd`).sort(), ['0', '1', '2']);
      assert.equal(readlinkSync(`/proc/${init}/fd/0`), '/dev/null');
      const seen = readFileSync(`/proc/${init}/environ`, 'utf8').split('\0').filter(Boolean);
      assert.deepEqual(seen.sort(), ['EMPTY=', 'HOME=/nowhere', 'LATER=2', 'PATH=/bin', 'WORDS=a b=c']);
    });

    test('arguments arrive as they are', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const words = ['--help', '-v', 'a b', '"; rm -rf /', '', '$(id)', 'ünï\ncode', '--'];
      const { stdout } = await box.run(t, ['/bin/sh', '-c', 'for word; do printf "%s|" "$word"; done', 'sh', ...words]);
      assert.equal(stdout.toString(), `${words.join('|')}|`);
    });

    test('only device nodes that were asked for can be used', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const node = { path: '/dev/entropy', type: 'c' as const, major: 1, minor: 9, fileMode: 0o600, uid: 0, gid: 0 };
      const { stdout } = await box.shell(t, 'head -c 4 /dev/entropy | wc -c; head -c 4 /dev/zero | wc -c', {
        devices: [{ ...node, access: 'r' }],
      });
      assert.equal(stdout.toString(), '4\n4\n');
      // A node can be made with CAP_MKNOD; /dev/loop-control, which every host with loop devices lets root open, stays shut.
      const script = 'mknod /dev/other c 10 237 && { (: </dev/other) 2>/dev/null && echo opened || echo refused; }';
      const other = await box.shell(t, script, { capabilities: ['CAP_MKNOD', 'CAP_SYS_ADMIN', 'CAP_DAC_OVERRIDE'] });
      assert.equal(other.stdout.toString(), 'refused\n', other.stderr.toString());
    });

    test('refuses a log path that is a link, and leaves what it leads to alone', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      await box.launcher.recover();
      const canary = join(box.dir, 'canary');
      writeFileSync(canary, 'untouched');
      symlinkSync(canary, join(box.dir, 'root/logs', `${id}.log`));
      const creating = box.launcher.create(id, await box.contribution(id, ['/bin/echo', 'x']), within());
      await assert.rejects(creating, hasCode('FAILED_PRECONDITION'));
      await assert.rejects(box.launcher.openLogs(id, { follow: false }, within()), hasCode('FAILED_PRECONDITION'));
      assert.equal(readFileSync(canary, 'utf8'), 'untouched');
      assertGone(box, id);
    });

    test('refuses a working directory that leads into /proc through links of the image', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      symlinkSync('../proc/self/fd/7', join(box.rootfs, 'home/work'));
      symlinkSync('/home/work', join(box.rootfs, 'work'));
      const id = box.id(t);
      const change = { process: { cwd: '/work' } };
      const creating = box.launcher.create(id, await box.contribution(id, ['/bin/true'], change), within());
      await assert.rejects(creating, hasCode('INVALID_ARGUMENT'));
      assertGone(box, id);
    });

    test('its files are for root only', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = await startedShell(t, box, 'echo ready; sleep 1000');
      const modes = ['run/bundles', 'run/exits', 'run/oci', 'root/logs', `run/bundles/${id}`].map(
        (path) => statSync(join(box.dir, path)).mode & 0o077,
      );
      assert.deepEqual(modes, [0, 0, 0, 0, 0]);
      assert.equal(statSync(join(box.dir, 'root/logs', `${id}.log`)).mode & 0o777, 0o600);
    });
  });
}

/** Starts a shell and waits until it says "ready". */
async function startedShell(
  t: Parameters<typeof cleanup>[0],
  box: LauncherFixture,
  script: string,
  change: Parameters<LauncherFixture['start']>[2] = {},
): Promise<string> {
  const id = box.id(t);
  await box.start(id, ['/bin/sh', '-c', script], change);
  for await (const { data } of await box.launcher.openLogs(id, { follow: true }, within())) {
    if (Buffer.from(data).includes('ready')) return id;
  }
  throw new Error('the shell ended before it was ready');
}

/** Pids of a container, init first. */
function pidsOf(id: string): number[] {
  const pids = cgroupsOf(id).flatMap((path) => readFileSync(join(path, 'cgroup.procs'), 'utf8').split('\n'));
  return [...new Set(pids.filter((pid) => pid !== '').map(Number))].sort((a, b) => a - b);
}

function cgroupFile(id: string, name: string): string | undefined {
  const directory = cgroupsOf(id).find((path) => readdirSync(path).includes(name));
  return directory === undefined ? undefined : readFileSync(join(directory, name), 'utf8').trim();
}

/** The runtime's own process becomes the command by exec a moment after start returned. */
async function untilExec(path: string, word: string): Promise<void> {
  const end = Date.now() + 5000;
  while (!readFileSync(path, 'utf8').startsWith(`/bin/${word}`)) {
    if (Date.now() > end) throw new Error(`${path} never became ${word}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function hasCode(code: string): (error: unknown) => boolean {
  return (error) => error instanceof RuntimeError && error.code === code;
}

function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}
