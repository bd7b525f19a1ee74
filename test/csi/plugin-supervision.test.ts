/** What a drop-in file says about starting a plugin. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parsePluginDropIn } from '../../src/csi/plugin-drop-ins.ts';
import { filledIn, supervisedSockets } from '../../src/csi/plugin-supervision.ts';
import { RuntimeError } from '../../src/errors.ts';

const FILE = '/etc/berth/csi.d/some.toml';

describe('parsePluginDropIn of a plugin that Berth starts', () => {
  test('takes a command, its environment, the node id and the grace period', () => {
    const text = 'command = ["/bin/x", "{endpoint}"]\nenv = { A = "{node-id}" }\nnode-id = "n"\ngrace-seconds = 0';
    assert.deepEqual(parsePluginDropIn(FILE, text), {
      file: FILE,
      sockets: [],
      supervision: {
        kind: 'process',
        command: ['/bin/x', '{endpoint}'],
        env: { A: '{node-id}' },
        nodeId: 'n',
        graceSeconds: 0,
      },
    });
  });

  test('takes an image, its arguments and places of the host', () => {
    const text =
      'image = "some/csi:1"\nargs = ["--e={endpoint}"]\n' +
      'mounts = ["/etc/a:/a:ro", "/var/lib/kubelet:/var/lib/kubelet:rshared", "/b:/b", "/run/udev:/run/udev:rslave"]';
    assert.deepEqual(parsePluginDropIn(FILE, text).supervision, {
      kind: 'container',
      image: 'some/csi:1',
      args: ['--e={endpoint}'],
      mounts: [
        { source: '/etc/a', target: '/a', readOnly: true, propagation: 'private' },
        { source: '/var/lib/kubelet', target: '/var/lib/kubelet', readOnly: false, propagation: 'shared' },
        { source: '/b', target: '/b', readOnly: false, propagation: 'private' },
        { source: '/run/udev', target: '/run/udev', readOnly: false, propagation: 'slave' },
      ],
      env: {},
      graceSeconds: 10,
    });
  });

  const sockets: readonly (readonly [title: string, text: string, names: string])[] = [
    ['one for all parts', 'command = ["/bin/x"]', 'csi:'],
    ['one for one part', 'name = "a.b"\npart = "node"\ncommand = ["/bin/x"]', 'csi:node'],
    [
      'one for each part',
      'command = ["/bin/x", "{controller-endpoint}"]\nenv = { N = "{node-endpoint}" }',
      'controller:controller node:node',
    ],
    [
      'one for the controller beside the usual one',
      'image = "a"\nargs = ["{controller-endpoint}"]',
      'csi: controller:controller',
    ],
  ];
  for (const [title, text, names] of sockets) {
    test(`gives it ${title}`, () => {
      const { supervision } = parsePluginDropIn(FILE, text);
      assert.ok(supervision);
      const all = supervisedSockets(supervision).map(({ name, role = '' }) => `${name}:${role}`);
      assert.equal(all.join(' '), names);
    });
  }

  const bad: readonly (readonly [title: string, text: string, reason: RegExp])[] = [
    ['has no program', 'command = []', /^command: /],
    ['has a relative program', 'command = ["bin/x"]', /^command: "bin\/x" must be an absolute path/],
    ['has a program by a detour', 'command = ["/usr/../bin/x"]', /^command: .* shortest form/],
    ['has a NUL in an argument', 'command = ["/bin/x", "a\\u0000b"]', /^command: /],
    ['has a command and a socket', 'command = ["/bin/x"]\nsocket = "/a"', /^command: .* name no socket beside it/],
    [
      'has an environment without a command',
      'socket = "/a"\nenv = { A = "b" }',
      /^env: is for plugins that Berth starts/,
    ],
    [
      'sets the endpoint itself',
      'command = ["/bin/x"]\nenv = { CSI_ENDPOINT = "b" }',
      /^env: CSI_ENDPOINT is set by Berth/,
    ],
    ['has a variable that is none', 'command = ["/bin/x"]\nenv = { "a=b" = "c" }', /^env: "a=b" is no name/],
    ['has a number for a variable', 'command = ["/bin/x"]\nenv = { A = 1 }', /^env\.A: /],
    ['has an empty node id', 'command = ["/bin/x"]\nnode-id = ""', /^node-id: is empty/],
    ['has a node id that is too long', `command = ["/bin/x"]\nnode-id = "${'n'.repeat(257)}"`, /^node-id: /],
    ['has a grace period without end', 'command = ["/bin/x"]\ngrace-seconds = 601', /^grace-seconds: /],
    ['has a command and an image', 'command = ["/bin/x"]\nimage = "a"', /^image: .* say one of them/],
    ['has an empty image', 'image = ""', /^image: is empty/],
    ['has arguments for a command', 'command = ["/bin/x"]\nargs = ["a"]', /^args: is for plugins .* image/],
    ['has mounts without an image', 'socket = "/a"\nmounts = ["/a:/b"]', /^mounts: is for plugins .* image/],
    ['has a mount without a target', 'image = "a"\nmounts = ["/a"]', /^mounts: "" must be an absolute path/],
    ['has a relative mount', 'image = "a"\nmounts = ["a:/b"]', /^mounts: "a" must be an absolute path/],
    [
      'has a mount of an unknown kind',
      'image = "a"\nmounts = ["/a:/b:rprivate"]',
      /^mounts: .* rw, ro, rslave, rshared/,
    ],
    ['mounts two places at one', 'image = "a"\nmounts = ["/a:/b", "/c:/b"]', /^mounts: \/b is named twice/],
    ['mounts over /dev', 'image = "a"\nmounts = ["/a:/dev"]', /^mounts: \/dev is made by Berth/],
    ['has an unknown part', 'name = "a.b"\ncommand = ["/bin/x"]\npart = "both"', /^part: /],
    ['has a part without a name', 'command = ["/bin/x"]\npart = "node"', /^part: .* say name/],
    ['has a part for sockets of its own', 'socket = "/a"\npart = "node"', /^part: is for plugins that Berth starts/],
    [
      'has a part and a socket for each part',
      'name = "a.b"\npart = "node"\ncommand = ["/bin/x", "{node-endpoint}", "{controller-endpoint}"]',
      /^part: .* one socket/,
    ],
    ['has a negative grace period', 'command = ["/bin/x"]\ngrace-seconds = -1', /^grace-seconds: /],
  ];
  for (const [title, text, reason] of bad) {
    test(`refuses a file that ${title}`, () => {
      assert.throws(
        () => parsePluginDropIn(FILE, text),
        (error) => error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT' && reason.test(error.message),
      );
    });
  }
});

test('words of a command are filled in, other braces stay', () => {
  const parts = { controllerEndpoint: 'unix:///run/c', nodeEndpoint: 'unix:///run/n' };
  const place = { endpoint: 'unix:///run/a', nodeId: '{endpoint}', ...parts };
  assert.equal(
    filledIn('--e={endpoint}/{endpoint} {node-id} {x}', place),
    '--e=unix:///run/a/unix:///run/a {endpoint} {x}',
  );
  assert.equal(filledIn('{controller-endpoint} {node-endpoint}', place), 'unix:///run/c unix:///run/n');
});
