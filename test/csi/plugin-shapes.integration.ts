/** Plugins with one socket or several, whose sockets come back changed. Real sockets, no root needed. */
import assert from 'node:assert/strict';
import { mkdir, rename, symlink, unlink, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { describe, test } from 'node:test';
import { CsiError } from '../../src/csi/protocol.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { fileOf, hasCode, place, soon, until, untilRow } from './plugin-place.ts';
import { startPlugin } from './plugin-server.ts';

const NAME = 'shape.csi.test';
const CREATE = { name: 'v', volumeCapabilities: [{ mount: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' as const } }] };
const UNPUBLISH = { volumeId: 'v', targetPath: '/t' };

describe('the sockets of a plugin', () => {
  test('calls go to the socket that serves them, controller and node apart', async (t) => {
    const { dir, registry } = await place(t);
    const services = ['CONTROLLER_SERVICE'];
    const controller = ['CREATE_DELETE_VOLUME'];
    const a = await startPlugin(t, { path: `${dir}/ctl.sock`, name: NAME, services, controller });
    const b = await startPlugin(t, { path: `${dir}/node.sock`, name: NAME, services, node: ['STAGE_UNSTAGE_VOLUME'] });
    registry.register(
      fileOf(`${dir}/x`, {
        sockets: [
          { path: a.path, role: 'controller' },
          { path: b.path, role: 'node' },
        ],
      }),
    );
    const plugin = await registry.waitFor(NAME, soon());
    assert.deepEqual([...plugin.capabilities.controller], controller);
    assert.deepEqual([...plugin.capabilities.node], ['STAGE_UNSTAGE_VOLUME']);
    assert.equal(plugin.nodeId, 'node-1');
    const { volume } = await plugin.call('CreateVolume', CREATE, soon());
    assert.equal(volume?.volumeId, `made at ${a.path}`);
    await plugin.call('NodeUnpublishVolume', UNPUBLISH, soon());
    assert.ok(a.calls.includes('CreateVolume') && !a.calls.includes('NodeGetInfo'));
    assert.ok(b.calls.includes('NodeUnpublishVolume') && !b.calls.includes('ControllerGetCapabilities'));
    assert.deepEqual(
      registry.list().map(({ name, sockets }) => [name, sockets.map(({ role, serves }) => [role, ...serves])]),
      [
        [
          NAME,
          [
            ['controller', 'controller'],
            ['node', 'node'],
          ],
        ],
      ],
    );
  });

  test('a controller that goes away keeps its capabilities, fails its calls, and holds up no node call', async (t) => {
    const { dir, registry } = await place(t);
    const services = ['CONTROLLER_SERVICE'];
    const options = { path: `${dir}/ctl.sock`, name: NAME, services, controller: ['CREATE_DELETE_VOLUME'] };
    const a = await startPlugin(t, options);
    const b = await startPlugin(t, { path: `${dir}/node.sock`, name: NAME, node: [] });
    registry.register(fileOf(`${dir}/x`, { sockets: [{ path: a.path }, { path: b.path }] }));
    await registry.waitFor(NAME, soon());
    a.stop();
    const row = await untilRow(registry, ({ state }) => state === 'unreachable');
    assert.equal(row.name, NAME);
    const plugin = registry.get(NAME);
    assert.deepEqual([...plugin.capabilities.controller], ['CREATE_DELETE_VOLUME']);
    await assert.rejects(plugin.call('CreateVolume', CREATE, soon()), (error) => {
      return error instanceof CsiError && error.code === 'UNAVAILABLE';
    });
    await plugin.call('NodeUnpublishVolume', UNPUBLISH, soon());
    await startPlugin(t, options);
    await untilRow(registry, ({ state }) => state === 'ready');
    await registry.get(NAME).call('CreateVolume', CREATE, soon());
  });

  test('a plugin of several sockets is not known before all have answered', async (t) => {
    const { dir, registry } = await place(t);
    const b = await startPlugin(t, { path: `${dir}/node.sock`, name: NAME, node: [] });
    const controller = { path: `${dir}/ctl.sock`, role: 'controller' } as const;
    registry.register(fileOf(`${dir}/x`, { name: NAME, sockets: [controller, { path: b.path }] }));
    await untilRow(registry, ({ sockets }) => sockets.some(({ state }) => state === 'ready'));
    assert.throws(() => registry.get(NAME), hasCode('UNAVAILABLE', /its controller at .*ctl\.sock is unreachable/));
    const services = ['CONTROLLER_SERVICE'];
    await startPlugin(t, { path: controller.path, name: NAME, services, controller: [] });
    await registry.waitFor(NAME, soon());
  });

  test('a node-only socket may speak of a controller that is elsewhere', async (t) => {
    const { dir, registry } = await place(t);
    await startPlugin(t, { path: `${dir}/csi/n.sock`, name: NAME, services: ['CONTROLLER_SERVICE'], node: [] });
    await registry.start(soon());
    const plugin = registry.get(NAME);
    assert.equal(plugin.capabilities.controller.size, 0);
    await assert.rejects(plugin.call('CreateVolume', CREATE, soon()), hasCode('UNIMPLEMENTED', /csi\.v1\.Controller/));
  });

  test('two registrations add up when one has the controller and one the node', async (t) => {
    const { dir, registry } = await place(t);
    const services = ['CONTROLLER_SERVICE'];
    await startPlugin(t, { path: `${dir}/csi/n.sock`, name: NAME, services, node: [] });
    const a = await startPlugin(t, { path: `${dir}/ctl.sock`, name: NAME, services, controller: [] });
    registry.register(fileOf(a.path));
    await registry.start(soon());
    await registry.get(NAME).call('CreateVolume', CREATE, soon());
    assert.equal(registry.list().length, 1);
    assert.deepEqual(
      registry.inspect(NAME).registrations.map(({ source }) => source),
      ['file', 'directory'],
    );
  });

  test('a controller alone is not ready, and a socket that serves neither part is not, either', async (t) => {
    const { dir, registry } = await place(t);
    const services = ['CONTROLLER_SERVICE'];
    await startPlugin(t, { path: `${dir}/csi/c.sock`, name: NAME, services, controller: [] });
    await startPlugin(t, { path: `${dir}/csi/i.sock`, name: 'idle.csi.test', services });
    await registry.start(soon());
    assert.throws(() => registry.get(NAME), hasCode('UNAVAILABLE', /none of its sockets serves Node/));
    const idle = registry.list().find(({ socket }) => socket.endsWith('i.sock'));
    assert.match(idle?.reason ?? '', /does not serve Controller or Node/);
  });

  test('DIR/NAME/controller.sock and node.sock are one plugin', async (t) => {
    const { dir, registry } = await place(t);
    await mkdir(`${dir}/csi/two`);
    const services = ['CONTROLLER_SERVICE'];
    await startPlugin(t, { path: `${dir}/csi/two/controller.sock`, name: NAME, services, controller: [], node: [] });
    await startPlugin(t, { path: `${dir}/csi/two/node.sock`, name: NAME, services, controller: [], node: [] });
    await registry.start(soon());
    const { sockets } = await registry.waitFor(NAME, soon());
    assert.deepEqual(sockets, [`${dir}/csi/two/controller.sock`, `${dir}/csi/two/node.sock`]);
  });

  test('a group controller is asked where it is offered, and called where it is served', async (t) => {
    const { dir, registry } = await place(t);
    const services = ['CONTROLLER_SERVICE', 'GROUP_CONTROLLER_SERVICE'];
    const groupController = ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'];
    const a = await startPlugin(t, { path: `${dir}/c.sock`, name: NAME, services, controller: [], groupController });
    const b = await startPlugin(t, { path: `${dir}/n.sock`, name: NAME, services, node: [] });
    registry.register(fileOf(`${dir}/x`, { sockets: [{ path: a.path }, { path: b.path }] }));
    const plugin = await registry.waitFor(NAME, soon());
    assert.deepEqual([...plugin.capabilities.groupController], groupController);
    await plugin.call('GetVolumeGroupSnapshot', { groupSnapshotId: 'g', snapshotIds: ['s'] }, soon());
    assert.ok(a.calls.includes('GetVolumeGroupSnapshot'));
    assert.ok(registry.inspect(NAME).capabilities.includes(`groupController:${groupController[0]}`));
  });

  test('max_volumes_per_node and topology are read again at each reconnect', async (t) => {
    const { dir, registry } = await place(t);
    const services = ['VOLUME_ACCESSIBILITY_CONSTRAINTS'];
    const options = { path: `${dir}/csi/n.sock`, name: NAME, services, node: [] };
    const first = await startPlugin(t, options);
    first.node = { nodeId: 'n1', maxVolumesPerNode: '8', accessibleTopology: { segments: { zone: 'a' } } };
    await registry.start(soon());
    const before = registry.get(NAME);
    assert.equal(before.maxVolumesPerNode, 8);
    assert.deepEqual({ ...before.topology }, { zone: 'a' });
    first.node = { nodeId: 'n1', maxVolumesPerNode: '0', accessibleTopology: { segments: { zone: 'b' } } };
    await registry.probe(NAME, soon());
    const after = registry.get(NAME);
    assert.equal(after.maxVolumesPerNode, undefined);
    assert.deepEqual({ ...after.topology }, { zone: 'b' });
    first.node = { nodeId: 'n1', maxVolumesPerNode: '-1' };
    assert.match((await registry.probe(NAME, soon())).reason ?? '', /max_volumes_per_node is negative/);
  });

  test('what a plugin is called in HTTP is localhost', async (t) => {
    const { dir, registry } = await place(t);
    const plugin = await startPlugin(t, { path: `${dir}/csi/n.sock`, name: NAME, node: [] });
    await registry.start(soon());
    await registry.get(NAME).call('NodeUnpublishVolume', UNPUBLISH, soon());
    assert.deepEqual([...plugin.authorities], ['localhost']);
  });
});

describe('a socket that changes', () => {
  test('another name at a known socket is refused until it is registered anew', async (t) => {
    const { dir, registry } = await place(t);
    const path = `${dir}/x.sock`;
    const first = await startPlugin(t, { path, name: NAME, node: [] });
    registry.register(fileOf(path));
    await registry.waitFor(NAME, soon());
    first.stop();
    await startPlugin(t, { path, name: 'other.csi.test', node: [] });
    const row = await untilRow(registry, ({ state }) => state === 'refused');
    assert.match(row.reason ?? '', /calls itself other\.csi\.test now, but was shape\.csi\.test before \(file /);
    assert.throws(() => registry.get('other.csi.test'), hasCode('UNAVAILABLE'));
    registry.deregister(`file:${path}`);
    registry.register(fileOf(path));
    await registry.waitFor('other.csi.test', soon());
  });

  test("a registration that is wrong about a socket does not end another's plugin", async (t) => {
    const { dir, registry } = await place(t);
    const path = `${dir}/csi/x.sock`;
    const options = { path, name: NAME, node: [] };
    await startPlugin(t, options);
    await registry.start(soon());
    registry.register(fileOf(path, { name: 'wrong.csi.test' }));
    await assert.rejects(
      registry.settled(`file:${path}`, soon()),
      hasCode('ALREADY_EXISTS', /was registered as wrong/),
    );
    assert.equal((await registry.probe(NAME, soon())).state, 'ready');
  });

  test('a registration with a name takes no other', async (t) => {
    const { dir, registry } = await place(t);
    const path = `${dir}/x.sock`;
    await startPlugin(t, { path, name: NAME, node: [] });
    registry.register(fileOf(path, { name: 'wanted.csi.test' }));
    const row = await untilRow(registry, ({ state }) => state === 'refused');
    assert.match(row.reason ?? '', /calls itself shape\.csi\.test, but was registered as wanted\.csi\.test/);
    await assert.rejects(registry.settled(`file:${path}`, soon()), hasCode('ALREADY_EXISTS'));
  });

  test('a socket file that was replaced is dialled again, though the old one still answers', async (t) => {
    const { dir, registry } = await place(t);
    const path = `${dir}/x.sock`;
    const first = await startPlugin(t, { path, name: NAME, node: [] });
    registry.register(fileOf(path));
    await registry.waitFor(NAME, soon());
    const second = await startPlugin(t, { path: `${dir}/y.sock`, name: NAME, node: ['STAGE_UNSTAGE_VOLUME'] });
    await rename(second.path, path);
    await until(registry, () => registry.get(NAME).capabilities.node.has('STAGE_UNSTAGE_VOLUME'));
    const before = first.calls.length;
    await registry.get(NAME).call('NodeUnpublishVolume', UNPUBLISH, soon());
    assert.equal(first.calls.length, before);
    assert.ok(second.calls.includes('NodeUnpublishVolume'));
    await unlink(path);
  });

  test('a plugin is probed while nobody uses it, and its health is told', async (t) => {
    const { dir, registry } = await place(t, { probeMs: 0 });
    const plugin = await startPlugin(t, { path: `${dir}/csi/n.sock`, name: NAME, node: [] });
    await registry.start(soon());
    const since = registry.inspect(NAME).sockets[0]?.health;
    assert.equal(since?.failuresInARow, 0);
    plugin.ready = false;
    const row = await untilRow(registry, ({ state }) => state === 'starting');
    assert.match(row.reason ?? '', /no longer ready|not ready yet/);
    const health = await until(registry, () => {
      const now = registry.inspect(NAME).sockets[0]?.health;
      return now !== undefined && now.failuresInARow > 2 && now;
    });
    assert.ok((health.lastSuccessAt ?? '') < (health.lastProbeAt ?? ''));
    assert.ok(health.sinceAt > (since?.sinceAt ?? ''));
    plugin.ready = true;
    const ready = await registry.waitFor(NAME, soon()).then(() => registry.inspect(NAME).sockets[0]?.health);
    assert.equal(ready?.failuresInARow, 0);
  });
});

describe('sockets that are none', () => {
  test('links, files and what is too long are refused with the reason', async (t) => {
    const { dir, registry } = await place(t);
    await startPlugin(t, { path: `${dir}/real.sock`, name: NAME, node: [] });
    await symlink(`${dir}/real.sock`, `${dir}/link.sock`);
    await writeFile(`${dir}/file.sock`, '');
    for (const name of ['link', 'file', 'absent']) registry.register(fileOf(`${dir}/${name}.sock`));
    await registry.start(soon());
    const reasons = registry.list().map(({ state, reason }) => `${state} ${reason?.replaceAll(dir, '')}`);
    assert.deepEqual(reasons, [
      'unreachable /absent.sock is not there; start the plugin with CSI_ENDPOINT=unix:///absent.sock',
      'unreachable /file.sock is no socket',
      'unreachable /link.sock is a symbolic link; name the socket itself',
    ]);
  });

  test('a socket in the directory whose path is too long to dial is listed', async (t) => {
    const { dir, registry } = await place(t);
    await startPlugin(t, { path: `${dir}/s.sock`, name: NAME, node: [] });
    const below = `${dir}/csi/${'x'.repeat(100)}`;
    await mkdir(below);
    await rename(`${dir}/s.sock`, `${below}/csi.sock`);
    await registry.start(soon());
    const [row] = registry.list();
    assert.equal(row?.state, 'invalid');
    assert.match(row?.reason ?? '', /bytes, the path of a socket has at most 107/);
    await unlink(`${below}/csi.sock`);
    await until(registry, () => registry.list().length === 0);
  });

  test('a path that cannot be looked at is unreachable until it can', async (t) => {
    const { dir, registry } = await place(t);
    await mkdir(`${dir}/far`);
    const { path } = await startPlugin(t, { path: `${dir}/far/p.sock`, name: NAME, node: [] });
    registry.register(fileOf(`${dir}/x`, { sockets: [{ path }] }));
    await registry.waitFor(NAME, soon());
    await rename(`${dir}/far`, `${dir}/away`);
    await symlink('far', `${dir}/far`);
    await untilRow(registry, ({ state }) => state === 'unreachable');
    await unlink(`${dir}/far`);
    await rename(`${dir}/away`, `${dir}/far`);
    await untilRow(registry, ({ state }) => state === 'ready');
  });

  test('a plugin that dies under a call fails it at once', async (t) => {
    const { dir, registry } = await place(t);
    const never = { NodeUnpublishVolume: () => new Promise<never>(() => undefined) };
    const plugin = await startPlugin(t, { path: `${dir}/csi/d.sock`, name: NAME, node: [], handlers: never });
    await registry.start(soon());
    const call = registry.get(NAME).call('NodeUnpublishVolume', UNPUBLISH, soon());
    // A server that is shut down cancels what it serves; one that is killed is unavailable.
    const failed = assert.rejects(call, (error) => {
      return error instanceof CsiError && ['UNAVAILABLE', 'CANCELLED'].includes(error.code);
    });
    await until(registry, () => plugin.calls.includes('NodeUnpublishVolume'));
    plugin.stop();
    await failed;
  });

  test('an answer of five megabytes, one that never comes, and a lie about the name hold up nobody', async (t) => {
    const { dir, registry } = await place(t, { deadlineMs: 1500 });
    const path = (name: string): string => `${dir}/csi/${name}.sock`;
    const huge = { GetPluginInfo: () => ({ name: 'x'.repeat(5 * 2 ** 20) }) };
    await startPlugin(t, { path: path('huge'), name: '', node: [], handlers: huge });
    const hanging = { GetPluginInfo: () => new Promise<never>(() => undefined) };
    await startPlugin(t, { path: path('hanging'), name: '', node: [], handlers: hanging });
    await startPlugin(t, { path: path('liar'), name: 'a b', node: [] });
    await mute(t, path('mute'));
    await startPlugin(t, { path: path('good'), name: NAME, node: [] });
    await registry.start(soon());
    await registry.waitFor(NAME, soon());
    // A slow machine may take a deadline to see what else is wrong.
    const told = (name: string, text: RegExp): Promise<true> =>
      until(registry, () => text.test(registry.inspect(path(name)).reason ?? ''));
    await told('huge', /GetPluginInfo .*larger than max/i);
    await told('hanging', /GetPluginInfo .*[Dd]eadline/);
    await told('liar', /breaks the protocol: name/);
    await told('mute', /GetPluginInfo .*[Dd]eadline/);
  });
});

/** Something that listens and never says a word. */
async function mute(t: TestScope, path: string): Promise<void> {
  const server: Server = createServer((socket) => {
    cleanup(t, () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  cleanup(t, () => server.close());
}
