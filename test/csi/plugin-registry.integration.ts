/** Plugins that come, go and come back on real sockets. No root needed. */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { pluginChecks } from '../../src/csi/plugin-checks.ts';
import type { PluginRegistration } from '../../src/csi/plugin-registration.ts';
import { PluginRegistry } from '../../src/csi/plugin-registry.ts';
import { RuntimeError } from '../../src/errors.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { failWith, startFakeCsi } from '../support/fake-csi.ts';
import { tempDir } from '../support/temp-dir.ts';

const log = pino({ level: 'silent' });
const soon = (): AbortSignal => AbortSignal.timeout(10_000);

interface Place {
  readonly dir: string;
  readonly registry: PluginRegistry;
}

async function place(t: TestScope): Promise<Place> {
  const dir = await tempDir(t);
  const registry = new PluginRegistry({ pluginDir: `${dir}/csi`, log, rescanMs: 200 });
  cleanup(t, () => registry.close());
  return { dir, registry };
}

function fileOf(path: string, change: Partial<PluginRegistration> = {}): PluginRegistration {
  return { key: `file:${path}`, source: 'file', origin: `${path}.toml`, sockets: [{ path }], ...change };
}

/** Settles when the list of plugins looks like this. */
async function until(registry: PluginRegistry, look: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!look()) {
    assert.ok(Date.now() < deadline, `never came to be: ${JSON.stringify(registry.list())}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const hasCode = (code: string) => (error: unknown) => error instanceof RuntimeError && error.code === code;

describe('PluginRegistry', () => {
  test('meets plugins whose sockets lie in the directory and in directories below it', async (t) => {
    const { dir, registry } = await place(t);
    await mkdir(`${dir}/csi/two`, { recursive: true });
    await startFakeCsi(t, { socketPath: `${dir}/csi/one.sock`, backingDir: `${dir}/b1`, name: 'one.csi.test' });
    await startFakeCsi(t, {
      socketPath: `${dir}/csi/two/csi.sock`,
      backingDir: `${dir}/b2`,
      name: 'two.csi.test',
      controller: ['CREATE_DELETE_VOLUME'],
      node: ['STAGE_UNSTAGE_VOLUME'],
    });
    await registry.start(soon());
    assert.deepEqual(registry.get('one.csi.test').sockets, [`${dir}/csi/one.sock`]);
    const { sinceAt, sockets, ...two } = registry.inspect('two.csi.test');
    assert.deepEqual(two, {
      name: 'two.csi.test',
      socket: `${dir}/csi/two/csi.sock`,
      state: 'ready',
      vendorVersion: '1.0',
      manifest: {},
      capabilities: ['controller:CREATE_DELETE_VOLUME', 'node:STAGE_UNSTAGE_VOLUME', 'plugin:CONTROLLER_SERVICE'],
      nodeId: 'node-of-the-fake',
      registrations: [{ source: 'directory', origin: `${dir}/csi/two/csi.sock` }],
    });
    assert.ok(Date.parse(sinceAt) <= Date.now());
    assert.deepEqual(sockets[0]?.serves, ['controller', 'node']);
    assert.deepEqual(
      pluginChecks(registry).map((line) => line.state),
      ['ok', 'ok'],
    );
  });

  test('notices a socket dropped in later, and that it goes', async (t) => {
    const { dir, registry } = await place(t);
    await registry.start(soon());
    assert.throws(() => registry.get('fake.csi.test'), hasCode('NOT_FOUND'));
    assert.equal(pluginChecks(registry)[0]?.remedy, `start a CSI plugin whose socket appears as ${dir}/csi/NAME.sock`);
    await mkdir(`${dir}/csi/sub`);
    const plugin = await startFakeCsi(t, { socketPath: `${dir}/csi/sub/x.sock`, backingDir: `${dir}/b` });
    assert.equal((await registry.waitFor('fake.csi.test', soon())).name, 'fake.csi.test');
    plugin.stop();
    await until(registry, () => registry.list().every(({ state }) => state !== 'ready'));
  });

  test('meets a plugin again after it was restarted, with its new capabilities', async (t) => {
    const { dir, registry } = await place(t);
    const options = { socketPath: `${dir}/csi/a.sock`, backingDir: `${dir}/b` };
    await registry.start(soon());
    const first = await startFakeCsi(t, options);
    const ready: string[] = [];
    registry.onReady((name) => ready.push(name));
    await registry.waitFor('fake.csi.test', soon());
    assert.equal(registry.wasLostWithin('fake.csi.test', 60_000), false);
    first.stop();
    await until(registry, () => registry.list().every(({ state }) => state !== 'ready'));
    assert.equal(registry.wasLostWithin('fake.csi.test', 60_000), true);
    assert.equal(registry.wasLostWithin('fake.csi.test', 0), false);
    await startFakeCsi(t, { ...options, node: ['STAGE_UNSTAGE_VOLUME'] });
    const plugin = await registry.waitFor('fake.csi.test', soon());
    assert.deepEqual([...plugin.capabilities.node], ['STAGE_UNSTAGE_VOLUME']);
    assert.deepEqual(ready, ['fake.csi.test', 'fake.csi.test']);
  });

  test('refuses a second plugin of the same name until the first is gone', async (t) => {
    const { dir, registry } = await place(t);
    await registry.start(soon());
    const first = await startFakeCsi(t, { socketPath: `${dir}/csi/a.sock`, backingDir: `${dir}/b1` });
    await registry.waitFor('fake.csi.test', soon());
    await startFakeCsi(t, { socketPath: `${dir}/csi/b.sock`, backingDir: `${dir}/b2` });
    await until(registry, () => registry.list().some(({ state }) => state === 'refused'));
    assert.deepEqual(registry.get('fake.csi.test').sockets, [`${dir}/csi/a.sock`]);
    const line = pluginChecks(registry).find(({ state }) => state === 'warn');
    assert.match(line?.detail ?? '', /is taken by the plugin at .*a\.sock/);
    first.stop();
    await until(
      registry,
      () => !registry.list().some(({ socket, state }) => socket.endsWith('a.sock') && state === 'ready'),
    );
    const second = await registry.waitFor('fake.csi.test', soon());
    assert.deepEqual(second.sockets, [`${dir}/csi/b.sock`]);
  });

  test('waits for a plugin that says it is starting', async (t) => {
    const { dir, registry } = await place(t);
    await registry.start(soon());
    const plugin = await startFakeCsi(t, { socketPath: `${dir}/other.sock`, backingDir: `${dir}/b` });
    plugin.ready = false;
    registry.register(fileOf(`${dir}/other.sock`));
    await until(registry, () => registry.list().some(({ state, name }) => state === 'starting' && name === ''));
    await assert.rejects(registry.waitFor('fake.csi.test', AbortSignal.timeout(50)), hasCode('UNAVAILABLE'));
    plugin.ready = true;
    await registry.waitFor('fake.csi.test', soon());
  });

  test('a dead socket, a mute one and a lying plugin hold up nobody', async (t) => {
    const { dir, registry } = await place(t);
    await mkdir(`${dir}/csi`, { recursive: true });
    await writeFile(`${dir}/csi/no-socket.sock`, '');
    const callers: Socket[] = [];
    const mute = createServer((socket) => callers.push(socket));
    await new Promise<void>((resolve) => mute.listen(`${dir}/csi/mute.sock`, resolve));
    cleanup(t, () => {
      mute.close();
      for (const socket of callers) socket.destroy();
    });
    await startFakeCsi(t, { socketPath: `${dir}/csi/liar.sock`, backingDir: `${dir}/b1`, name: '../../etc' });
    const failing = await startFakeCsi(t, { socketPath: `${dir}/csi/f.sock`, backingDir: `${dir}/b2`, name: 'f.test' });
    failing.next('Probe', failWith('FAILED_PRECONDITION'));
    await startFakeCsi(t, { socketPath: `${dir}/csi/good.sock`, backingDir: `${dir}/b3` });
    await registry.start(soon());
    registry.register(fileOf(`${dir}/absent.sock`));
    await registry.waitFor('fake.csi.test', soon());
    await registry.waitFor('f.test', soon());
    const liar = registry.list().find(({ socket }) => socket.endsWith('liar.sock'));
    assert.equal(liar?.state, 'unreachable');
    assert.match(liar?.reason ?? '', /GetPluginInfo .*breaks the protocol: name/);
    assert.throws(() => registry.get('absent.csi.test'), hasCode('NOT_FOUND'));
  });
});
