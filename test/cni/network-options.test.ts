/** CNI_ARGS, capabilities and labels: from a request to what each plugin of the chain is given. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CniRuntime } from '../../src/cni/cni-runtime.ts';
import { planConnection } from '../../src/cni/connection-plan.ts';
import type { ResolvedNetwork } from '../../src/cni/network.ts';
import { checkNetworkOptions, optionsFor } from '../../src/cni/network-options.ts';
import { planNetworks } from '../../src/cni/network-plan.ts';
import { attachmentOf } from '../../src/cni/network-record.ts';
import type { ContainerSpec, NetworkOption } from '../../src/runtime/container.ts';
import type { TestScope } from '../support/cleanup.ts';
import { containerSpec } from '../support/container-spec.ts';
import { RecordingPlugins } from '../support/recording-plugin.ts';
import { CniFixture, silent, soon } from './cni-fixture.ts';

/** Every capability of the conventions, with a value as its plugin takes it. */
const VALUES = {
  bandwidth: { ingressRate: 1000, ingressBurst: 2000, egressRate: 3000, egressBurst: 4000 },
  ipRanges: [[{ subnet: '10.87.80.0/28' }]],
  ips: ['10.87.80.5/28'],
  mac: '02:00:00:00:00:05',
  deviceID: '0000:00:1f.6',
  infinibandGUID: '24:8a:07:03:00:8d:ae:2e',
  'example.org/own': { any: ['thing', 1, true, null] },
} as const;
const PATH = `/berth/${'a'.repeat(32)}`;

function capability(name: string, value: unknown, network = ''): NetworkOption {
  return { network, kind: 'capability', name, value: JSON.stringify(value) };
}

function argument(name: string, value: string, network = ''): NetworkOption {
  return { network, kind: 'argument', name, value };
}

function network(name: string, ...plugins: readonly object[]): ResolvedNetwork {
  const chain = plugins.map((plugin) => ({ ...plugin }));
  return { name, cniVersion: '1.0.0', disableCheck: false, disableGC: false, owned: false, plugins: chain };
}

/** What the plugins of network "net" are given at ADD for a request. */
async function given(
  t: TestScope,
  chain: readonly { readonly type: string; readonly [key: string]: unknown }[],
  change: Partial<ContainerSpec>,
): Promise<{ requests: Record<string, unknown>[]; args: (string | undefined)[] }> {
  const plugins = await RecordingPlugins.create(t, ...new Set(chain.map(({ type }) => type)));
  const fixture = await CniFixture.create(t, { binDirs: [plugins.binDir] });
  fixture.write('10-net.conflist', { cniVersion: '1.0.0', name: 'net', plugins: chain });
  const plan = planNetworks(containerSpec({ network: ['net'], ...change }), fixture.configs, PATH);
  const [entry] = plan.attachments;
  assert.ok(entry !== undefined);
  const cni = new CniRuntime({ plugins: fixture.plugins, log: silent });
  await cni.add(attachmentOf('box', entry, '/run/netns/box'), () => undefined, soon());
  const runs = plugins.runs();
  return { requests: runs.map(({ stdin }) => JSON.parse(stdin)), args: runs.map(({ env }) => env['CNI_ARGS']) };
}

describe('capabilities', () => {
  for (const [name, value] of Object.entries(VALUES)) {
    test(`${name} goes to the plugin that declares it, as it was given, and to no other`, async (t) => {
      const chain = [{ type: 'first' }, { type: 'second', capabilities: { [name]: true } }, { type: 'third' }];
      const { requests } = await given(t, chain, { networkOptions: [capability(name, value)] });
      assert.deepEqual(
        requests.map(({ runtimeConfig }) => runtimeConfig),
        [undefined, { [name]: value }, undefined],
      );
    });
  }

  test('cgroupPath is told to plugins that declare it, and is not for users to say', async (t) => {
    const chain = [{ type: 'first', capabilities: { cgroupPath: true } }, { type: 'second' }];
    const { requests } = await given(t, chain, {});
    assert.deepEqual(
      requests.map(({ runtimeConfig }) => runtimeConfig),
      [{ cgroupPath: PATH }, undefined],
    );
    const own = network('net', ...chain);
    assert.throws(() => checkNetworkOptions([capability('cgroupPath', '/')], [own]), {
      message: /^network-capability: cgroupPath is Berth's/,
    });
    assert.throws(() => checkNetworkOptions([capability('portMappings', [])], [own]), { message: /use --publish/ });
  });

  test('go to the network that is named, or to each that has a plugin for them', () => {
    const one = network('one', { type: 'x', capabilities: { mac: true, ips: true } });
    const two = network('two', { type: 'x', capabilities: { mac: true } });
    const options = [capability('ips', ['10.87.80.5'], 'one'), capability('mac', VALUES.mac)];
    checkNetworkOptions(options, [one, two]);
    assert.deepEqual(optionsFor(one, options).capabilityArgs, { ips: ['10.87.80.5'], mac: VALUES.mac });
    assert.deepEqual(optionsFor(two, options).capabilityArgs, { mac: VALUES.mac });
  });

  test('that no plugin would act on are refused, and so is what is none', () => {
    const own = network('net', { type: 'x', capabilities: { mac: true, ips: false } });
    const bad: readonly (readonly [NetworkOption, RegExp])[] = [
      [capability('ips', ['10.87.80.5']), /no plugin of net declares the capability ips/],
      [capability('mac', VALUES.mac, 'other'), /"other" is no network of the container/],
      [{ ...capability('mac', ''), value: '{' }, /the value of mac is no JSON/],
      [capability('mac', 'a;b'), /holds ";"/],
      [capability('mac', { nested: ['a\nb'] }), /control character/],
      [capability('__proto__', 1), /must match/],
      [capability('mac', 'x'.repeat(20_000)), /longer than/],
    ];
    for (const [option, message] of bad) {
      assert.throws(() => checkNetworkOptions([option], [own]), { code: 'INVALID_ARGUMENT', message });
    }
  });
});

describe('CNI_ARGS', () => {
  test('are given to every plugin of the chain, with the leave to pass over them', async (t) => {
    const networkOptions = [argument('K8S_POD_NAME', 'db-0'), argument('IP', '10.87.80.5', 'net')];
    const { args } = await given(t, [{ type: 'first' }, { type: 'second' }], { networkOptions });
    const all = 'IgnoreUnknown=1;K8S_POD_NAME=db-0;IP=10.87.80.5';
    assert.deepEqual(args, [all, all]);
  });

  test('are not set when nobody says any', async (t) => {
    assert.deepEqual((await given(t, [{ type: 'first' }], {})).args, [undefined]);
  });

  test('of one name are one: the last counts, and who says IgnoreUnknown is believed', () => {
    const own = network('net', { type: 'x' });
    const options = [argument('IgnoreUnknown', 'false'), argument('A', '1'), argument('A', '2')];
    assert.deepEqual(optionsFor(own, options).args, [
      ['IgnoreUnknown', 'false'],
      ['A', '2'],
    ]);
  });

  test('that would be read as more than one are refused (K18)', () => {
    const own = network('net', { type: 'x' });
    for (const value of ['x;IP=10.0.0.1', 'a=b', 'a\nb', 'a\u0000b']) {
      assert.throws(() => checkNetworkOptions([argument('A', value)], [own]), { code: 'INVALID_ARGUMENT' }, value);
    }
    for (const name of ['', 'a;b', 'a=b', 'a\nb', '-a', 'x'.repeat(200)]) {
      assert.throws(() => checkNetworkOptions([argument(name, 'v')], [own]), { code: 'INVALID_ARGUMENT' }, name);
    }
  });
});

describe('args.cni', () => {
  test('of the file reaches every plugin as it stands', async (t) => {
    const args = { cni: { ips: ['10.87.80.5'] }, other: { x: 1 } };
    const { requests } = await given(t, [{ type: 'first', args }, { type: 'second' }], {});
    assert.deepEqual(
      requests.map((request) => request['args']),
      [args, undefined],
    );
  });

  test('has the labels of the container after those of the file', async (t) => {
    const args = { cni: { ips: ['10.87.80.5'], labels: [{ key: 'site', value: 'a' }] }, other: { x: 1 } };
    const labels = { app: 'web', 'odd;key': 'a=b\nc' };
    const { requests } = await given(t, [{ type: 'first', args }, { type: 'second' }], { labels });
    const own = [
      { key: 'app', value: 'web' },
      { key: 'odd;key', value: 'a=b\nc' },
    ];
    assert.deepEqual(
      requests.map((request) => request['args']),
      [
        { other: { x: 1 }, cni: { ips: ['10.87.80.5'], labels: [...args.cni.labels, ...own] } },
        { cni: { labels: own } },
      ],
    );
  });
});

describe('planConnection', () => {
  test('takes arguments, capabilities and labels as a launch does', () => {
    const own = network('net', { type: 'x', capabilities: { deviceID: true, cgroupPath: true } });
    const record = { mode: 'networks' as const, bootId: 'b', netnsPath: '/run/x', attachments: [] };
    const more = [argument('A', '1'), capability('deviceID', VALUES.deviceID)];
    const about = { labels: { app: 'web' }, cgroupPath: PATH };
    const entry = planConnection(record, own, { ips: ['10.87.80.5'], aliases: [], more }, about);
    assert.deepEqual(entry.args, [
      ['IgnoreUnknown', '1'],
      ['A', '1'],
      ['IP', '10.87.80.5'],
    ]);
    assert.deepEqual(entry.capabilityArgs, { deviceID: VALUES.deviceID, cgroupPath: PATH });
    assert.deepEqual(entry.labels, [{ key: 'app', value: 'web' }]);
    const stray = [capability('mac', VALUES.mac)];
    assert.throws(() => planConnection(record, own, { ips: [], aliases: [], more: stray }, about), {
      message: /no plugin of net declares/,
    });
  });
});
