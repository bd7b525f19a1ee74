/**
 * Masquerading rules of nftables (`ipMasqBackend`), in a namespace that is taken for the host. What the plugins write is
 * here as text: releases that know the key are not in every distribution.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import pino from 'pino';
import type { CniRuntime } from '../../src/cni/cni-runtime.ts';
import { NetworkNamespaces } from '../../src/cni/netns.ts';
import type { ResolvedNetwork } from '../../src/cni/network.ts';
import { NetworkConfigs } from '../../src/cni/network-config.ts';
import type { NetworkRecord } from '../../src/cni/network-record.ts';
import { PluginPath } from '../../src/cni/plugin-path.ts';
import { hostCommand } from '../../src/host-command.ts';
import { ownersOf } from '../../src/networks/audit-finding.ts';
import { auditNftRules } from '../../src/networks/audit-nft.ts';
import { finishDel } from '../../src/networks/masquerade-leftovers.ts';
import { NetworkReload } from '../../src/networks/network-reload.ts';
import { makeNftRules, nftMasqueradeRules, readNftMasquerade } from '../../src/networks/nft-masquerade.ts';
import { type RunProgram, runProgram } from '../../src/run-program.ts';
import { MemoryStore } from '../../src/store.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';

const soon = (): AbortSignal => AbortSignal.timeout(20_000);
const NETWORK: ResolvedNetwork = {
  name: 'net',
  cniVersion: '1.0.0',
  disableCheck: false,
  disableGC: false,
  owned: true,
  plugins: [
    {
      type: 'bridge',
      ipMasq: true,
      ipMasqBackend: 'nftables',
      ipam: { type: 'host-local', ranges: [[{ subnet: '10.87.70.0/24' }], [{ subnet: 'fd00:87:70::/64' }]] },
    },
  ],
};
const ADDRESSES = ['10.87.70.5/24', 'fd00:87:70::5/64'];

/** A host of its own: commands run in its namespace. */
async function host(t: TestScope): Promise<RunProgram> {
  const namespaces = new NetworkNamespaces(join(await tempDir(t), 'netns'));
  cleanup(t, () => namespaces.remove('host', soon()));
  const netns = await namespaces.create('host', soon());
  return (program, signal) =>
    runProgram({ ...program, file: 'nsenter', args: [`--net=${netns}`, program.file, ...program.args] }, signal);
}

function recorded(id: string): MemoryStore<NetworkRecord> {
  const store = new MemoryStore<NetworkRecord>();
  const netnsPath = `/run/x/netns/${id}`;
  const result = {
    interfaces: [{ name: 'eth0', sandbox: netnsPath }],
    ips: ADDRESSES.map((address) => ({ address, interface: 0 })),
  };
  const entry = {
    network: NETWORK,
    interfaceName: 'eth0',
    args: [],
    capabilityArgs: {},
    state: 'added' as const,
    result,
  };
  store.create(id, { mode: 'networks', bootId: 'b', netnsPath, attachments: [entry] });
  return store;
}

function reloader(store: MemoryStore<NetworkRecord>, run: RunProgram): NetworkReload {
  const plugins = new PluginPath([]);
  const configs = new NetworkConfigs({ confDirs: [], fallbackDir: '/nowhere', plugins });
  const lanes = {
    inLane: <T>(_: string, work: (c: never, s: AbortSignal) => Promise<T>, signal: AbortSignal) =>
      work(undefined as never, signal),
  };
  // No plugin of the chain makes rules at a second ADD.
  const cni = {} as CniRuntime;
  return new NetworkReload({ cni, configs, store, lanes, run, log: pino({ level: 'silent' }) });
}

/** The table as a person sees it, less numbers of rules. */
function listed(run: RunProgram): Promise<string> {
  return hostCommand('nft', ['list', 'table', 'inet', 'cni_plugins_masquerade'], soon(), { run });
}

describe('masquerading by nftables', { skip: missing('root', 'netns', 'nsenter', 'nft') }, () => {
  test('comes back by reload after a flush, as the plugins write it, and once', async (t) => {
    const run = await host(t);
    const id = 'a'.repeat(32);
    const reload = reloader(recorded(id), run);
    const [done] = await reload.reload(undefined, soon());
    assert.deepEqual(done, {
      containerId: id,
      network: 'net',
      interfaceName: 'eth0',
      restored: ['masquerade'],
      error: '',
    });
    const made = await listed(run);
    // sha512 of "net", and of "eth0:" with the id, sixteen digits each.
    const mark = 'a4861f4ae9f7d238-574806b84a1e11fb';
    const comment = `comment "${mark}, net: net, if: eth0, id: ${id}"`;
    assert.equal(
      made.replace(/^\t\tcomment .*\n/gm, '').replace(/^\tcomment .*\n/gm, ''),
      [
        'table inet cni_plugins_masquerade {',
        '\tchain masq_checks {',
        `\t\tip saddr 10.87.70.5 ip daddr != 10.87.70.0/24 masquerade ${comment}`,
        `\t\tip6 saddr fd00:87:70::5 ip6 daddr != fd00:87:70::/64 masquerade ${comment}`,
        '\t}',
        '',
        '\tchain postrouting {',
        '\t\ttype nat hook postrouting priority srcnat; policy accept;',
        '\t\tip daddr 224.0.0.0/4 return',
        '\t\tip6 daddr ff00::/8 return',
        '\t\tgoto masq_checks',
        '\t}',
        '}',
      ].join('\n'),
    );
    await reload.reload('net', soon());
    assert.equal(await listed(run), made, 'nothing is made twice');
    for (const chain of ['postrouting', 'masq_checks']) {
      await hostCommand('nft', ['flush', 'chain', 'inet', 'cni_plugins_masquerade', chain], soon(), { run });
      await reload.reload(undefined, soon());
      assert.equal(await listed(run), made, `${chain} was flushed`);
    }
  });

  test('goes with a DEL that has no namespace, and that of nobody else', async (t) => {
    const run = await host(t);
    const [id, other] = [randomBytes(16).toString('hex'), randomBytes(16).toString('hex')];
    const store = recorded(id);
    const [entry] = store.read(id)?.attachments ?? [];
    assert.ok(entry !== undefined);
    const parts = { run, signal: soon() };
    for (const containerId of [id, other]) {
      const owner = { ...entry, containerId, addresses: ADDRESSES };
      await makeNftRules(nftMasqueradeRules(owner), await readNftMasquerade(parts), parts);
    }
    assert.equal(finishDel(run)(id, entry, true), undefined, 'the plugin does it');
    const finish = finishDel(run)(id, entry, false);
    assert.ok(finish !== undefined);
    await finish(soon());
    const { rules } = await readNftMasquerade(parts);
    assert.deepEqual(
      rules.map(({ containerId }) => containerId),
      [other, other],
    );
    await finish(soon());
  });

  test('is found by the audit when it is missing, and when nobody has it', async (t) => {
    const run = await host(t);
    const id = randomBytes(16).toString('hex');
    const stranger = randomBytes(16).toString('hex');
    const store = recorded(id);
    const audit = async (elsewhere: readonly string[] = []) => {
      const owners = ownersOf(NETWORK, store, new Set(), new Set(elsewhere));
      return auditNftRules(owners, await readNftMasquerade({ run, signal: soon() }), run);
    };
    const told = (found: Awaited<ReturnType<typeof audit>>): string[] =>
      found.map(({ name, containerId, missing: lacks }) => `${name} ${containerId} ${lacks ? 'missing' : 'extra'}`);
    assert.deepEqual(told(await audit()), [`masquerade ${id} missing`]);
    await reloader(store, run).reload(undefined, soon());
    assert.deepEqual(await audit(), []);
    const whole = await listed(run);
    const owner = { network: NETWORK, interfaceName: 'eth0', containerId: stranger, addresses: ['10.87.70.9/24'] };
    const parts = { run, signal: soon() };
    await makeNftRules(nftMasqueradeRules(owner), await readNftMasquerade(parts), parts);
    // A network of the same name with other addresses belongs to somebody else.
    const foreign = { ...owner, containerId: randomBytes(16).toString('hex'), addresses: ['10.87.71.9/24'] };
    await makeNftRules(nftMasqueradeRules(foreign), await readNftMasquerade(parts), parts);
    assert.deepEqual(told(await audit()), [`masq_checks ${stranger} extra`]);
    assert.equal((await audit([stranger]))[0]?.repair, undefined, 'its namespace lives');
    await (await audit())[0]?.repair?.(soon());
    assert.deepEqual(await audit(), []);
    const now = await listed(run);
    assert.equal(
      now
        .split('\n')
        .filter((line) => !line.includes(foreign.containerId))
        .join('\n'),
      whole,
    );
  });
});
