import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { CniRuntime } from '../../src/cni/cni-runtime.ts';
import { NetworkConfigs } from '../../src/cni/network-config.ts';
import type { NetworkRecord } from '../../src/cni/network-record.ts';
import { PluginPath } from '../../src/cni/plugin-path.ts';
import { NetworkReload } from '../../src/networks/network-reload.ts';
import { MemoryStore } from '../../src/store.ts';
import { silent } from '../cni/cni-fixture.ts';

const NETWORK = {
  ...{ name: 'net', cniVersion: '1.0.0', disableCheck: false, disableGC: false, owned: true },
  plugins: [{ type: 'bridge', ipMasq: true }],
};

describe('NetworkReload.reload', () => {
  test('makes no rules for what is being added or deleted', async () => {
    const store = new MemoryStore<NetworkRecord>();
    const result = { ips: [{ address: '10.87.70.5/24' }] };
    for (const state of ['planned', 'adding', 'deleting'] as const) {
      const entry = { network: NETWORK, interfaceName: 'eth0', args: [], capabilityArgs: {}, state, result };
      store.create(state, { mode: 'networks', bootId: 'b', netnsPath: `/run/netns/${state}`, attachments: [entry] });
    }
    const ran: string[] = [];
    const reload = new NetworkReload({
      cni: {} as CniRuntime,
      configs: new NetworkConfigs({ confDirs: [], fallbackDir: '/nowhere', plugins: new PluginPath([]) }),
      store,
      lanes: {
        inLane: <T>(_: string, work: (container: never, joint: AbortSignal) => Promise<T>, signal: AbortSignal) =>
          work(undefined as never, signal),
      },
      run: async ({ file }) => {
        ran.push(file);
        return { kind: 'exited', exitCode: 0, signalName: null, stdout: '', stderr: '' };
      },
      log: silent,
    });
    assert.deepEqual(await reload.reload(undefined, AbortSignal.timeout(5000)), []);
    assert.deepEqual(ran, []);
  });
});
