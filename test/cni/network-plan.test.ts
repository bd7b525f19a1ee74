import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CniRuntime } from '../../src/cni/cni-runtime.ts';
import { planConnection } from '../../src/cni/connection-plan.ts';
import { planNetworks } from '../../src/cni/network-plan.ts';
import { attachmentOf } from '../../src/cni/network-record.ts';
import { RuntimeError } from '../../src/errors.ts';
import type { Naming } from '../../src/runtime/container.ts';
import { checkNaming } from '../../src/runtime/naming-validation.ts';
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

  test('maps a port for the protocol that was named, and for no other', async (t) => {
    const plugins = await RecordingPlugins.create(t, 'ports');
    const fixture = await CniFixture.create(t, { binDirs: [plugins.binDir] });
    const chain = [{ type: 'ports', capabilities: { portMappings: true } }];
    fixture.write('10-net.conflist', { cniVersion: '1.0.0', name: 'net', plugins: chain });
    const mapped = (protocol: 'tcp' | 'udp' | 'sctp'): unknown => {
      const ports = [{ hostPort: 5353, containerPort: 53, protocol }];
      const { attachments } = planNetworks(containerSpec({ network: ['net'], ports }), fixture.configs);
      return attachments[0]?.capabilityArgs;
    };
    for (const protocol of ['tcp', 'udp', 'sctp'] as const) {
      assert.deepEqual(mapped(protocol), { portMappings: [{ hostPort: 5353, containerPort: 53, protocol }] });
    }
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

describe('planConnection', () => {
  test('takes the names that --network-alias takes, and no others (K20)', async (t) => {
    const fixture = await CniFixture.create(t, { binDirs: [] });
    const network = {
      name: 'net',
      cniVersion: '1.0.0',
      disableCheck: false,
      disableGC: false,
      owned: false,
      plugins: [],
    };
    const record = { mode: 'networks' as const, bootId: 'b', netnsPath: fixture.runDir, attachments: [] };
    const both = (alias: string): readonly boolean[] =>
      [
        () => planConnection(record, network, { ips: [], aliases: [alias] }),
        () => checkNaming({ network: ['net'], naming: { ...NAMING, aliases: [alias] } }),
      ].map((check) => {
        try {
          check();
          return true;
        } catch (error) {
          assert.equal(RuntimeError.from(error, 'check').code, 'INVALID_ARGUMENT', alias);
          return false;
        }
      });
    for (const alias of ['db', 'my_db', 'a.b_c', 'A-1', 'x'.repeat(63)])
      assert.deepEqual(both(alias), [true, true], alias);
    const bad = ['', 'a b', 'a\nb', '-a', '_a', 'a..b', '10.0.0.1', 'localhost', 'LOCALHOST', 'a;b', 'x'.repeat(64)];
    for (const alias of bad) assert.deepEqual(both(alias), [false, false], alias);
  });
});
