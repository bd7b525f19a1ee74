import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Attacher } from '../../src/cni/attacher.ts';
import type { CniRuntime } from '../../src/cni/cni-runtime.ts';
import type { NetworkNamespaces } from '../../src/cni/netns.ts';
import type { NetworkRecord, RecordedAttachment } from '../../src/cni/network-record.ts';
import { CniError } from '../../src/cni/protocol.ts';
import { MemoryStore } from '../../src/store.ts';
import { silent, soon } from './cni-fixture.ts';

const ENTRY: RecordedAttachment = {
  network: {
    name: 'net',
    cniVersion: '1.0.0',
    disableCheck: false,
    disableGC: false,
    owned: false,
    plugins: [{ type: 'busy' }],
  },
  interfaceName: 'eth0',
  args: [],
  capabilityArgs: {},
  state: 'planned',
};

describe('Attacher.attach', () => {
  test('begins no further ADD when the time for one is over, however often a plugin says "later"', async () => {
    const store = new MemoryStore<NetworkRecord>();
    store.create('box', { mode: 'networks', bootId: 'b', netnsPath: '/run/netns/box', attachments: [ENTRY] });
    const calls: string[] = [];
    const failure = { code: 11, msg: 'later', details: '' };
    const cni: Partial<CniRuntime> = {
      // Less than the first pause.
      deadlinesMs: { ADD: 100, DEL: 100, CHECK: 100, STATUS: 100, GC: 100, VERSION: 100 },
      add: async () => {
        calls.push('ADD');
        throw new CniError({ plugin: 'busy', command: 'ADD', failure });
      },
      del: async () => void calls.push('DEL'),
    };
    const parts = { cni: cni as CniRuntime, namespaces: {} as NetworkNamespaces };
    const attacher = new Attacher({ ...parts, store, log: silent });
    await assert.rejects(attacher.attach('box', ENTRY, soon()), { name: 'CniError', cniCode: 11 });
    // The DEL is due, and on record.
    assert.deepEqual([calls, store.read('box')?.attachments[0]?.state], [['ADD'], 'adding']);
  });
});
