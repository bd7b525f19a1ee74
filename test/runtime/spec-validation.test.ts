import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { validateSpec } from '../../src/runtime/spec-validation.ts';
import { containerSpec } from '../support/container-spec.ts';

/** What is refused: the change to a good request, and the field the error must name. */
const REFUSED: readonly (readonly [string, object, RegExp])[] = [
  // K19
  ...['../x', 'a/b', 'a\nb', 'a\0', 'x'.repeat(300), '-v', '.', '..', '', 'é', '0123456789abcdef0123456789abcdef'].map(
    (name) => [`name ${JSON.stringify(name.slice(0, 12))}`, { name }, /^name:/] as const,
  ),
  ...['../x', 'a/b', 'a\nb', 'a\0', 'x'.repeat(300), '-v', '.', '..', ''].flatMap((name) => [
    [`network ${JSON.stringify(name.slice(0, 12))}`, { network: [name] }, /^network:/] as const,
    [
      `volume ${JSON.stringify(name.slice(0, 12))}`,
      { mounts: [{ kind: 'volume', volume: name, target: '/v', readOnly: false }] },
      /^volume:/,
    ] as const,
    [
      `device volume ${JSON.stringify(name.slice(0, 12))}`,
      { devices: [{ volume: name, path: '/dev/x' }] },
      /^device:/,
    ] as const,
  ]),
  // K01
  ...[
    '/proc/self/fd/3',
    '/proc/self/fd/16',
    '/proc/1/root',
    '/sys',
    '/sys/fs',
    '/dev/shm',
    '/a/../proc',
    'relative',
    '/a\nb',
  ].map((workingDir) => [`workdir ${JSON.stringify(workingDir)}`, { workingDir }, /^workdir:/] as const),
  // K02
  ...['4294967296', '2147483647', '-1', '1.5', '0x10', 'root\n', '1 ', '', '1:', ':1', '1:2:3', '0:-1', '00'].map(
    (user) => [`user ${JSON.stringify(user)}`, { user }, /^user:/] as const,
  ),
  // K20
  ...['a\nb', 'a b', '-a', 'a-', 'a..b', 'x'.repeat(65), 'a_b', ''].map(
    (hostname) => [`hostname ${JSON.stringify(hostname.slice(0, 12))}`, { hostname }, /^hostname:/] as const,
  ),
  // K08
  ['an empty seccomp profile', { seccompProfile: '' }, /^seccomp:/],
  ['a relative seccomp profile', { seccompProfile: 'p.json' }, /^seccomp:/],
  ['NUL in the command', { command: ['a\0b'] }, /^command:/],
  ['an argument longer than the kernel takes', { command: ['x'.repeat(131_072)] }, /^command:/],
  ['arguments longer than the kernel takes together', { command: Array(20).fill('x'.repeat(131_000)) }, /^command:/],
  ['an environment entry without "="', { env: ['HOME'] }, /^env:/],
  ['an environment entry without a key', { env: ['=x'] }, /^env:/],
  ['a label without a key', { labels: { '': 'x' } }, /^label:/],
  ['labels of a megabyte', { labels: { a: 'x'.repeat(1024 * 1024) } }, /^label:/],
  ['memory below the least', { resources: { memoryBytes: 1024 } }, /^memory:/],
  ['memory that is no whole number', { resources: { memoryBytes: 1e9 + 0.5 } }, /^memory:/],
  ['no CPU', { resources: { cpuMillis: 0 } }, /^cpus:/],
  ['more CPUs than there are', { resources: { cpuMillis: 1_000_000 } }, /^cpus:/],
  ['no process', { resources: { pidsLimit: 0 } }, /^pids-limit:/],
  ['an empty list of networks', { network: [] }, /^network:/],
  ['a network twice', { network: ['a', 'a'] }, /^network:/],
  ['"host" beside another network', { network: ['a', 'host'] }, /^network:/],
  ['a port without a network', { network: 'none', ports: [port({})] }, /^publish:/],
  ['port 0', { ports: [port({ hostPort: 0 })] }, /^publish:/],
  ['port 65536', { ports: [port({ containerPort: 65_536 })] }, /^publish:/],
  ['a host address with more in it', { ports: [port({ hostIp: '127.0.0.1;x' })] }, /^publish:/],
  ['a host port twice', { ports: [port({}), port({ containerPort: 81 })] }, /^publish:/],
  ['a mount over the root', { mounts: [bind('/tmp', '/')] }, /^volume:/],
  ['a relative mount target', { mounts: [bind('/tmp', 'x')] }, /^volume:/],
  ['a mount target that climbs', { mounts: [bind('/tmp', '/a/../../b')] }, /^volume:/],
  ['a relative mount source', { mounts: [bind('tmp', '/x')] }, /^volume:/],
  ['a mount target twice', { mounts: [bind('/tmp', '/x'), bind('/var', '/x')] }, /^volume:/],
  ['a device outside /dev', { devices: [{ volume: 'v', path: '/etc/x', readOnly: false }] }, /^device:/],
  ['a device over a standard one', { devices: [{ volume: 'v', path: '/dev/null', readOnly: false }] }, /^device:/],
  ['a capability with a space', { capAdd: ['NET ADMIN'] }, /^cap-add:/],
  ['an empty image', { image: '' }, /^image:/],
];

function port(change: object): object {
  return { hostPort: 8080, containerPort: 80, protocol: 'tcp', ...change };
}

function bind(source: string, target: string): object {
  return { kind: 'bind', source, target, readOnly: false };
}

describe('validateSpec', () => {
  for (const [what, change, message] of REFUSED) {
    test(`refuses ${what}`, () => {
      assert.throws(() => validateSpec({ ...containerSpec(), ...change }), { code: 'INVALID_ARGUMENT', message });
    });
  }

  test('passes a full request and normalises capability names and the working directory', () => {
    const spec = validateSpec(
      containerSpec({
        workingDir: '/srv//app/',
        user: '1000:100',
        hostname: 'web-1.example',
        capAdd: ['cap_net_admin'],
        capDrop: ['all'],
        command: ['["sh; rm"]', '--help', '', 'ünïcode'],
        network: ['a', 'b'],
        mounts: [{ kind: 'volume', volume: 'data', target: '/data', readOnly: true }],
        devices: [{ volume: 'raw', path: '/dev/xvdb', readOnly: false }],
      }),
    );
    assert.equal(spec.workingDir, '/srv/app');
    assert.deepEqual(spec.capAdd, ['NET_ADMIN']);
    assert.deepEqual(spec.capDrop, ['ALL']);
    assert.deepEqual(spec.command, ['["sh; rm"]', '--help', '', 'ünïcode']);
  });
});
