import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { describe, test } from 'node:test';
import { Daemon } from '../../src/cli/daemon.ts';
import { CallFailure } from '../../src/cli/failure.ts';
import { ExecutableError } from '../../src/runtime/launcher.ts';
import { STATUS_NUMBERS } from '../../src/status.ts';
import { type Api, startApi } from './api-fixture.ts';
import { type Program, ScriptedLauncher } from './scripted-launcher.ts';

interface ScriptedApi extends Api {
  readonly launcher: ScriptedLauncher;
}

async function startScripted(t: Parameters<typeof startApi>[0], program: Program): Promise<ScriptedApi> {
  const made: ScriptedLauncher[] = [];
  const api = await startApi(t, {
    launcher: (machine) => {
      const launcher = new ScriptedLauncher(machine, program);
      made.push(launcher);
      return launcher;
    },
  });
  const [launcher] = made;
  assert.ok(launcher);
  return { ...api, launcher };
}

const forever: Program = () => new Promise(() => undefined);
const spec = (change: object = {}): object => ({ image: 'busybox', name: 'box', ...change });

async function all<T>(events: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const event of events) list.push(event);
  return list;
}

function status(error: unknown): number {
  assert.ok(error instanceof CallFailure, String(error));
  return error.status;
}

describe('Containers.Run', () => {
  test('tells of start, both streams, exit and removal in this order', async (t) => {
    const { daemon, containerizer } = await startScripted(t, async ({ write }) => {
      write('stdout', 'one');
      write('stderr', 'two');
      write('stdout', Buffer.from([0, 255]));
      return 7;
    });
    const events = await all(daemon.stream('Containers', 'Run', { spec: spec({ autoRemove: true }) }));
    assert.deepEqual(
      events.map(({ event }) => event),
      ['started', 'stdout', 'stderr', 'stdout', 'exit', 'removed'],
    );
    assert.deepEqual(events[3]?.stdout, Buffer.from([0, 255]));
    assert.equal(events[4]?.exit?.code, 7);
    assert.deepEqual(containerizer.list(), []);
  });

  test('ends after started when detached, and the container runs on', async (t) => {
    const { daemon, containerizer } = await startScripted(t, forever);
    const events = await all(daemon.stream('Containers', 'Run', { spec: spec(), detach: true }));
    assert.deepEqual(
      events.map(({ event }) => event),
      ['started'],
    );
    assert.equal(containerizer.get(events[0]?.started?.id ?? '').state, 'running');
  });

  test('is undone when the caller goes before it has started', async (t) => {
    const { daemon, launcher, containerizer, machine } = await startScripted(t, forever);
    const gate = Promise.withResolvers<void>();
    launcher.gate = gate.promise;
    t.after(() => gate.resolve());
    const caller = new AbortController();
    const run = all(daemon.stream('Containers', 'Run', { spec: spec() }, caller.signal));
    await launcher.creating.promise;
    const [{ record } = assert.fail('no record while it is launched')] = containerizer.list();
    const removed = containerizer.removed(record.id, t.signal);
    caller.abort();
    await assert.rejects(run, (error) => status(error) === STATUS_NUMBERS.CANCELLED);
    // On the same connection: its answer comes after the server has seen the call end.
    await daemon.call('System', 'Version', {});
    gate.resolve();
    await removed;
    assert.equal(machine.processes.size, 0);
  });

  test('leaves the container running when the caller goes later, and stops reading its output', async (t) => {
    const { daemon, launcher, containerizer, socketPath } = await startScripted(t, forever);
    const caller = new AbortController();
    const events = daemon.stream('Containers', 'Run', { spec: spec({ autoRemove: true }) }, caller.signal);
    const { value } = await events.next();
    const id = value?.started?.id ?? assert.fail('not started');
    assert.equal(launcher.reading, 1);
    caller.abort();
    await assert.rejects(events.next());
    // Another connection: its answer comes after the server has seen the first one leave.
    const other = await Daemon.at(socketPath);
    t.after(() => other.close());
    while (launcher.reading > 0) await other.call('System', 'Version', {});
    assert.equal(containerizer.get(id).state, 'running');
  });

  test('carries 126 and 127 beside the failure and leaves nothing', async (t) => {
    const { daemon, launcher, containerizer } = await startScripted(t, forever);
    for (const code of [126, 127] as const) {
      launcher.refusal = new ExecutableError(code, 'command: cannot be executed');
      const run = all(daemon.stream('Containers', 'Run', { spec: spec() }));
      await assert.rejects(run, { exitCode: code, message: 'command: cannot be executed' });
      assert.deepEqual(containerizer.list(), []);
    }
  });
});

describe('Containers', () => {
  test('gives back the request as it came', async (t) => {
    const { daemon } = await startApi(t);
    const wanted = {
      name: 'box',
      image: 'busybox:1',
      command: ['sh', '-c', 'a b'],
      entrypoint: { values: [] },
      env: ['A=b=c', '__proto__=1'],
      workingDir: '/srv',
      user: '0:0',
      hostname: 'host',
      labels: [
        { key: '__proto__', value: '1' },
        { key: 'a', value: '' },
      ],
      resources: { memoryBytes: '67108864', cpuMillis: '500', pidsLimit: '9' },
      readOnlyRootfs: true,
      capAdd: ['NET_RAW'],
      capDrop: ['ALL'],
      seccompProfile: 'unconfined',
      networks: ['a', 'b'],
      ports: [{ hostPort: 8080, containerPort: 80, protocol: 'PROTOCOL_UDP' as const, hostIp: '127.0.0.1' }],
      mounts: [
        { volume: 'data', target: '/data', readOnly: true },
        { hostPath: '/srv', target: '/srv', readOnly: false },
      ],
      devices: [{ volume: 'disk', path: '/dev/xvda', readOnly: false }],
      autoRemove: true,
    };
    await daemon.call('Containers', 'Create', { spec: wanted });
    const { spec: got } = await daemon.call('Containers', 'Inspect', { ref: 'box' });
    const plain: unknown = JSON.parse(JSON.stringify(got));
    assert.partialDeepStrictEqual(plain, wanted);
  });

  test('tells that an entrypoint is absent from one that is empty', async (t) => {
    const { daemon, containerizer } = await startApi(t);
    await daemon.call('Containers', 'Create', { spec: spec() });
    assert.equal(containerizer.get('box').record.spec.entrypoint, undefined);
    assert.deepEqual(containerizer.get('box').record.spec.network, ['berth'], 'the default network');
  });

  test('lists those that run, and all when asked', async (t) => {
    const { daemon } = await startApi(t);
    await daemon.call('Containers', 'Create', { spec: spec() });
    const { id } = await daemon.call('Containers', 'Create', { spec: spec({ name: 'up' }) });
    const started = await daemon.call('Containers', 'Start', { ref: 'up' });
    assert.equal(started.state, 'CONTAINER_STATE_RUNNING');
    assert.ok(Number(started.pid) > 0);
    const running = await daemon.call('Containers', 'List', {});
    assert.deepEqual(
      running.containers.map((container) => container.id),
      [id],
    );
    assert.equal((await daemon.call('Containers', 'List', { all: true })).containers.length, 2);
  });

  test('refuses numbers, instants and signals that are none', async (t) => {
    const { daemon } = await startApi(t);
    await daemon.call('Containers', 'Create', { spec: spec() });
    const refused = async (call: Promise<unknown>, text: RegExp): Promise<void> => {
      await assert.rejects(call, (error: Error) => {
        assert.equal(status(error), STATUS_NUMBERS.INVALID_ARGUMENT);
        assert.match(error.message, text);
        return true;
      });
    };
    await refused(daemon.call('Containers', 'Stop', { ref: 'box', timeoutMs: '-1' }), /timeout/);
    await refused(daemon.call('Containers', 'Stop', { ref: 'box', timeoutMs: '9007199254740993' }), /timeout/);
    await refused(daemon.call('Containers', 'Kill', { ref: 'box', signal: 'SIGNONE' }), /signal/);
    await refused(all(daemon.stream('Containers', 'Logs', { ref: 'box', since: 'yesterday' })), /since/);
    await refused(daemon.call('Containers', 'Create', {}), /spec/);
    const mounts = [{ target: '/x' }];
    await refused(daemon.call('Containers', 'Create', { spec: spec({ name: 'm', mounts }) }), /volume/);
    const resources = { memoryBytes: '9223372036854775807' };
    await refused(daemon.call('Containers', 'Create', { spec: spec({ name: 'm', resources }) }), /memory/);
  });
});

describe('ids of every call (K19)', () => {
  const BAD = ['../x', 'a/../b', '/etc', 'a\nb', 'a\0b', 'x'.repeat(513), '-v', '.', '..', '', ' ', 'a b', '\u202e'];

  /** A call with a bad id in each of its id fields. */
  const CALLS: Readonly<Record<string, (daemon: Daemon, id: string) => Promise<unknown>>> = {
    'Create name': (daemon, name) =>
      // An empty name asks for one.
      daemon.call('Containers', 'Create', { spec: spec({ name: name === '' ? ' ' : name }) }),
    'Create image': (daemon, image) => daemon.call('Containers', 'Create', { spec: spec({ image }) }),
    'Create network': (daemon, network) => daemon.call('Containers', 'Create', { spec: spec({ networks: [network] }) }),
    'Create second network': (daemon, network) =>
      daemon.call('Containers', 'Create', { spec: spec({ networks: ['a', network] }) }),
    'Create volume': (daemon, volume) =>
      daemon.call('Containers', 'Create', { spec: spec({ mounts: [{ volume, target: '/x' }] }) }),
    'Create device': (daemon, volume) =>
      daemon.call('Containers', 'Create', { spec: spec({ devices: [{ volume, path: '/dev/x' }] }) }),
    Run: (daemon, name) => all(daemon.stream('Containers', 'Run', { spec: spec({ name: name === '' ? ' ' : name }) })),
    Start: (daemon, ref) => daemon.call('Containers', 'Start', { ref }),
    Inspect: (daemon, ref) => daemon.call('Containers', 'Inspect', { ref }),
    Logs: (daemon, ref) => all(daemon.stream('Containers', 'Logs', { ref })),
    Wait: (daemon, ref) => daemon.call('Containers', 'Wait', { ref }),
    Stop: (daemon, ref) => daemon.call('Containers', 'Stop', { ref }),
    Kill: (daemon, ref) => daemon.call('Containers', 'Kill', { ref, signal: 'TERM' }),
    Remove: (daemon, ref) => daemon.call('Containers', 'Remove', { ref }),
    'Remove by force': (daemon, ref) => daemon.call('Containers', 'Remove', { ref, force: true }),
    Stats: (daemon, ref) => daemon.call('Containers', 'Stats', { ref }),
    'Import reference': (daemon, reference) => daemon.call('Images', 'Import', { sourcePath: '/x.tar', reference }),
    'Inspect image': (daemon, ref) => daemon.call('Images', 'Inspect', { ref }),
    'Remove image': (daemon, ref) => daemon.call('Images', 'Remove', { ref }),
    'Inspect network': (daemon, name) => daemon.call('Networks', 'Inspect', { name }),
    'Create volume name': (daemon, name) => daemon.call('Volumes', 'Create', { name, capacityBytes: '1' }),
    'Create volume driver': (daemon, driver) =>
      daemon.call('Volumes', 'Create', { name: 'v', driver: driver === '' ? ' ' : driver, capacityBytes: '1' }),
    'Inspect volume': (daemon, name) => daemon.call('Volumes', 'Inspect', { name }),
    'Remove volume': (daemon, name) => daemon.call('Volumes', 'Remove', { name }),
  };

  for (const [name, call] of Object.entries(CALLS)) {
    test(`${name} is refused before anything is done`, async (t) => {
      const { daemon, containerizer, machine, backends, dir } = await startApi(t);
      const files = readdirSync(dir, { recursive: true });
      for (const id of BAD) {
        await assert.rejects(call(daemon, id), (error) => {
          assert.equal(status(error), STATUS_NUMBERS.INVALID_ARGUMENT, `${JSON.stringify(id)}: ${String(error)}`);
          return true;
        });
      }
      assert.deepEqual(containerizer.list(), []);
      assert.deepEqual(machine.calls, []);
      assert.deepEqual(backends.calls, []);
      assert.deepEqual(readdirSync(dir, { recursive: true }), files);
    });
  }

  test('the path of an import must be absolute and without control characters', async (t) => {
    const { daemon, backends } = await startApi(t);
    for (const sourcePath of ['', 'x.tar', '../x.tar', '/a\nb', '/a\0b', `/${'x'.repeat(5000)}`]) {
      const call = daemon.call('Images', 'Import', { sourcePath, reference: 'busybox' });
      await assert.rejects(call, (error) => status(error) === STATUS_NUMBERS.INVALID_ARGUMENT);
    }
    assert.deepEqual(backends.calls, []);
  });
});
