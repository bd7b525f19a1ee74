/** Kubelet's plugin registration: registrars as node-driver-registrar is one, on real sockets. No root needed. */
import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import type { PluginSummary } from '../../src/csi/plugin-summary.ts';
import { RegistrarDirectory } from '../../src/csi/registrar-directory.ts';
import { checkPluginInfo } from '../../src/csi/registrar-info.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { hasCode, log, type Place, place, soon, until, untilRow } from './plugin-place.ts';
import { startPlugin, startRegistrar } from './plugin-server.ts';

const NAME = 'announced.csi.test';
const TAKEN = { pluginRegistered: true, error: '' };

interface Announced extends Place {
  /** The registry directory. */
  readonly reg: string;
  /** What node-driver-registrar says of a plugin at this endpoint. */
  readonly info: (endpoint: string) => Record<string, unknown>;
}

async function announced(t: TestScope, answerMs?: number): Promise<Announced> {
  const { dir, registry } = await place(t);
  const reg = `${dir}/registry`;
  const registrars = new RegistrarDirectory({ dir: reg, registry, log, rescanMs: 200, answerMs });
  cleanup(t, () => registrars.close());
  await registry.start(soon());
  await registrars.start(soon());
  const info = (endpoint: string): Record<string, unknown> => {
    return { type: 'CSIPlugin', name: NAME, endpoint, supportedVersions: ['1.0.0'] };
  };
  return { dir, registry, reg, info };
}

describe('RegistrarDirectory', () => {
  test('a registrar is asked, its plugin met at its endpoint, and the registrar told', async (t) => {
    const { dir, registry, reg, info } = await announced(t);
    const plugin = await startPlugin(t, { path: `${dir}/driver.sock`, name: NAME, node: [] });
    const registrar = await startRegistrar(t, { path: `${reg}/${NAME}-reg.sock`, info: info(plugin.path) });
    await until(registry, () => registrar.verdicts.length > 0);
    assert.deepEqual(registrar.verdicts, [TAKEN]);
    assert.deepEqual(registrar.calls, ['GetInfo', 'NotifyRegistrationStatus']);
    assert.deepEqual([...registrar.authorities], ['localhost']);
    // CSI 1.0 registration means that NodeGetInfo was answered before the verdict.
    assert.ok(plugin.calls.includes('NodeGetInfo'));
    assert.deepEqual(registry.get(NAME).sockets, [plugin.path]);
    assert.deepEqual(registry.inspect(NAME).registrations, [{ source: 'registrar', origin: registrar.path }]);
  });

  test('the plugin is forgotten when the socket goes, and registered anew when it is back', async (t) => {
    const { dir, registry, reg, info } = await announced(t);
    const plugin = await startPlugin(t, { path: `${dir}/driver.sock`, name: NAME, node: [] });
    const options = { path: `${reg}/a-reg.sock`, info: info(plugin.path) };
    const first = await startRegistrar(t, options);
    await registry.waitFor(NAME, soon());
    await until(registry, () => first.verdicts.length > 0);
    first.stop();
    await until(registry, () => registry.list().length === 0);
    assert.throws(() => registry.get(NAME), hasCode('NOT_FOUND'));
    const second = await startRegistrar(t, options);
    await until(registry, () => second.verdicts.length > 0);
    assert.deepEqual(second.verdicts, [TAKEN]);
    assert.equal(registry.get(NAME).name, NAME);
  });

  test('registrars in directories below are found, hidden ones and what is no socket passed over', async (t) => {
    const { dir, registry, reg, info } = await announced(t);
    const plugin = await startPlugin(t, { path: `${dir}/driver.sock`, name: NAME, node: [] });
    await writeFile(`${reg}/file-reg.sock`, '');
    await mkdir(`${reg}/one/two`, { recursive: true });
    const hidden = await startRegistrar(t, { path: `${reg}/.hidden.sock`, info: info(plugin.path) });
    await symlink(hidden.path, `${reg}/link-reg.sock`);
    const registrar = await startRegistrar(t, { path: `${reg}/one/two/x-reg.sock`, info: info(plugin.path) });
    await until(registry, () => registrar.verdicts.length > 0);
    assert.deepEqual(hidden.calls, []);
    assert.equal(registry.list().length, 1);
  });

  test('an empty endpoint means the registrar socket itself', () => {
    const info = { type: 'CSIPlugin', name: NAME, endpoint: '', supportedVersions: ['1.0.0'] };
    assert.deepEqual(checkPluginInfo(info, '/r.sock'), { name: NAME, endpoint: '/r.sock' });
  });

  const bad: readonly (readonly [title: string, change: Record<string, unknown>, reason: RegExp])[] = [
    ['of another type', { type: 'DevicePlugin' }, /type: "DevicePlugin" is no kind/],
    ['with a name that is none', { name: '../x' }, /^name: /],
    ['without versions', { supportedVersions: [] }, /supported_versions: none is named/],
    ['of a version to come', { supportedVersions: ['2.0.0', 'v3.1', 'latest'] }, /supported_versions: "2\.0\.0"/],
    ['with a relative endpoint', { endpoint: 'driver.sock' }, /endpoint: .* must be absolute/],
    ['with an endpoint too long', { endpoint: `/${'x'.repeat(120)}` }, /endpoint: .* has 121 bytes/],
    ['whose endpoint is not there', { endpoint: '/absent/driver.sock' }, /absent\/driver\.sock is not there/],
    ['under another name than the plugin gives', { name: 'wrong.csi.test' }, /calls itself announced\.csi\.test/],
  ];
  for (const [title, change, reason] of bad) {
    test(`refuses a plugin ${title}, and says so to the registrar and in the list`, async (t) => {
      const { dir, registry, reg, info } = await announced(t);
      const plugin = await startPlugin(t, { path: `${dir}/driver.sock`, name: NAME, node: [] });
      const path = `${reg}/x-reg.sock`;
      const registrar = await startRegistrar(t, { path, info: { ...info(plugin.path), ...change } });
      await until(registry, () => registrar.verdicts.length > 0);
      const [verdict] = registrar.verdicts;
      assert.equal(verdict?.pluginRegistered, false);
      assert.match(String(verdict?.error), reason);
      const row = await untilRow(registry, ({ state }) => state === 'invalid');
      assert.equal(row.socket, path);
      assert.match(row.reason ?? '', reason);
      assert.throws(() => registry.get(NAME), hasCode('NOT_FOUND'));
      // node-driver-registrar ends after such a verdict: nothing stays.
      registrar.stop();
      await until(registry, () => registry.list().length === 0);
    });
  }

  test('refuses a second plugin of a name', async (t) => {
    const { dir, registry, reg, info } = await announced(t);
    await startPlugin(t, { path: `${dir}/csi/first.sock`, name: NAME, node: [] });
    await registry.waitFor(NAME, soon());
    const plugin = await startPlugin(t, { path: `${dir}/driver.sock`, name: NAME, node: [] });
    const registrar = await startRegistrar(t, { path: `${reg}/x-reg.sock`, info: info(plugin.path) });
    await until(registry, () => registrar.verdicts.length > 0);
    assert.match(String(registrar.verdicts[0]?.error), /the name announced\.csi\.test is taken by the plugin at/);
    assert.deepEqual(registry.get(NAME).sockets, [`${dir}/csi/first.sock`]);
  });

  test('waits for a plugin that is starting, and refuses one that never is ready', async (t) => {
    const { dir, registry, reg, info } = await announced(t, 500);
    const plugin = await startPlugin(t, { path: `${dir}/driver.sock`, name: NAME, node: [] });
    plugin.ready = false;
    const registrar = await startRegistrar(t, { path: `${reg}/x-reg.sock`, info: info(plugin.path) });
    await until(registry, () => registrar.verdicts.length > 0);
    assert.match(String(registrar.verdicts[0]?.error), /is starting: the plugin says it is not ready yet/);
    plugin.ready = true;
    await until(registry, () => registrar.verdicts.length > 1);
    assert.deepEqual(registrar.verdicts[1], TAKEN);
    await until(registry, () => registry.list().every(({ state }) => state === 'ready'));
  });

  test('a registrar that hangs, floods, or vanishes under the call holds up no other', async (t) => {
    const { dir, registry, reg, info } = await announced(t);
    const plugin = await startPlugin(t, { path: `${dir}/driver.sock`, name: NAME, node: [] });
    const never = (): Promise<never> => new Promise<never>(() => undefined);
    const hanging = await startRegistrar(t, { path: `${reg}/a.sock`, info: {}, handlers: { GetInfo: never } });
    const flood = { GetInfo: () => ({ ...info(plugin.path), name: 'x'.repeat(5 * 2 ** 20) }) };
    await startRegistrar(t, { path: `${reg}/b.sock`, info: {}, handlers: flood });
    const row = await untilRow(registry, ({ socket }) => socket.endsWith('/b.sock'));
    assert.match(row.reason ?? '', /GetInfo of the registrar at .* larger than max/i);
    // This one dies when it is told, and leaves no socket.
    const vanishing = await startRegistrar(t, {
      path: `${reg}/c.sock`,
      info: info(plugin.path),
      handlers: {
        NotifyRegistrationStatus: () => {
          vanishing.stop();
          return {};
        },
      },
    });
    await until(registry, () => vanishing.calls.includes('NotifyRegistrationStatus'));
    // Neither the registration nor a complaint is left of it.
    const isLeft = ({ name, socket }: PluginSummary): boolean => name === NAME || socket.endsWith('/c.sock');
    await until(registry, () => !registry.list().some(isLeft));
    assert.throws(() => registry.get(NAME), hasCode('NOT_FOUND'));
    const good = await startRegistrar(t, { path: `${reg}/d.sock`, info: info(plugin.path) });
    await until(registry, () => good.verdicts.length > 0);
    assert.deepEqual(good.verdicts, [TAKEN]);
    assert.deepEqual(hanging.calls, ['GetInfo']);
    hanging.stop();
  });
});
