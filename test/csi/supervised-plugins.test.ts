/** Plugins that are brought in line with their files, with real processes and a registry that only listens. */
import assert from 'node:assert/strict';
import { mkdirSync, rmdirSync } from 'node:fs';
import { test } from 'node:test';
import { pino } from 'pino';
import type { PluginDropIn } from '../../src/csi/plugin-drop-ins.ts';
import { PluginPlaces } from '../../src/csi/plugin-places.ts';
import { SharedDirectory } from '../../src/csi/shared-mount.ts';
import { SupervisedPlugins } from '../../src/csi/supervised-plugins.ts';
import type { SupervisedRecord } from '../../src/csi/supervised-record.ts';
import { isAlive, signalProcess } from '../../src/process-identity.ts';
import { MemoryStore } from '../../src/store.ts';
import { cleanup } from '../support/cleanup.ts';
import { tempDir } from '../support/temp-dir.ts';
import { until } from './supervised-host.ts';

test('a plugin whose end failed is ended and started anew as soon as that can be done', async (t) => {
  const dir = await tempDir(t);
  const log = pino({ level: 'silent' });
  const store = new MemoryStore<SupervisedRecord>();
  const nothing = (): void => undefined;
  const plugins = new SupervisedPlugins({
    store,
    registry: {
      register: nothing,
      deregister: nothing,
      report: nothing,
      unreport: nothing,
      list: () => [],
      onReady: () => nothing,
    },
    places: new PluginPlaces({ socketsDir: `${dir}/plugins`, logsDir: `${dir}/logs`, log }),
    volumes: new SharedDirectory(`${dir}/mounts`),
    nodeId: 'here',
    bootId: 'boot-1',
    inUse: () => [],
    log,
    lookMs: 20,
  });
  const processOf = () => store.read('some')?.run?.process;
  cleanup(t, async () => {
    await plugins.close();
    const left = processOf();
    if (left !== undefined) signalProcess(left, 'SIGKILL');
  });
  const file = (seconds: string): PluginDropIn => ({
    file: '/etc/berth/csi.d/some.toml',
    sockets: [],
    supervision: { kind: 'process', command: ['/bin/sleep', seconds], env: {}, graceSeconds: 1 },
  });
  plugins.recover();
  plugins.apply({ good: [file('1000')], bad: [] });
  const first = await until(processOf);
  // No file: it cannot be taken away.
  const socket = `${dir}/plugins/some/csi.sock`;
  mkdirSync(socket);
  plugins.apply({ good: [file('2000')], bad: [] });
  await until(() => !isAlive(first));
  rmdirSync(socket);
  const second = await until(() => {
    const found = processOf();
    return found?.pid === first.pid ? undefined : found;
  });
  assert.ok(isAlive(second));
  assert.deepEqual(store.read('some')?.supervision, file('2000').supervision);
});
