/** One plugin under its supervisor, with a runner whose runs end when the test says so. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import type { PluginRun, PluginRunner } from '../../src/csi/plugin-run.ts';
import { SupervisedPlugin, type SupervisedPluginOptions } from '../../src/csi/supervised-plugin.ts';
import type { SupervisedRecord } from '../../src/csi/supervised-record.ts';
import { RuntimeError } from '../../src/errors.ts';
import { MemoryStore } from '../../src/store.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';

const RECORD: SupervisedRecord = {
  name: 'some',
  file: '/etc/berth/csi.d/some.toml',
  supervision: { kind: 'process', command: ['/bin/x'], env: {}, graceSeconds: 1 },
  restarts: 0,
  quickEnds: 0,
};

/** Keeps every write in order. */
class WriteList extends MemoryStore<SupervisedRecord> {
  readonly written: SupervisedRecord[] = [];

  override write(key: string, value: SupervisedRecord): void {
    this.written.push(value);
    super.write(key, value);
  }
}

class ScriptedRun implements PluginRun {
  readonly process;
  stops: number[] = [];
  readonly #end = Promise.withResolvers<{ exitCode: number; reason: string }>();

  constructor(pid: number) {
    this.process = { pid, startTicks: 1 };
  }

  end(exitCode: number): void {
    this.#end.resolve({ exitCode, reason: `it ended with exit code ${exitCode}` });
  }

  async ended(signal: AbortSignal): Promise<{ exitCode: number; reason: string } | undefined> {
    const aborted = new Promise<undefined>((resolve) => {
      signal.addEventListener('abort', () => resolve(undefined), { once: true });
    });
    return Promise.race([this.#end.promise, aborted]);
  }

  async stop(graceMs: number): Promise<void> {
    this.stops.push(graceMs);
  }
}

/** Starts a new run each time, or fails as told; finds what it is told to find. */
class ScriptedRunner implements PluginRunner {
  readonly runs: ScriptedRun[] = [];
  readonly seen: SupervisedRecord[] = [];
  found: ScriptedRun | undefined;
  /** What a search comes to, instead of what is found. */
  search: ((signal: AbortSignal) => Promise<undefined>) | undefined;
  failure: RuntimeError | undefined;

  async start(record: SupervisedRecord): Promise<PluginRun> {
    this.seen.push(record);
    if (this.failure !== undefined) throw this.failure;
    const run = new ScriptedRun(100 + this.runs.length);
    this.runs.push(run);
    return run;
  }

  async find(_record: unknown, _run: unknown, signal: AbortSignal): Promise<PluginRun | undefined> {
    const { search } = this;
    this.search = undefined;
    return search === undefined ? this.found : search(signal);
  }

  async sweep(): Promise<void> {
    // Nothing is left.
  }

  async *logs(): AsyncGenerator<Uint8Array> {
    yield Buffer.from('');
  }
}

function supervise(
  t: TestScope,
  record: Partial<SupervisedRecord> = {},
  options: Partial<SupervisedPluginOptions> = {},
): { plugin: SupervisedPlugin; store: WriteList; runner: ScriptedRunner } {
  const runner = new ScriptedRunner();
  const store = new WriteList();
  const plugin = new SupervisedPlugin({
    record: { ...RECORD, ...record },
    store,
    runner,
    bootId: 'boot-2',
    pauses: { firstMs: 4, longestMs: 32, stableMs: 60_000 },
    makeRoom: () => undefined,
    log: pino({ level: 'silent' }),
    ...options,
  });
  cleanup(t, () => plugin.release());
  return { plugin, store, runner };
}

async function until(look: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!look()) {
    assert.ok(Date.now() < deadline, 'never came to be');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

describe('SupervisedPlugin', () => {
  test('has the start on record before it starts, and the process afterwards', async (t) => {
    const { plugin, store, runner } = supervise(t);
    plugin.start();
    await until(() => plugin.state === 'running');
    assert.equal(runner.seen[0]?.run?.bootId, 'boot-2');
    assert.equal(store.written[0]?.run?.process, undefined);
    assert.deepEqual(store.written[1]?.run?.process, { pid: 100, startTicks: 1 });
  });

  test('starts it again with pauses that grow up to the longest', async (t) => {
    const { plugin, store, runner } = supervise(t);
    plugin.start();
    for (let ends = 1; ends <= 6; ends += 1) {
      await until(() => runner.runs.length === ends && plugin.state === 'running');
      runner.runs.at(-1)?.end(ends);
      await until(() => plugin.record.restarts === ends);
    }
    const pauses = store.written
      .filter(({ nextStartAt }) => nextStartAt !== undefined)
      .map(({ nextStartAt = '', lastEnd }) => Date.parse(nextStartAt) - Date.parse(lastEnd?.at ?? ''));
    for (const [index, pauseMs] of pauses.entries()) {
      const ceilingMs = Math.min(32, 4 * 2 ** index);
      assert.ok(pauseMs >= Math.floor(ceilingMs / 2) && pauseMs <= ceilingMs, `${index}: ${pauses.join()}`);
    }
    assert.equal(pauses.length, 6);
    assert.equal(plugin.record.lastEnd?.exitCode, 6);
  });

  test('begins with the first pause again after a run that lasted', async (t) => {
    const { plugin, runner } = supervise(t, { quickEnds: 3 }, { pauses: { firstMs: 1, longestMs: 8, stableMs: 0 } });
    plugin.start();
    await until(() => plugin.state === 'running');
    // Longer than the pause before it, which was 4 ms at most.
    await new Promise((resolve) => setTimeout(resolve, 20));
    runner.runs[0]?.end(0);
    await until(() => plugin.record.restarts === 1);
    assert.equal(plugin.record.quickEnds, 1);
  });

  test('takes a start that fails for an end', async (t) => {
    const { plugin, runner } = supervise(t);
    runner.failure = new RuntimeError('FAILED_PRECONDITION', '/bin/x cannot be started');
    plugin.start();
    await until(() => plugin.record.restarts >= 2);
    assert.match(plugin.record.lastEnd?.reason ?? '', /\/bin\/x cannot be started/);
    runner.failure = undefined;
    await until(() => plugin.state === 'running');
  });

  test('finds the run of an earlier daemon, also one without a pid on record', async (t) => {
    const run = { bootId: 'boot-2', startedAt: new Date().toISOString() };
    const { plugin, store, runner } = supervise(t, { run });
    runner.found = new ScriptedRun(7);
    plugin.start();
    await until(() => plugin.state === 'running');
    assert.equal(runner.runs.length, 0);
    assert.deepEqual(store.written.at(-1)?.run?.process, { pid: 7, startTicks: 1 });
    await plugin.release();
    assert.deepEqual(runner.found.stops, []);
  });

  test('looks again when it could not look, and starts no second one meanwhile', async (t) => {
    const run = { bootId: 'boot-2', startedAt: new Date().toISOString() };
    const { plugin, runner } = supervise(t, { run });
    runner.found = new ScriptedRun(7);
    runner.search = () => Promise.reject(new RuntimeError('UNAVAILABLE', 'not now'));
    plugin.start();
    await until(() => plugin.state === 'running');
    assert.equal(runner.runs.length, 0);
    assert.equal(plugin.record.run?.process?.pid, 7);
  });

  test('waits for a search as long as that takes, and no longer than it is wanted', async (t) => {
    const run = { bootId: 'boot-2', startedAt: new Date().toISOString() };
    const { plugin, runner } = supervise(t, { run });
    const asked = Promise.withResolvers<AbortSignal>();
    runner.search = (signal) => {
      asked.resolve(signal);
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    };
    plugin.start();
    const signal = await asked.promise;
    assert.equal(signal.aborted, false);
    await plugin.release();
    assert.equal(signal.aborted, true);
    assert.deepEqual(plugin.record.run, run);
  });

  test('follows a plugin whose start could not be recorded', async (t) => {
    const { plugin, store, runner } = supervise(t);
    const write = store.write.bind(store);
    store.write = (key, value) => {
      if (value.run?.process === undefined) return write(key, value);
      store.write = write;
      throw new RuntimeError('RESOURCE_EXHAUSTED', 'the disk is full');
    };
    plugin.start();
    await until(() => store.write === write && plugin.state === 'running');
    assert.equal(plugin.record.restarts, 0);
    runner.runs[0]?.end(3);
    await until(() => plugin.record.restarts === 1);
    assert.equal(plugin.record.lastEnd?.exitCode, 3);
  });

  test('takes nothing for its own that ran before the machine booted', async (t) => {
    const run = { bootId: 'boot-1', startedAt: new Date().toISOString(), process: { pid: 7, startTicks: 1 } };
    const { plugin, runner } = supervise(t, { run });
    runner.found = new ScriptedRun(7);
    plugin.start();
    await until(() => plugin.state === 'running');
    assert.equal(runner.runs.length, 1);
    assert.equal(plugin.record.restarts, 0);
  });

  test('is ended with its grace period, and no start follows', async (t) => {
    const { plugin, runner } = supervise(t);
    plugin.start();
    await until(() => plugin.state === 'running');
    await plugin.end(AbortSignal.timeout(1000));
    assert.deepEqual(runner.runs[0]?.stops, [1000]);
    assert.equal(plugin.record.run, undefined);
    assert.equal(runner.runs.length, 1);
  });

  test('waits no longer than the longest pause when the clock was set back', async (t) => {
    const { plugin } = supervise(t, { nextStartAt: new Date(Date.now() + 3_600_000).toISOString() });
    plugin.start();
    await until(() => plugin.state === 'running');
  });
});
