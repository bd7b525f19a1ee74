/** What every plugin is asked when it is met (CSI Identity, the capability calls, NodeGetInfo). */
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { test } from 'node:test';
import { pino } from 'pino';
import { PluginRegistry } from '../../src/csi/plugin-registry.ts';
import { cleanup } from '../support/cleanup.ts';
import { startFakeCsi } from '../support/fake-csi.ts';
import { tempDir } from '../support/temp-dir.ts';
import { until } from './snapshot-host.ts';
import { soon } from './volume-host.ts';

test('a plugin is asked who it is, whether it is ready, what it offers and where it is, at each connection anew', async (t) => {
  const dir = await tempDir(t);
  await mkdir(`${dir}/csi`);
  const registry = new PluginRegistry({ pluginDir: `${dir}/csi`, log: pino({ level: 'silent' }), rescanMs: 100 });
  cleanup(t, () => registry.close());
  await registry.start(soon());
  const all = {
    socketPath: `${dir}/csi/fake.sock`,
    backingDir: `${dir}/backing`,
    controller: ['CREATE_DELETE_VOLUME'],
    node: ['STAGE_UNSTAGE_VOLUME'],
    groupController: ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'],
  };
  const expected = [
    ['GetPluginInfo', 'Probe', 'GetPluginCapabilities'],
    ['ControllerGetCapabilities', 'GroupControllerGetCapabilities', 'NodeGetCapabilities', 'NodeGetInfo'],
  ];
  for (const _connection of [1, 2]) {
    const plugin = await startFakeCsi(t, all);
    await registry.waitFor(plugin.name, soon());
    const asked = plugin.calls.map(({ rpc }) => rpc);
    // The first three one after the other; the others are asked side by side.
    assert.deepEqual([asked.slice(0, 3), asked.slice(3, 7).sort()], expected);
    plugin.stop();
    await until(() => registry.list().every(({ state }) => state !== 'ready'), 'gone');
  }

  const { socketPath, backingDir, node } = all;
  const nodeOnly = await startFakeCsi(t, { socketPath, backingDir, node });
  await registry.waitFor(nodeOnly.name, soon());
  const asked = new Set(nodeOnly.calls.map(({ rpc }) => rpc));
  assert.ok(!asked.has('ControllerGetCapabilities') && !asked.has('GroupControllerGetCapabilities'));
});
