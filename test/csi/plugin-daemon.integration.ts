/** Plugins of the real daemon through the real command line: every way to register, restarts, and plugins in use. */
import assert from 'node:assert/strict';
import { unlink, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { startFakeCsi } from '../support/fake-csi.ts';
import { needs } from '../support/needs.ts';
import { startPlugin, startRegistrar } from './plugin-server.ts';

interface Row {
  readonly name: string;
  readonly socket: string;
  readonly state: string;
  readonly reason: string;
  readonly registrations: readonly { readonly source: string; readonly origin: string }[];
}

async function rows(daemon: Daemon): Promise<Row[]> {
  return JSON.parse(await daemon.ok(['csi', 'ls', '--format', 'json']));
}

/** The row of `csi ls` that looks like this, as soon as there is one. */
async function row(daemon: Daemon, look: (row: Row) => boolean): Promise<Row> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const all = await rows(daemon);
    const found = all.find(look);
    if (found !== undefined) return found;
    assert.ok(Date.now() < deadline, `never came to be: ${JSON.stringify(all)}`);
  }
}

const by = ({ registrations }: Row): string => registrations.map(({ source }) => source).join();

test('plugins of a daemon', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver'] });
  const { dir } = daemon;
  const conf = `${dir}/csi.d`;

  await t.test('come with a file while the daemon runs, and a bad file says why', async (st) => {
    await startPlugin(st, { path: `${dir}/f.sock`, name: 'file.csi.test', node: [] });
    await writeFile(`${conf}/good.toml`, `name = "file.csi.test"\nsocket = "unix://${dir}/f.sock"\n`);
    await writeFile(`${conf}/bad.toml`, 'sokcet = "unix:///x"\n');
    const good = await row(daemon, ({ name, state }) => name === 'file.csi.test' && state === 'ready');
    assert.equal(by(good), 'file');
    const bad = await row(daemon, ({ state }) => state === 'invalid');
    assert.equal(bad.socket, `${conf}/bad.toml`);
    assert.match(bad.reason, /^sokcet: /);
    const doctor: { name: string; remedy: string }[] = JSON.parse(await daemon.ok(['doctor', '--format', 'json']));
    assert.match(doctor.find(({ name }) => name === bad.socket)?.remedy ?? '', /^mend .*bad\.toml/);
    assert.ok(doctor.some(({ name }) => name === 'mount propagation'));
    await unlink(`${conf}/good.toml`);
    await unlink(`${conf}/bad.toml`);
    const deadline = Date.now() + 20_000;
    while ((await rows(daemon)).length > 0) assert.ok(Date.now() < deadline);
  });

  await t.test('come by a registrar, again after a restart, and go with it', async (st) => {
    const name = 'reg.csi.test';
    const plugin = await startPlugin(st, { path: `${dir}/r.sock`, name, node: [] });
    const info = { type: 'CSIPlugin', name, endpoint: plugin.path, supportedVersions: ['1.0.0'] };
    const registrar = await startRegistrar(st, { path: `${daemon.run}/csi-registry/${name}-reg.sock`, info });
    assert.equal(by(await row(daemon, ({ state }) => state === 'ready')), 'registrar');
    await daemon.restart();
    assert.equal(by(await row(daemon, ({ state }) => state === 'ready')), 'registrar');
    assert.ok(registrar.verdicts.length >= 2);
    assert.ok(registrar.verdicts.every(({ pluginRegistered }) => pluginRegistered === true));
    registrar.stop();
    const deadline = Date.now() + 20_000;
    while ((await rows(daemon)).length > 0) assert.ok(Date.now() < deadline);
  });

  await t.test('are registered by a command, survive SIGKILL, and stay while volumes are in use', async (st) => {
    const name = 'fake.csi.test';
    const socket = `${dir}/x.sock`;
    const refused = await daemon.cli(['csi', 'register', socket]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /x\.sock is not there; start the plugin with CSI_ENDPOINT=/);
    const controller = ['CREATE_DELETE_VOLUME'];
    await startFakeCsi(st, { socketPath: socket, backingDir: `${dir}/backing`, controller });
    assert.equal(await daemon.ok(['csi', 'register', `unix://${socket}`, '--name', name]), name);
    await daemon.restart();
    await row(daemon, (one) => one.name === name && one.state === 'ready' && by(one) === 'command');
    assert.match(await daemon.ok(['csi', 'probe', name]), /x\.sock +ready +controller node/);
    const [plugin] = JSON.parse(await daemon.ok(['csi', 'inspect', name]));
    assert.equal(plugin.nodeId, 'node-of-the-fake');
    assert.equal(plugin.maxVolumesPerNode, null);
    assert.equal(plugin.sockets[0].failuresInARow, 0);
    assert.ok(Date.parse(plugin.sockets[0].lastSuccessAt) > Date.parse(plugin.sockets[0].sinceAt) - 1000);
    assert.equal((await daemon.cli(['csi', 'inspect', 'no.csi.test'])).code, 1);

    const image = await daemon.importBusybox();
    await daemon.ok(['volume', 'create', 'data', '--size', '16Mi', '--driver', name]);
    const run = ['run', '-d', '--name', 'user', '--network', 'none', '-v', 'data:/data', image, '--', 'sleep', '1000'];
    await daemon.ok(run);
    const kept = await daemon.cli(['csi', 'unregister', name]);
    assert.equal(kept.code, 1);
    assert.match(kept.stderr, /has volumes in use \(data\): .*--force/);
    await daemon.ok(['rm', '-f', 'user']);
    await daemon.ok(['volume', 'rm', 'data']);
    assert.equal(await daemon.ok(['csi', 'unregister', name]), name);
    await daemon.restart();
    assert.deepEqual(await rows(daemon), []);
  });
});
