import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { RuntimeError } from '../../src/errors.ts';
import type { ContainerRecord } from '../../src/runtime/container.ts';
import { Containerizer } from '../../src/runtime/containerizer.ts';
import type { Isolator } from '../../src/runtime/isolator.ts';
import { ExecutableError } from '../../src/runtime/launcher.ts';
import { MemoryStore } from '../../src/store.ts';
import { containerSpec } from '../support/container-spec.ts';
import { FakeLauncher, FakeMachine } from '../support/fake-launcher.ts';

const signal = (): AbortSignal => AbortSignal.timeout(5000);
const log = pino({ level: 'silent' });

/** A machine, a store and two isolators; `start()` is a daemon that begins, any number of times. */
class World {
  readonly machine = new FakeMachine();
  readonly store = new MemoryStore<ContainerRecord>();
  readonly held = { first: new Set<string>(), second: new Set<string>() };
  #current: Containerizer | undefined;

  async start(t: TestContext, bootId = 'boot-1'): Promise<Containerizer> {
    await this.#current?.close();
    const isolators = [this.#isolator('first'), this.#isolator('second')];
    const launcher = new FakeLauncher(this.machine);
    const containerizer = new Containerizer({ launcher, isolators, store: this.store, bootId, log });
    this.#current = containerizer;
    t.after(() => containerizer.close());
    await containerizer.recover(signal());
    this.machine.calls.length = 0;
    return containerizer;
  }

  #isolator(name: 'first' | 'second'): Isolator {
    const { machine } = this;
    const held = this.held[name];
    return {
      name,
      recover: async (running) => {
        for (const id of held) if (!running.has(id)) held.delete(id);
      },
      prepare: async (container) => {
        held.add(container.id);
        machine.call(`${name}.prepare`, container.id);
        return {};
      },
      isolate: async (container) => machine.call(`${name}.isolate`, container.id),
      cleanup: async (id) => {
        machine.call(`${name}.cleanup`, id);
        held.delete(id);
      },
      remove: async (id) => machine.call(`${name}.remove`, id),
    };
  }

  assertNothingHeld(): void {
    assert.deepEqual([...this.held.first, ...this.held.second], []);
    assert.equal(this.machine.processes.size, 0);
  }
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let tries = 0; tries < 1000; tries += 1) {
    if (condition()) return;
    await sleep(2);
  }
  assert.fail(`never happened: ${what}`);
}

describe('Containerizer.launch', () => {
  test('starts user code only after every isolator has isolated', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch('box', signal());
    const { calls } = world.machine;
    assert.deepEqual(calls.slice(0, 2).sort(), ['first.prepare', 'second.prepare']);
    assert.deepEqual(calls.slice(2, 5).sort(), ['first.isolate', 'launcher.create', 'second.isolate']);
    assert.equal(calls[5], 'launcher.start');
    assert.equal(containerizer.get(id).state, 'running');
  });

  test('records the intent before any effect', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    world.machine.failing.set('first.prepare', new Error('boom'));
    let seen: ContainerRecord | undefined;
    world.machine.call = new Proxy(world.machine.call, {
      apply: (target, self, args) => {
        seen ??= world.store.read(id);
        return Reflect.apply(target, self, args);
      },
    });
    await assert.rejects(containerizer.launch(id, signal()), /boom/);
    assert.ok(seen?.run?.launchedAt !== undefined && seen.run.startedAt === undefined);
  });

  for (const step of ['first.prepare', 'second.isolate', 'launcher.create', 'launcher.start']) {
    test(`undoes everything when ${step} fails, and reports that failure`, async (t) => {
      const world = new World();
      const containerizer = await world.start(t);
      const { id } = containerizer.create(containerSpec(), { provisional: false });
      world.machine.failing.set(step, new RuntimeError('UNAVAILABLE', `${step} is down`));
      await assert.rejects(containerizer.launch(id, signal()), { code: 'UNAVAILABLE', message: `${step} is down` });
      world.assertNothingHeld();
      assert.equal(containerizer.get(id).state, 'exited');
      assert.match(containerizer.get(id).record.run?.launchError ?? '', /is down/);
    });
  }

  test('removes a provisional container whose launch fails', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: true });
    world.machine.failing.set('launcher.start', new ExecutableError(127, 'no such file'));
    await assert.rejects(containerizer.launch(id, signal()), { exitCode: 127 });
    world.assertNothingHeld();
    assert.equal(world.store.entries().size, 0);
    assert.equal((await containerizer.wait(id, signal())).code, 127);
  });

  test('undoes a launch that its caller gives up', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: true });
    await assert.rejects(containerizer.launch(id, AbortSignal.abort()), { code: 'CANCELLED' });
    await containerizer.remove(id, { force: true }, signal());
    world.assertNothingHeld();
  });

  test('starts an exited container again and refuses a running one', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    await assert.rejects(containerizer.launch(id, signal()), { code: 'FAILED_PRECONDITION' });
    world.machine.exit(id, 3);
    assert.equal((await containerizer.wait(id, signal())).code, 3);
    await until('exited', () => containerizer.get(id).state === 'exited');
    await containerizer.launch(id, signal());
    assert.equal(containerizer.get(id).state, 'running');
  });
});

describe('Containerizer: the end of a container', () => {
  test('cleans up only after no process is left', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    world.machine.calls.length = 0;
    world.machine.exit(id, 0);
    await until('released', () => containerizer.get(id).state === 'exited');
    assert.equal(world.machine.calls[0], 'launcher.terminate');
    assert.deepEqual(world.machine.calls.slice(1).sort(), ['first.cleanup', 'launcher.destroy', 'second.cleanup']);
  });

  test('takes nothing from under a process that cannot be ended', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    world.machine.calls.length = 0;
    world.machine.failing.set('launcher.terminate', new RuntimeError('DEADLINE_EXCEEDED', 'it resists'));
    world.machine.exit(id, 0);
    await until('failure kept', () => containerizer.get(id).record.cleanupFailures.length > 0);
    assert.deepEqual(world.machine.calls, ['launcher.terminate']);
    assert.equal(world.held.first.size, 1);
  });

  test('keeps a failed cleanup on record, shows it, and retries until it succeeds', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    world.machine.failing.set('second.cleanup', new RuntimeError('UNAVAILABLE', 'DEL failed'));
    const removal = containerizer.remove(id, { force: true }, signal());
    await assert.rejects(removal, { code: 'UNAVAILABLE', message: /second: DEL failed/ });
    assert.equal(containerizer.get(id).state, 'removing');
    assert.equal(containerizer.get(id).record.cleanupFailures[0]?.step, 'second');
    assert.equal(world.held.first.size, 0, 'other isolators were cleaned up');
    world.machine.failing.clear();
    await containerizer.removed(id, signal());
    world.assertNothingHeld();
    assert.equal(world.store.entries().size, 0);
  });

  test('removes by itself what was asked to go, and still answers its waiters', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec({ autoRemove: true }), { provisional: true });
    await containerizer.launch(id, signal());
    world.machine.exit(id, 9);
    await containerizer.removed(id, signal());
    assert.equal((await containerizer.wait(id, signal())).code, 9);
    world.assertNothingHeld();
  });

  test('stop signals first and kills after the time given', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    await containerizer.stop(id, { timeoutMs: 20 }, signal());
    assert.equal(containerizer.get(id).record.run?.exit?.code, 137);
    assert.ok(world.machine.calls.indexOf('launcher.kill SIGTERM') < world.machine.calls.indexOf('launcher.terminate'));
    world.assertNothingHeld();
  });

  test('a forced removal cuts a patient stop short', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    const stopping = containerizer.stop(id, { timeoutMs: 60_000 }, signal());
    const stopped = assert.rejects(stopping, { code: 'ABORTED' });
    await until('signalled', () => world.machine.calls.includes('launcher.kill SIGTERM'));
    await containerizer.remove(id, { force: true }, signal());
    await stopped;
    world.assertNothingHeld();
  });

  test('refuses to remove a running container without force', async (t) => {
    const containerizer = await new World().start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    await assert.rejects(containerizer.remove(id, { force: false }, signal()), { code: 'FAILED_PRECONDITION' });
    assert.equal(containerizer.get(id).state, 'running');
  });
});

describe('Containerizer.recover', () => {
  test('goes on with a container that runs', async (t) => {
    const world = new World();
    const first = await world.start(t);
    const { id } = first.create(containerSpec(), { provisional: false });
    await first.launch(id, signal());
    const second = await world.start(t);
    assert.equal(second.get(id).state, 'running');
    assert.equal(world.held.first.has(id), true);
    world.machine.exit(id, 4);
    assert.equal((await second.wait(id, signal())).code, 4);
  });

  test('reads the exit code of a container that ended meanwhile and releases it', async (t) => {
    const world = new World();
    const first = await world.start(t);
    const { id } = first.create(containerSpec(), { provisional: false });
    await first.launch(id, signal());
    await first.close();
    world.machine.exit(id, 5);
    const second = await world.start(t);
    assert.equal(second.get(id).state, 'exited');
    assert.equal(second.get(id).record.run?.exit?.code, 5);
    world.assertNothingHeld();
  });

  test('removes a provisional container whose launch was cut short, and keeps one that was created', async (t) => {
    const world = new World();
    await world.start(t);
    const run = { launchedAt: new Date().toISOString(), bootId: 'boot-1' };
    const common = { createdAt: new Date().toISOString(), cleanupFailures: [] };
    const half = { ...common, id: 'a'.repeat(32), spec: containerSpec({ name: 'half' }), provisional: true, run };
    const made = { ...common, id: 'b'.repeat(32), spec: containerSpec({ name: 'made' }), provisional: false, run };
    world.store.create(half.id, half);
    world.store.create(made.id, made);
    world.machine.spawn(half.id);
    world.held.first.add(half.id);
    const second = await world.start(t);
    assert.deepEqual(
      second.list().map((view) => [view.record.spec.name, view.state]),
      [['made', 'exited']],
    );
    world.assertNothingHeld();
  });

  test('never takes a reused pid for the container', async (t) => {
    const world = new World();
    const first = await world.start(t);
    const { id } = first.create(containerSpec(), { provisional: false });
    await first.launch(id, signal());
    await first.close();
    world.machine.processes.delete(id);
    world.machine.spawn(id);
    const second = await world.start(t);
    assert.equal(second.get(id).state, 'exited');
  });

  test('after a reboot nothing runs and the exit code is lost', async (t) => {
    const world = new World();
    const first = await world.start(t);
    const { id } = first.create(containerSpec(), { provisional: false });
    await first.launch(id, signal());
    await first.close();
    world.machine.processes.clear();
    const second = await world.start(t, 'boot-2');
    assert.equal(second.get(id).state, 'exited');
    assert.equal(second.get(id).record.run?.exit?.code, -1);
  });

  test('tears down processes that no record speaks of', async (t) => {
    const world = new World();
    world.machine.spawn('c'.repeat(32));
    world.held.second.add('c'.repeat(32));
    await world.start(t);
    world.assertNothingHeld();
  });

  test('finishes a removal that was begun', async (t) => {
    const world = new World();
    const first = await world.start(t);
    const { id } = first.create(containerSpec(), { provisional: false });
    await first.launch(id, signal());
    world.machine.failing.set('first.cleanup', new Error('later'));
    await assert.rejects(first.remove(id, { force: true }, signal()));
    await first.close();
    world.machine.failing.clear();
    await world.start(t);
    assert.equal(world.store.entries().size, 0);
    world.assertNothingHeld();
  });
});

describe('Containerizer: names', () => {
  test('finds a container by id, beginning of id and name, and refuses a name twice', async (t) => {
    const containerizer = await new World().start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    for (const ref of [id, id.slice(0, 12), 'box']) assert.equal(containerizer.get(ref).record.id, id);
    assert.throws(() => containerizer.create(containerSpec(), { provisional: false }), { code: 'ALREADY_EXISTS' });
    assert.throws(() => containerizer.get('nobody'), { code: 'NOT_FOUND' });
    assert.match(containerizer.create(containerSpec({ name: '' }), { provisional: false }).spec.name, /^[a-z]+_[a-z]+/);
  });
});

describe('Containerizer.inLane', () => {
  test('does one thing at a time to a running container, and refuses one that does not run', async (t) => {
    const containerizer = await new World().start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    const nothing = async (): Promise<void> => undefined;
    await assert.rejects(containerizer.inLane(id, nothing, signal()), { code: 'FAILED_PRECONDITION' });
    await containerizer.launch(id, signal());
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    const order: string[] = [];
    const first = containerizer.inLane(id, () => released.then(() => order.push('first')), signal());
    const second = containerizer.inLane(id, async () => order.push('second'), signal());
    release();
    await Promise.all([first, second]);
    assert.deepEqual(order, ['first', 'second']);
  });

  test('is cut short by a forced removal', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    const endless = containerizer.inLane(
      id,
      (_, joint) => new Promise((__, reject) => joint.addEventListener('abort', () => reject(joint.reason))),
      signal(),
    );
    const cut = assert.rejects(endless, { code: 'ABORTED' });
    await containerizer.remove(id, { force: true }, signal());
    await cut;
    world.assertNothingHeld();
  });
});

describe('Containerizer.retryCleanup', () => {
  test('finishes at once what an earlier attempt could not', async (t) => {
    const world = new World();
    const containerizer = await world.start(t);
    const { id } = containerizer.create(containerSpec(), { provisional: false });
    await containerizer.launch(id, signal());
    world.machine.failing.set('first.cleanup', new Error('later'));
    await assert.rejects(containerizer.remove(id, { force: true }, signal()));
    assert.equal(await containerizer.retryCleanup(id, signal()), false);
    world.machine.failing.clear();
    assert.equal(await containerizer.retryCleanup(id, signal()), true);
    assert.equal(world.store.entries().size, 0);
    world.assertNothingHeld();
  });
});
