/** Real processes under the supervisor; what became of them is asked of /proc. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { Writable } from 'node:stream';
import { describe, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import { identify, isAlive, type ProcessIdentity, signalProcess } from '../../../src/process-identity.ts';
import { ProcessSupervisor, type ProcessSupervisorOptions } from '../../../src/runtime/launcher/posix-supervisor.ts';
import { cleanup } from '../../support/cleanup.ts';
import { tempDir } from '../../support/temp-dir.ts';

type Line = Readonly<Record<string, unknown>>;

/** A log whose lines can be waited for. */
class Lines extends Writable {
  readonly seen: Line[] = [];

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.seen.push(JSON.parse(chunk.toString()));
    this.emit('line');
    done();
  }

  /** Waits until the matching lines are `count`. */
  async until(matches: (line: Line) => boolean, count = 1): Promise<Line[]> {
    const signal = AbortSignal.timeout(10_000);
    for (;;) {
      const found = this.seen.filter(matches);
      if (found.length >= count) return found;
      await once(this, 'line', { signal });
    }
  }
}

interface Supervised {
  readonly supervisor: ProcessSupervisor;
  readonly lines: Lines;
}

/** A shell script under a supervisor that is closed when the test ends. */
function supervise(t: TestContext, script: string, options: Partial<ProcessSupervisorOptions> = {}): Supervised {
  const lines = new Lines();
  const supervisor = new ProcessSupervisor({
    name: 'test',
    file: '/bin/sh',
    args: ['-c', script],
    env: { PATH: '/usr/bin:/bin' },
    log: pino({ level: 'debug' }, lines),
    firstPauseMs: 1,
    ...options,
  });
  cleanup(t, () => supervisor.close(AbortSignal.timeout(5000)));
  supervisor.start();
  return { supervisor, lines };
}

const wrote =
  (text: string) =>
  (line: Line): boolean =>
    line['line'] === text;
const saying =
  (text: string) =>
  (line: Line): boolean =>
    line['msg'] === text;

function identityOf(supervisor: ProcessSupervisor): ProcessIdentity {
  const identity = identify(supervisor.pid ?? 0);
  assert.ok(identity !== undefined, 'the process runs');
  return identity;
}

/** Descriptors this process itself was started with beyond the standard ones: no process of its could be without. */
function inheritable(): string[] {
  return readdirSync('/proc/self/fd').filter((fd) => {
    const flags = /flags:\s+(\d+)/.exec(readIfThere(`/proc/self/fdinfo/${fd}`))?.[1] ?? '0';
    const isClosedOnExec = (Number.parseInt(flags, 8) & 0o2000000) !== 0;
    return Number(fd) > 2 && flags !== '0' && !isClosedOnExec;
  });
}

/** The descriptor the list itself was read through is gone already. */
function readIfThere(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

/** Settles when the process is gone or a zombie of somebody else. */
async function ended(identity: ProcessIdentity): Promise<void> {
  const giveUpAt = performance.now() + 10_000;
  while (isAlive(identity)) {
    if (performance.now() > giveUpAt) throw new Error(`pid ${identity.pid} lives on`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe('ProcessSupervisor', () => {
  test('gives the process its environment, three descriptors, a session of its own, and nothing else', async (t) => {
    const env = { PATH: '/usr/bin:/bin', CSI_ENDPOINT: 'unix:///x', EMPTY: '' };
    process.env['BERTH_TEST_SECRET'] = 'leaks';
    const { supervisor, lines } = supervise(t, '', { file: '/bin/cat', args: ['-', '/proc/self/stat'], env });
    await lines.until(saying('process started'));
    const { pid } = identityOf(supervisor);
    const given = readFileSync(`/proc/${pid}/environ`, 'utf8')
      .split('\0')
      .filter((entry) => entry !== '');
    assert.deepEqual(given.toSorted(), ['CSI_ENDPOINT=unix:///x', 'EMPTY=', 'PATH=/usr/bin:/bin']);
    assert.deepEqual(readdirSync(`/proc/${pid}/fd`).toSorted(), ['0', '1', '2', ...inheritable()].toSorted());
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    assert.equal(fields[2], String(pid), 'its process group');
    assert.equal(fields[3], String(pid), 'its session');
    delete process.env['BERTH_TEST_SECRET'];
  });

  test('starts the process again when it ends, whatever the reason, and leaves no zombie', async (t) => {
    const { supervisor, lines } = supervise(t, 'echo up; read -r line; exit 3');
    const first = identityOf(supervisor);
    await lines.until(wrote('up'));
    signalProcess(first, 'SIGKILL');
    await lines.until(wrote('up'), 2);
    assert.equal(existsSync(`/proc/${first.pid}`), false);
    assert.equal(supervisor.lastEnd?.signalName, 'SIGKILL');
    assert.equal(supervisor.starts, 2);
    signalProcess(identityOf(supervisor), 'SIGTERM');
    await lines.until(wrote('up'), 3);
  });

  test('doubles the pause with each quick end up to the longest', async (t) => {
    const { lines } = supervise(t, 'exit 3', { firstPauseMs: 1, longestPauseMs: 6 });
    const ends = await lines.until((line) => line['pauseMs'] !== undefined, 5);
    assert.deepEqual(
      ends.slice(0, 5).map((line) => line['pauseMs']),
      [1, 2, 4, 6, 6],
    );
    assert.equal(ends[0]?.['exitCode'], 3);
  });

  test('begins with the first pause again after a run that was long enough', async (t) => {
    const { lines } = supervise(t, 'exit 3', { firstPauseMs: 1, longestPauseMs: 6, stableMs: 0 });
    const ends = await lines.until((line) => line['pauseMs'] !== undefined, 4);
    // The first pause itself is doubled for the run after it, and then set back.
    assert.deepEqual(new Set(ends.map((line) => line['pauseMs'])), new Set([1]));
  });

  test('keeps trying a program that is not there', async (t) => {
    const { supervisor, lines } = supervise(t, '', { file: '/nonexistent/program' });
    await lines.until((line) => line['pauseMs'] !== undefined, 2);
    assert.match(String(supervisor.lastEnd?.error), /ENOENT/);
    assert.equal(supervisor.pid, undefined);
  });

  test('passes lines of JSON on with their level and fields, other lines as text', async (t) => {
    const script = [
      `echo '{"level":40,"msg":"hot","volumeId":"v1","time":1,"component":"forged"}' >&2`,
      `echo 'plain text'`,
      `echo '{"level":60,"msg":"worst"}'`,
      `echo '{ not json'`,
      `echo '[1]'`,
      'printf "no line feed"',
      'exec >&- 2>&-',
      'read -r line',
    ].join('; ');
    const { lines } = supervise(t, script);
    const [hot] = await lines.until((line) => line['said'] === 'hot');
    assert.deepEqual([hot?.['level'], hot?.['volumeId'], hot?.['component']], [40, 'v1', 'supervisor']);
    const [worst] = await lines.until((line) => line['said'] === 'worst');
    assert.equal(worst?.['level'], 50);
    for (const text of ['plain text', '{ not json', '[1]', 'no line feed']) await lines.until(wrote(text));
  });

  test('cuts a line that is too long', async (t) => {
    const { lines } = supervise(t, "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo next; read -r line");
    await lines.until(wrote('next'));
    const [long] = await lines.until((line) => String(line['line'] ?? '').startsWith('xxx'));
    assert.equal(String(long?.['line']).length, 8192);
  });

  test('close ends the process by SIGTERM and starts none again', async (t) => {
    const { supervisor, lines } = supervise(t, 'trap "echo bye; exit 0" TERM; echo up; while :; do read -r line; done');
    await lines.until(wrote('up'));
    const identity = identityOf(supervisor);
    await supervisor.close(AbortSignal.timeout(5000));
    assert.equal(isAlive(identity), false);
    await lines.until(wrote('bye'));
    assert.equal(supervisor.lastEnd?.exitCode, 0);
    supervisor.start();
    assert.equal(supervisor.starts, 1);
  });

  test('close kills the whole session of a process that ignores SIGTERM', async (t) => {
    const script = 'trap "" TERM; sleep 1000 & echo "child $!"; while :; do wait; done';
    const { supervisor, lines } = supervise(t, script, { graceMs: 50 });
    const [line] = await lines.until((candidate) => String(candidate['line'] ?? '').startsWith('child '));
    const child = identify(Number(String(line?.['line']).slice(6)));
    assert.ok(child !== undefined);
    await supervisor.close(AbortSignal.timeout(5000));
    assert.equal(supervisor.lastEnd?.signalName, 'SIGKILL');
    await ended(child);
  });

  test('close during a pause returns at once', async (t) => {
    const { supervisor, lines } = supervise(t, 'exit 1', { firstPauseMs: 60_000 });
    await lines.until((line) => line['pauseMs'] !== undefined);
    await supervisor.close(AbortSignal.timeout(5000));
    assert.equal(supervisor.starts, 1);
  });

  test('a process that ends with its input ends when its supervisor is killed', async (t) => {
    const dir = await tempDir(t);
    const module = fileURLToPath(new URL('../../../src/runtime/launcher/posix-supervisor.ts', import.meta.url));
    await writeFile(
      `${dir}/parent.ts`,
      `import { ProcessSupervisor } from ${JSON.stringify(module)};
       const quiet = () => undefined;
       const log = { child: () => log, info: quiet, warn: quiet, error: quiet, debug: quiet };
       const supervisor = new ProcessSupervisor({ name: 'x', file: '/bin/cat', args: [], env: {}, log });
       supervisor.start();
       process.stdout.write(String(supervisor.pid));`,
    );
    const parent = spawn(process.execPath, [`${dir}/parent.ts`], { stdio: ['ignore', 'pipe', 'inherit'] });
    cleanup(t, () => parent.kill('SIGKILL'));
    const [pid] = await once(parent.stdout, 'data', { signal: AbortSignal.timeout(10_000) });
    const child = identify(Number(String(pid)));
    assert.ok(child !== undefined);
    assert.equal(readlinkSync(`/proc/${child.pid}/exe`).endsWith('/cat'), true);
    const exit = once(parent, 'exit');
    parent.kill('SIGKILL');
    await exit;
    await ended(child);
  });
});
