/** What the text of a plugin's drop-in file means. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parsePluginDropIn } from '../../src/csi/plugin-drop-ins.ts';
import { RuntimeError } from '../../src/errors.ts';

const FILE = '/etc/berth/csi.d/some.toml';

describe('parsePluginDropIn', () => {
  test('takes one socket, several, and one for each part', () => {
    assert.deepEqual(parsePluginDropIn(FILE, 'socket = "unix:///run/a.sock"').sockets, [{ path: '/run/a.sock' }]);
    assert.deepEqual(parsePluginDropIn(FILE, 'sockets = ["/run/a.sock", "unix:/run//b.sock"]').sockets, [
      { path: '/run/a.sock' },
      { path: '/run/b.sock' },
    ]);
    const text = 'name = "x.csi.example"\ncontroller = "unix:///run/c.sock"\nnode = "unix:///run/n.sock"';
    assert.deepEqual(parsePluginDropIn(FILE, text), {
      file: FILE,
      name: 'x.csi.example',
      sockets: [
        { path: '/run/c.sock', role: 'controller' },
        { path: '/run/n.sock', role: 'node' },
      ],
    });
  });

  const bad: readonly (readonly [title: string, text: string, reason: RegExp])[] = [
    ['is no TOML', 'socket = ', /^file: /],
    ['names no socket', 'name = "x"', /^socket: the file names no socket/],
    ['has a key nobody knows', 'socket = "/a"\nsokcet = "/b"', /^sokcet: /],
    ['has a value of another kind', 'socket = 1', /^socket: /],
    ['speaks TCP', 'socket = "tcp://1.2.3.4:5"', /^socket: .* must be absolute/],
    ['has a relative path', 'socket = "unix://run/a.sock"', /^socket: .* must be absolute/],
    ['has a path that is too long', `socket = "/${'x'.repeat(107)}"`, /^socket: .* has 108 bytes/],
    ['has a line feed in a path', 'socket = "/a\\nb"', /^socket: .* is no lawful path/],
    ['names a socket twice', 'socket = "/a"\nnode = "/a"', /^sockets: \/a is named twice/],
    ['has a name that is none', 'name = "../etc"\nsocket = "/a"', /^name: /],
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
