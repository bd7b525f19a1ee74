import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { inheritedDescriptors } from '../src/inherited-descriptors.ts';
import { posixSpawner } from '../src/posix-spawn.ts';
import type { Program } from '../src/run-program.ts';
import { runProgram } from '../src/run-program.ts';
import { Spawner } from '../src/spawner.ts';
import { startProgram } from '../src/start-program.ts';
import { cleanup, type TestScope } from './support/cleanup.ts';
import { fileAppears } from './support/file-appears.ts';
import { tempDir } from './support/temp-dir.ts';

const FOREVER = new AbortController().signal;
const ENV = { PATH: '/usr/bin:/bin' };

function spawnerOf(t: TestScope): Spawner {
  const spawner = new Spawner({ log: pino({ level: 'silent' }) });
  cleanup(t, () => spawner.close());
  return spawner;
}

function shell(script: string, ...args: readonly string[]): Program {
  return { file: 'sh', args: ['-c', script, 'sh', ...args], env: ENV };
}

/** Runs a script that writes pids to its first argument, and returns them once they are there. */
async function pidsFrom(file: string, start: () => void): Promise<number[]> {
  await fileAppears(file, start);
  return readFileSync(file, 'utf8').trim().split(' ').map(Number);
}

function parentOf(pid: number): number {
  return Number(/^PPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

function dead(pid: number): boolean {
  try {
    return /^State:\s*[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return true;
  }
}

async function untilDead(pids: readonly number[]): Promise<void> {
  const deadline = AbortSignal.timeout(5000);
  while (!pids.every(dead)) await new Promise((resolve) => setTimeout(resolve, 5, deadline.throwIfAborted()));
}

const posixSpawn = await posixSpawner();

for (const where of ['runProgram', 'runProgram by posix_spawn', 'Spawner.run'] as const) {
  describe(where, () => {
    const runnerOf = (t: TestScope) => {
      if (where === 'runProgram') return (program: Program, signal: AbortSignal) => runProgram(program, signal);
      if (where !== 'Spawner.run') {
        return (program: Program, signal: AbortSignal) => runProgram(program, signal, posixSpawn);
      }
      const spawner = spawnerOf(t);
      return (program: Program, signal: AbortSignal) => spawner.run(program, signal);
    };

    test('tells exit code, signal and both streams, and passes input and environment as they are', async (t) => {
      const run = runnerOf(t);
      const program = { ...shell('cat; echo "$X" >&2; exit 3'), env: { ...ENV, X: 'a b' }, input: '{"k":"\u00e9"}' };
      const end = { kind: 'exited', exitCode: 3, signalName: null, stdout: '{"k":"\u00e9"}', stderr: 'a b\n' };
      assert.deepEqual(await run(program, FOREVER), end);
      const killed = await run(shell('kill -9 $$'), FOREVER);
      assert.deepEqual(killed, { kind: 'exited', exitCode: null, signalName: 'SIGKILL', stdout: '', stderr: '' });
    });

    test('tells why a program cannot be started', async (t) => {
      const dir = await tempDir(t);
      writeFileSync(join(dir, 'plain'), '');
      writeFileSync(join(dir, 'open'), '#!/bin/sh\n', { mode: 0o755 });
      const busy = openSync(join(dir, 'open'), 'r+');
      cleanup(t, () => closeSync(busy));
      for (const [file, systemCode] of [
        ['/nonexistent', 'ENOENT'],
        ['nonexistent', 'ENOENT'],
        [join(dir, 'plain'), 'EACCES'],
        [join(dir, 'open'), 'ETXTBSY'],
      ] as const) {
        const end = await runnerOf(t)({ file, args: [], env: ENV }, FOREVER);
        assert.equal(end.kind === 'unstartable' && end.systemCode, systemCode, file);
      }
      // A word that is cut short would be another one.
      for (const part of [{ args: ['a\0b'] }, { env: { ...ENV, X: 'a\0b' } }]) {
        const end = await runnerOf(t)({ file: 'true', args: [], env: ENV, ...part }, FOREVER);
        assert.equal(end.kind === 'unstartable' && end.systemCode, 'ERR_INVALID_ARG_VALUE');
      }
    });

    test('gives a program a session, default signals and no descriptor but its streams', async (t) => {
      // Node itself ignores SIGPIPE, which a program would inherit.
      const script =
        'ls /proc/$$/fd | grep -vxF "$INHERITED"; grep -E "^Sig(Ign|Blk)" /proc/$$/status; cut -d" " -f6 /proc/$$/stat; echo $$; pwd';
      const env = { ...ENV, INHERITED: inheritedDescriptors().join('\n') || 'none' };
      const end = await runnerOf(t)({ ...shell(script), env, cwd: '/usr' }, FOREVER);
      const lines = end.kind === 'exited' ? end.stdout.trim().split('\n') : [];
      const pid = lines.at(-2);
      const none = '0000000000000000';
      assert.deepEqual(lines, ['0', '1', '2', `SigBlk:\t${none}`, `SigIgn:\t${none}`, pid, pid, '/usr']);
    });

    test('finds a program in the PATH it is given, and nowhere else', async (t) => {
      const dir = await tempDir(t);
      writeFileSync(join(dir, 'sh'), '#!/bin/sh\necho mine', { mode: 0o755 });
      const run = runnerOf(t);
      const end = await run({ file: 'sh', args: [], env: { PATH: `${dir}:/usr/bin:/bin` } }, FOREVER);
      assert.equal(end.kind === 'exited' && end.stdout, 'mine\n');
      const none = await run({ file: 'sh', args: [], env: { PATH: `${dir}/none` } }, FOREVER);
      assert.equal(none.kind === 'unstartable' && none.systemCode, 'ENOENT');
    });

    test('does not wait for a process that was left behind with the output', async (t) => {
      const file = join(await tempDir(t), 'pids');
      const script = 'sleep 1000 & echo $! > "$1.new"; mv "$1.new" "$1"; echo said';
      const run = runnerOf(t);
      const work: { end?: ReturnType<typeof run> } = {};
      const [pid = 0] = await pidsFrom(file, () => {
        work.end = run(shell(script, file), FOREVER);
      });
      cleanup(t, () => void process.kill(pid, 'SIGKILL'));
      assert.deepEqual(await work.end, { kind: 'exited', exitCode: 0, signalName: null, stdout: 'said\n', stderr: '' });
      assert.ok(!dead(pid));
    });

    test('kills the whole group when the signal aborts', async (t) => {
      const file = join(await tempDir(t), 'pids');
      const controller = new AbortController();
      const script = 'sleep 1000 & echo "$! $$" > "$1.new"; mv "$1.new" "$1"; wait';
      const run = runnerOf(t);
      const work: { end?: ReturnType<typeof run> } = {};
      const pids = await pidsFrom(file, () => {
        work.end = run(shell(script, file), controller.signal);
      });
      controller.abort();
      assert.deepEqual(await work.end, { kind: 'aborted' });
      await untilDead(pids);
    });

    test('cuts a program that writes without end', async (t) => {
      assert.deepEqual(await runnerOf(t)(shell('cat /dev/zero'), FOREVER), { kind: 'overflow' });
    });
  });
}

for (const where of ['startProgram', 'startProgram by posix_spawn', 'Spawner.start'] as const) {
  describe(where, () => {
    const starterOf = (t: TestScope) => {
      if (where === 'startProgram') return (program: Program) => startProgram(program);
      if (where !== 'Spawner.start') return (program: Program) => startProgram(program, posixSpawn);
      const spawner = spawnerOf(t);
      return (program: Program) => spawner.start(program);
    };

    test('tells pid and report, leaves the program running, and tells its end', async (t) => {
      const started = starterOf(t)(shell('echo ready >&3; exec sleep 1000'));
      assert.equal(await started.report, 'ready\n');
      const pid = await started.pid;
      assert.ok(pid !== undefined && !dead(pid));
      process.kill(pid, 'SIGKILL');
      await started.ended;
    });

    test('tells what a program complained of that ended without a report', async (t) => {
      const started = starterOf(t)(shell('echo why >&2; exit 1'));
      assert.equal(await started.report, '');
      assert.equal(await started.complaints, 'why\n');
      await started.ended;
      const missing = starterOf(t)({ file: '/nonexistent', args: [], env: ENV });
      assert.equal(await missing.report, '');
      assert.match(await missing.complaints, /ENOENT/);
    });
  });
}

describe('Spawner', () => {
  test('runs programs side by side in one other process', async (t) => {
    const spawner = spawnerOf(t);
    const ends = await Promise.all(
      Array.from({ length: 20 }, (_, index) => spawner.run(shell(`echo ${index}; ps -o ppid= -p $$`), FOREVER)),
    );
    const lines = ends.map((end) => (end.kind === 'exited' ? end.stdout.trim().split(/\s+/) : []));
    assert.deepEqual(
      lines.map(([number]) => Number(number)),
      Array.from({ length: 20 }, (_, index) => index),
    );
    const parents = new Set(lines.map(([, parent]) => Number(parent)));
    assert.equal(parents.size, 1);
    assert.equal(parentOf([...parents][0] ?? 0), process.pid);
  });

  test('tells that the outcome is unknown when its process dies, and starts another', async (t) => {
    const file = join(await tempDir(t), 'pids');
    const spawner = spawnerOf(t);
    const work: { end?: ReturnType<Spawner['run']> } = {};
    const [pid = 0] = await pidsFrom(file, () => {
      work.end = spawner.run(shell('echo $$ > "$1.new"; mv "$1.new" "$1"; exec sleep 1000', file), FOREVER);
    });
    cleanup(t, () => void process.kill(pid, 'SIGKILL'));
    process.kill(parentOf(pid), 'SIGKILL');
    assert.deepEqual(await work.end, { kind: 'aborted' });
    const orphan = spawner.start(shell('echo ready >&3; exec sleep 1000'));
    const orphanPid = (await orphan.pid) ?? 0;
    assert.ok(orphanPid > 0);
    cleanup(t, () => void process.kill(orphanPid, 'SIGKILL'));
    await orphan.report;
    process.kill(parentOf(orphanPid), 'SIGKILL');
    await orphan.ended;
    assert.ok(!dead(orphanPid), 'what was started to stay stays');
    const again = await spawner.run(shell('echo again'), FOREVER);
    assert.equal(again.kind === 'exited' && again.stdout, 'again\n');
  });

  test('leaves nobody waiting when it is closed, and starts nothing any more', async () => {
    const spawner = new Spawner({ log: pino({ level: 'silent' }) });
    const running = spawner.start(shell('echo ready >&3; exec sleep 1000'));
    const pid = (await running.pid) ?? 0;
    await running.report;
    const waiting = spawner.run(shell('exec sleep 1000'), AbortSignal.timeout(1000));
    spawner.close();
    assert.deepEqual(await waiting, { kind: 'aborted' });
    await running.ended;
    process.kill(pid, 'SIGKILL');
    const late = spawner.start(shell('exec sleep 1000'));
    assert.equal(await late.pid, undefined);
    await late.ended;
  });

  test('ends with the process that uses it, however that ends', async (t) => {
    const module = new URL('../src/spawner.ts', import.meta.url).href;
    const script = `
      import { Spawner } from '${module}';
      const log = { child: () => ({ debug() {}, error() {} }) };
      const spawner = new Spawner({ log });
      const end = await spawner.run({ file: '/bin/sh', args: ['-c', 'echo $PPID'], env: {} }, new AbortController().signal);
      process.stdout.write(end.stdout);
      setInterval(() => undefined, 1e6);`;
    const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    cleanup(t, () => void child.kill('SIGKILL'));
    const [chunk] = await once(child.stdout, 'data');
    const pid = Number(String(chunk));
    assert.ok(!dead(pid));
    child.kill('SIGKILL');
    await untilDead([pid]);
  });
});
