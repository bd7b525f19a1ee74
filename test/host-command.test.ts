import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { RuntimeError } from '../src/errors.ts';
import { hostCommand } from '../src/host-command.ts';
import { inheritedDescriptors } from '../src/inherited-descriptors.ts';
import { fileAppears } from './support/file-appears.ts';
import { tempDir } from './support/temp-dir.ts';

const FOREVER = new AbortController().signal;

function dead(pid: number): boolean {
  return [undefined, 'Z', 'X'].includes(stateOf(pid));
}

async function failure(work: Promise<unknown>): Promise<RuntimeError> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof RuntimeError, String(error));
    return error;
  }
  assert.fail('it succeeded');
}

/** State letter of a process; undefined when it is gone. */
function stateOf(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.[0];
  } catch {
    return undefined;
  }
}

describe('hostCommand', () => {
  test('gives arguments and input as they are and returns stdout without its last line feed', async () => {
    const script = 'cat; printf "<%s>" "$@"; echo; echo';
    const options = { input: 'in ' };
    assert.equal(await hostCommand('sh', ['-c', script, 'sh', 'a b', '$x'], FOREVER, options), 'in <a b><$x>\n');
  });

  test('gives nothing of its own environment and only descriptors 0 to 2', async () => {
    process.env['BERTH_TEST_LEAK'] = 'x';
    const env = await hostCommand('cat', ['/proc/self/environ'], FOREVER, { env: { OWN: '1' } });
    delete process.env['BERTH_TEST_LEAK'];
    const names = env.split('\0').flatMap((entry) => (entry === '' ? [] : [entry.split('=')[0]]));
    assert.deepEqual(names.toSorted(), ['LC_ALL', 'OWN', 'PATH']);
    const given = (await hostCommand('ls', ['/proc/self/fd'], FOREVER)).split('\n').map(Number);
    const foreign = new Set(inheritedDescriptors());
    // ls itself opens the directory as 3.
    assert.deepEqual(
      given.filter((fd) => !foreign.has(fd)),
      [0, 1, 2, 3],
    );
  });

  test('throws with what the program said, and NOT_FOUND when it is not installed', async () => {
    const failed = await failure(hostCommand('sh', ['-c', 'echo why >&2; exit 3'], FOREVER));
    assert.equal(failed.code, 'INTERNAL');
    assert.match(failed.message, /why$/);
    const silent = await failure(hostCommand('sh', ['-c', 'kill -9 $$'], FOREVER));
    assert.match(silent.message, /SIGKILL/);
    assert.equal((await failure(hostCommand('no-such-program', [], FOREVER))).code, 'NOT_FOUND');
  });

  test('kills the whole group when the signal aborts', async (t) => {
    const file = join(await tempDir(t), 'pids');
    const controller = new AbortController();
    const script = 'sleep 1000 & echo "$! $$" > "$0.new"; mv "$0.new" "$0"; wait';
    const work: { end?: Promise<RuntimeError> } = {};
    await fileAppears(file, () => {
      work.end = failure(hostCommand('sh', ['-c', script, file], controller.signal));
    });
    const pids = readFileSync(file, 'utf8').trim().split(' ').map(Number);
    for (const pid of pids) assert.ok(!dead(pid), `${pid} is dead already`);
    controller.abort(new RuntimeError('CANCELLED', 'enough'));
    assert.equal((await work.end)?.code, 'CANCELLED');
    // The signal has been sent to both; the orphan needs a moment to die of it.
    const deadline = AbortSignal.timeout(5000);
    while (!pids.every(dead)) await new Promise((resolve) => setTimeout(resolve, 5, deadline.throwIfAborted()));
  });

  test('stops at its deadline', async () => {
    const late = await failure(hostCommand('sleep', ['1000'], FOREVER, { timeoutMs: 30 }));
    assert.equal(late.code, 'DEADLINE_EXCEEDED');
  });

  test('does not start when the signal has aborted', async () => {
    const error = await failure(hostCommand('true', [], AbortSignal.abort(new RuntimeError('ABORTED', 'no'))));
    assert.equal(error.code, 'ABORTED');
  });
});
