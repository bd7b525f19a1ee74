/**
 * What a plugin is given for each command, to the byte: its whole environment as the kernel has it, and its stdin.
 * Beside the table of CNI 1.1.0 §2 "Parameters" and §3 "Deriving request configuration".
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Attachment } from '../../src/cni/attachment.ts';
import { CniRuntime } from '../../src/cni/cni-runtime.ts';
import type { ResolvedNetwork } from '../../src/cni/network.ts';
import { PluginPath } from '../../src/cni/plugin-path.ts';
import type { TestScope } from '../support/cleanup.ts';
import { type RecordedRun, RecordingPlugins } from '../support/recording-plugin.ts';
import { silent, soon } from './cni-fixture.ts';

const ID = '0123456789abcdef0123456789abcdef';
const RESULT = '{"cniVersion":"1.1.0","ips":[{"address":"10.87.80.2/24"}]}';

const NETWORK: ResolvedNetwork = {
  name: 'net',
  cniVersion: '1.1.0',
  disableCheck: false,
  disableGC: false,
  owned: true,
  plugins: [
    {
      type: 'plugin',
      // The list's words count, whatever stands here.
      cniVersion: '0.3.1',
      name: 'other',
      capabilities: { mac: true, ips: false, bandwidth: true },
      args: { cni: { ips: ['10.87.80.2'] }, own: 1 },
      'cni.dev/valid-attachments': [],
      'cni.dev/anything': true,
      ipam: { type: 'plugin', ranges: [[{ subnet: '10.87.80.0/24' }]] },
      dns: { nameservers: ['10.87.80.1'] },
      unknown: [1, 1.5, '<&>', '\u00fc', null, { deep: {} }],
    },
  ],
};

const ATTACHMENT: Attachment = {
  containerId: ID,
  netnsPath: '/run/netns/box',
  interfaceName: 'eth0',
  network: NETWORK,
  args: [
    ['IgnoreUnknown', '1'],
    ['K8S_POD_NAME', 'db-0'],
  ],
  capabilityArgs: { mac: '02:00:00:00:00:05', ips: ['10.87.80.2'] },
};

/** What every request has: the file's object, less what is not the plugin's, with name and version of the list. */
const OBJECT =
  '"type":"plugin","cniVersion":"1.1.0","name":"net","args":{"cni":{"ips":["10.87.80.2"]},"own":1},' +
  '"ipam":{"type":"plugin","ranges":[[{"subnet":"10.87.80.0/24"}]]},"dns":{"nameservers":["10.87.80.1"]},' +
  '"unknown":[1,1.5,"<&>","\u00fc",null,{"deep":{}}]';
const RUNTIME_CONFIG = ',"runtimeConfig":{"mac":"02:00:00:00:00:05"}';
const PREVIOUS = `,"prevResult":${RESULT}`;
const VALID = `[{"containerID":"${ID}","ifname":"eth0"}]`;

const CLEAN = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C.UTF-8',
};
const OF_ATTACHMENT = {
  CNI_CONTAINERID: ID,
  CNI_NETNS: '/run/netns/box',
  CNI_IFNAME: 'eth0',
  CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAME=db-0',
};

/** Runs one command with a daemon's environment full of what is not for plugins. */
async function recorded(
  t: TestScope,
  run: (cni: CniRuntime) => Promise<unknown>,
): Promise<{ call: RecordedRun; binDir: string }> {
  const stray = { BERTH_TEST_SECRET: 'x', CNI_ARGS: 'A=stray', CNI_NETNS: '/stray', LD_PRELOAD: '', NODE_OPTIONS: '' };
  Object.assign(process.env, stray);
  t.after(() => {
    for (const name of Object.keys(stray)) delete process.env[name];
  });
  const plugins = await RecordingPlugins.create(t, 'plugin');
  plugins.does('plugin', 'ADD', `printf '%s' '${RESULT}'`);
  const cni = new CniRuntime({ plugins: new PluginPath([plugins.binDir, '/nowhere']), log: silent });
  await run(cni);
  const [call, ...more] = plugins.runs();
  assert.ok(call !== undefined);
  assert.deepEqual(more, []);
  return { call, binDir: plugins.binDir };
}

interface Expectation {
  readonly run: (cni: CniRuntime) => Promise<unknown>;
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: string;
}

const COMMANDS: Readonly<Record<string, Expectation>> = {
  ADD: {
    run: (cni) => cni.add(ATTACHMENT, () => undefined, soon()),
    env: OF_ATTACHMENT,
    stdin: `{${OBJECT}${RUNTIME_CONFIG}}`,
  },
  DEL: {
    run: (cni) => cni.del(ATTACHMENT, JSON.parse(RESULT), soon()),
    env: OF_ATTACHMENT,
    stdin: `{${OBJECT}${RUNTIME_CONFIG}${PREVIOUS}}`,
  },
  CHECK: {
    run: (cni) => cni.check(ATTACHMENT, JSON.parse(RESULT), soon()),
    env: OF_ATTACHMENT,
    stdin: `{${OBJECT}${RUNTIME_CONFIG}${PREVIOUS}}`,
  },
  GC: {
    run: (cni) => cni.gc(NETWORK, () => [{ containerId: ID, interfaceName: 'eth0' }], soon()),
    env: {},
    stdin: `{${OBJECT},"cni.dev/valid-attachments":${VALID},"cni.dev/attachments":${VALID}}`,
  },
  STATUS: { run: (cni) => cni.status(NETWORK, soon()), env: {}, stdin: `{${OBJECT}}` },
  // Older plugins insist on two variables that mean nothing here.
  VERSION: {
    run: (cni) => cni.version('plugin', soon()),
    env: { CNI_NETNS: 'dummy', CNI_IFNAME: 'dummy' },
    stdin: '{"cniVersion":"1.1.0"}',
  },
};

describe('a plugin is given', () => {
  for (const [command, { run, env, stdin }] of Object.entries(COMMANDS)) {
    test(`${command}: exactly these variables and these bytes`, async (t) => {
      const { call, binDir } = await recorded(t, run);
      assert.deepEqual(call.env, { ...CLEAN, ...env, CNI_COMMAND: command, CNI_PATH: `${binDir}:/nowhere` });
      assert.equal(call.stdin, stdin);
    });
  }

  test('DEL without a namespace and a result: an empty CNI_NETNS, and no prevResult', async (t) => {
    const { call } = await recorded(t, (cni) => cni.del({ ...ATTACHMENT, netnsPath: '' }, undefined, soon()));
    assert.equal(call.env['CNI_NETNS'], '');
    assert.equal(call.stdin, `{${OBJECT}${RUNTIME_CONFIG}}`);
  });

  test('GC of a network that nobody is attached to: empty lists, not none', async (t) => {
    const { call } = await recorded(t, (cni) => cni.gc(NETWORK, () => [], soon()));
    assert.equal(call.stdin, `{${OBJECT},"cni.dev/valid-attachments":[],"cni.dev/attachments":[]}`);
  });
});
