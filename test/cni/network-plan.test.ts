import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CniRuntime } from '../../src/cni/cni-runtime.ts';
import { planNetworks } from '../../src/cni/network-plan.ts';
import { attachmentOf } from '../../src/cni/network-record.ts';
import type { Naming } from '../../src/runtime/container.ts';
import { containerSpec } from '../support/container-spec.ts';
import { RecordingPlugins } from '../support/recording-plugin.ts';
import { CniFixture, silent, soon } from './cni-fixture.ts';

const NAMING: Naming = {
  aliases: ['db', 'sql'],
  dnsServers: ['192.0.2.53'],
  dnsSearch: ['lan.example'],
  dnsOptions: ['ndots:2'],
  extraHosts: [{ name: 'other', address: '192.0.2.7' }],
};

describe('planNetworks', () => {
  test('gives names and resolver settings to plugins that declare them', async (t) => {
    const plugins = await RecordingPlugins.create(t, 'names', 'plain');
    const fixture = await CniFixture.create(t, { binDirs: [plugins.binDir] });
    const capabilities = { aliases: true, dns: true };
    const chain = [
      { type: 'names', capabilities },
      { type: 'plain', capabilities: { mac: true } },
    ];
    fixture.write('10-net.conflist', { cniVersion: '1.0.0', name: 'net', plugins: chain });
    const [entry] = planNetworks(containerSpec({ network: ['net'], naming: NAMING }), fixture.configs).attachments;
    assert.ok(entry !== undefined);
    const cni = new CniRuntime({ plugins: fixture.plugins, log: silent });
    await cni.add(attachmentOf('box', entry, '/run/netns/box'), () => undefined, soon());
    const [names, plain] = plugins.runs().map(({ stdin }) => JSON.parse(stdin).runtimeConfig);
    assert.deepEqual(names, {
      aliases: ['db', 'sql'],
      dns: { servers: ['192.0.2.53'], searches: ['lan.example'], options: ['ndots:2'] },
    });
    assert.equal(plain, undefined);
  });

  test('offers nothing of what was not asked for', async (t) => {
    const plugins = await RecordingPlugins.create(t, 'plain');
    const fixture = await CniFixture.create(t, { binDirs: [plugins.binDir] });
    fixture.write('10-net.conflist', { cniVersion: '1.0.0', name: 'net', plugins: [{ type: 'plain' }] });
    const bare = { ...NAMING, aliases: [], dnsServers: [], dnsSearch: [], dnsOptions: [] };
    for (const naming of [undefined, bare]) {
      const { attachments } = planNetworks(containerSpec({ network: ['net'], naming }), fixture.configs);
      assert.deepEqual(
        attachments.map(({ capabilityArgs }) => capabilityArgs),
        [{}],
      );
    }
  });
});
