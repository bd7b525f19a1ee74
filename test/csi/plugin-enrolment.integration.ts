/** Plugins registered by files that come and go, and by commands that outlive the daemon. Real sockets, no root needed. */
import assert from 'node:assert/strict';
import { mkdir, rename, unlink, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { pluginChecks, propagationLine } from '../../src/csi/plugin-checks.ts';
import { PluginDropInDirectory } from '../../src/csi/plugin-drop-in-directory.ts';
import { decodeEnrolledPlugin, PluginEnrolment } from '../../src/csi/plugin-enrolment.ts';
import { PluginRegistry } from '../../src/csi/plugin-registry.ts';
import { propagationOf } from '../../src/csi/shared-mount.ts';
import { hostCommand } from '../../src/host-command.ts';
import { parseMountInfo } from '../../src/mountinfo.ts';
import { Database, MemoryStore } from '../../src/store.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { hasCode, log, type Place, place, soon, until, untilRow } from './plugin-place.ts';
import { startPlugin } from './plugin-server.ts';

const NAME = 'enrolled.csi.test';

async function withFiles(t: TestScope): Promise<Place & { readonly conf: string; start(): Promise<void> }> {
  const { dir, registry } = await place(t);
  const conf = `${dir}/csi.d`;
  await mkdir(conf);
  const dropIns = new PluginDropInDirectory({ dir: conf, registry, log, rescanMs: 200 });
  cleanup(t, () => dropIns.close());
  const start = async (): Promise<void> => {
    await dropIns.start();
    await registry.start(soon());
  };
  return { dir, registry, conf, start };
}

describe('PluginDropInDirectory', () => {
  test('a new, a changed and a removed file take effect while the daemon runs', async (t) => {
    const { dir, registry, conf, start } = await withFiles(t);
    await startPlugin(t, { path: `${dir}/a.sock`, name: NAME, node: [] });
    await startPlugin(t, { path: `${dir}/b.sock`, name: 'b.csi.test', node: [] });
    await start();
    await writeFile(`${conf}/x.toml`, `socket = "unix://${dir}/a.sock"\n`);
    await registry.waitFor(NAME, soon());
    await writeFile(`${conf}/x.toml`, `name = "b.csi.test"\nsocket = "${dir}/b.sock"\n`);
    await registry.waitFor('b.csi.test', soon());
    assert.throws(() => registry.get(NAME), hasCode('NOT_FOUND'));
    await unlink(`${conf}/x.toml`);
    await until(registry, () => registry.list().length === 0);
  });

  test('a bad file is listed with its reason and hides no other', async (t) => {
    const { dir, registry, conf, start } = await withFiles(t);
    await startPlugin(t, { path: `${dir}/a.sock`, name: NAME, node: [] });
    await writeFile(`${conf}/10-bad.toml`, 'socket = "tcp://1.2.3.4:5"\n');
    await writeFile(`${conf}/20-good.toml`, `socket = "unix://${dir}/a.sock"\n`);
    await hostCommand('mkfifo', [`${conf}/30-pipe.toml`], soon());
    await start();
    assert.deepEqual(registry.get(NAME).sockets, [`${dir}/a.sock`]);
    const [bad, pipe] = registry.list().filter(({ state }) => state === 'invalid');
    assert.equal(bad?.socket, `${conf}/10-bad.toml`);
    assert.match(bad?.reason ?? '', /socket: "tcp:.* must be absolute/);
    assert.match(pipe?.reason ?? '', /no regular file/);
    const line = pluginChecks(registry).find(({ name }) => name.endsWith('10-bad.toml'));
    assert.equal(line?.remedy, `mend ${conf}/10-bad.toml; it is read again at once`);
    await writeFile(`${conf}/10-bad.toml`, `socket = "${dir}/other.sock"\n`);
    await until(registry, () => registry.list().every(({ socket }) => !socket.endsWith('10-bad.toml')));
  });

  test('a file that turns bad keeps its plugin, and says what is wrong', async (t) => {
    const { dir, registry, conf, start } = await withFiles(t);
    await startPlugin(t, { path: `${dir}/a.sock`, name: NAME, node: [] });
    await writeFile(`${conf}/x.toml`, `socket = "${dir}/a.sock"\n`);
    await start();
    const before = registry.get(NAME);
    await writeFile(`${conf}/x.toml`, 'socket = ');
    await untilRow(registry, ({ state }) => state === 'invalid');
    assert.deepEqual(registry.get(NAME).sockets, before.sockets);
    await writeFile(`${conf}/x.toml`, `socket = "${dir}/a.sock"\n`);
    await until(registry, () => registry.list().every(({ state }) => state === 'ready'));
  });

  test('a directory that comes later, or is put in place of another, is read', async (t) => {
    const { dir, registry, conf, start } = await withFiles(t);
    await startPlugin(t, { path: `${dir}/a.sock`, name: NAME, node: [] });
    await start();
    await mkdir(`${dir}/next`);
    await writeFile(`${dir}/next/x.toml`, `socket = "${dir}/a.sock"\n`);
    await rename(conf, `${dir}/old`);
    await rename(`${dir}/next`, conf);
    await registry.waitFor(NAME, soon());
  });
});

interface Enrolled extends Place {
  readonly enrolment: PluginEnrolment;
  readonly used: string[];
  /** What a daemon that starts now makes of the same database. */
  restarted(): Promise<Place & { readonly enrolment: PluginEnrolment }>;
}

async function enrolled(t: TestScope): Promise<Enrolled> {
  const used: string[] = [];
  const { dir } = await place(t);
  const begin = async (): Promise<Place & { readonly enrolment: PluginEnrolment }> => {
    const database = new Database(`${dir}/berth.db`);
    cleanup(t, () => database.close());
    const registry = new PluginRegistry({ pluginDir: `${dir}/csi`, log, rescanMs: 200 });
    cleanup(t, () => registry.close());
    const store = database.store('csi-plugin', decodeEnrolledPlugin);
    const enrolment = new PluginEnrolment({ registry, store, inUse: () => used, answerMs: 500 });
    enrolment.recover();
    await registry.start(soon());
    return { dir, registry, enrolment };
  };
  return { ...(await begin()), used, restarted: begin };
}

const plain = { name: '', controllerSocket: '' };

describe('PluginEnrolment', () => {
  test('a registered plugin is known after a restart, and forgotten when it is unregistered', async (t) => {
    const { dir, registry, enrolment, restarted } = await enrolled(t);
    const socket = `${dir}/a.sock`;
    await startPlugin(t, { path: socket, name: NAME, node: [] });
    const { name } = await enrolment.register({ ...plain, socket: `unix://${socket}` }, soon());
    assert.equal(name, NAME);
    await enrolment.register({ ...plain, socket }, soon());
    assert.deepEqual(registry.inspect(NAME).registrations, [{ source: 'command', origin: NAME }]);
    const later = await restarted();
    assert.deepEqual(later.registry.get(NAME).sockets, [socket]);
    await later.enrolment.unregister(NAME, false, soon());
    assert.throws(() => later.registry.get(NAME), hasCode('NOT_FOUND'));
    const last = await restarted();
    assert.deepEqual(last.registry.list(), []);
  });

  test('controller and node sockets are registered in one go', async (t) => {
    const { dir, enrolment, registry } = await enrolled(t);
    const services = ['CONTROLLER_SERVICE'];
    await startPlugin(t, { path: `${dir}/n.sock`, name: NAME, services, node: [] });
    await startPlugin(t, { path: `${dir}/c.sock`, name: NAME, services, controller: ['CREATE_DELETE_VOLUME'] });
    const controllerSocket = `${dir}/c.sock`;
    await enrolment.register({ socket: `${dir}/n.sock`, name: NAME, controllerSocket }, soon());
    assert.ok(registry.get(NAME).capabilities.controller.has('CREATE_DELETE_VOLUME'));
  });

  test('nothing is registered when the plugin is not as it must be', async (t) => {
    const { dir, registry, enrolment } = await enrolled(t);
    const socket = `${dir}/a.sock`;
    await startPlugin(t, { path: socket, name: NAME, node: [] });
    const starting = await startPlugin(t, { path: `${dir}/s.sock`, name: 's.csi.test', node: [] });
    starting.ready = false;
    await writeFile(`${dir}/file.sock`, '');
    const cases = [
      [{ socket: 'a.sock' }, 'INVALID_ARGUMENT', /socket: "a\.sock" must be absolute/],
      [{ socket: '' }, 'INVALID_ARGUMENT', /must be absolute/],
      [{ socket: `/${'x'.repeat(107)}` }, 'INVALID_ARGUMENT', /108 bytes/],
      [{ socket: `${dir}/absent.sock` }, 'NOT_FOUND', /is not there/],
      [{ socket: `${dir}/file.sock` }, 'INVALID_ARGUMENT', /is no socket/],
      [{ socket: `${dir}/s.sock` }, 'UNAVAILABLE', /is starting: the plugin says/],
      [{ socket, name: 'b c' }, 'INVALID_ARGUMENT', /^name: /],
      [{ socket, name: 'wrong.csi.test' }, 'ALREADY_EXISTS', /calls itself enrolled\.csi\.test, but was registered as/],
      [{ socket, controllerSocket: 'x' }, 'INVALID_ARGUMENT', /^controllerSocket: /],
      [{ socket, controllerSocket: `${dir}/s.sock` }, 'UNAVAILABLE', /s\.sock is starting/],
    ] as const;
    for (const [change, code, text] of cases) {
      await assert.rejects(enrolment.register({ ...plain, ...change }, soon()), hasCode(code, text));
      assert.deepEqual(registry.list(), []);
    }
  });

  test('a name that is taken is refused', async (t) => {
    const { dir, registry, enrolment } = await enrolled(t);
    await startPlugin(t, { path: `${dir}/csi/first.sock`, name: NAME, node: [] });
    await registry.waitFor(NAME, soon());
    await startPlugin(t, { path: `${dir}/a.sock`, name: NAME, node: [] });
    const asked = enrolment.register({ ...plain, socket: `${dir}/a.sock` }, soon());
    await assert.rejects(asked, hasCode('ALREADY_EXISTS', /is taken by the plugin at .*first\.sock/));
    const other = enrolment.unregister(NAME, true, soon());
    await assert.rejects(other, hasCode('FAILED_PRECONDITION', /registered by its socket: stop the plugin, or rm/));
    await assert.rejects(enrolment.unregister('no.csi.test', false, soon()), hasCode('NOT_FOUND'));
  });

  test('volumes in use keep a plugin registered unless it is forced', async (t) => {
    const { dir, registry, enrolment, used } = await enrolled(t);
    await startPlugin(t, { path: `${dir}/a.sock`, name: NAME, node: [] });
    await enrolment.register({ ...plain, socket: `${dir}/a.sock` }, soon());
    used.push('data', 'logs');
    await assert.rejects(
      enrolment.unregister(NAME, false, soon()),
      hasCode('FAILED_PRECONDITION', /has volumes in use \(data, logs\): .*--force/),
    );
    assert.equal(registry.get(NAME).name, NAME);
    await enrolment.unregister(NAME, true, soon());
    assert.deepEqual(registry.list(), []);
  });

  test('a record that cannot be read is listed, and can be taken away', async (t) => {
    const { registry } = await place(t);
    const damaged = new Map([['broken.csi.test', 'not understood']]);
    const store = Object.assign(new MemoryStore<ReturnType<typeof decodeEnrolledPlugin>>(), {
      damaged: () => damaged,
    });
    const enrolment = new PluginEnrolment({ registry, store, inUse: () => [] });
    enrolment.recover();
    assert.equal(registry.inspect('broken.csi.test').reason, 'record: not understood');
    await enrolment.unregister('broken.csi.test', false, soon());
    assert.deepEqual(registry.list(), []);
  });
});

describe('propagationOf', () => {
  const text = [
    '22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw',
    '30 22 0:25 / /var/lib rw - tmpfs tmpfs rw',
    '31 30 0:26 / /var/lib/berth rw shared:7 master:2 - tmpfs tmpfs rw',
    '32 31 0:27 / /var/lib/berth/csi rw shared:8 - tmpfs tmpfs rw',
    '33 32 0:28 / /var/lib/berth/csi rw - tmpfs tmpfs rw',
  ].join('\n');
  const mounts = parseMountInfo(text);

  for (const [path, mountPoint, shared] of [
    ['/run/berth', '/', true],
    ['/var/lib/other', '/var/lib', false],
    ['/var/lib/berth', '/var/lib/berth', true],
    ['/var/lib/berthed', '/var/lib', false],
    ['/var/lib/berth/csi/mounts', '/var/lib/berth/csi', false],
  ] as const) {
    test(`${path} lies on ${mountPoint}`, () => {
      assert.deepEqual(propagationOf(mounts, path), { mountPoint, shared });
    });
  }

  test('the line of a mount that is not shared says how to share it', () => {
    const line = propagationLine('/var/lib/other', propagationOf(mounts, '/var/lib/other'));
    assert.equal(line.state, 'warn');
    assert.equal(line.remedy, 'mount --make-shared /var/lib');
    assert.equal(propagationLine('/run/berth', propagationOf(mounts, '/run/berth')).state, 'ok');
  });
});
