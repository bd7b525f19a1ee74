/**
 * Bad input through the API of a real daemon: refused before any effect, with the field named, and nothing is left. The
 * kernel is asked after each request.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { status } from '@grpc/grpc-js';
import type { ContainerSpec } from '../../src/api/generated/berth/v1/ContainerSpec.ts';
import { hostCommand } from '../../src/host-command.ts';
import { readMounts } from '../../src/mountinfo.ts';
import { busyboxRootfs } from '../support/busybox-rootfs.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';

interface Refusal {
  readonly code: number;
  readonly details: string;
}

async function refusal(call: Promise<unknown>): Promise<Refusal> {
  try {
    await call;
  } catch (error) {
    if (error instanceof Error && 'code' in error && 'details' in error) {
      return { code: Number(error.code), details: String(error.details) };
    }
    throw error;
  }
  return { code: 0, details: 'accepted' };
}

const LONG = 'x'.repeat(300);
const IDS = ['../x', 'a/b', 'a\nb', 'a\0b', LONG, '-v', '.', '..', ''];

type Case = readonly [title: string, field: RegExp, change: ContainerSpec];

/** Requests that must be refused, by the case they belong to; each is a change to a request that is fine. */
const SPECS: readonly Case[] = [
  ...['/proc/self/fd/3', '/proc/self/fd/16', '/proc/1/root', '/sys', '/dev/x', 'relative', '/a\0b'].map(
    (workingDir): Case => [`K01 working directory ${JSON.stringify(workingDir)}`, /workdir/, { workingDir }],
  ),
  ...['4294967296', '2147483647', '-1', '1.5', '0x10', 'root\n', '1 ', ' 1', '0:0x1', 'a:b:c', ''].map(
    (user): Case => [`K02 user ${JSON.stringify(user)}`, /user/i, { user }],
  ),
  ['K08 seccomp profile that is not there', /seccomp/i, { seccompProfile: '/nonexistent/profile.json' }],
  ['K08 seccomp profile that is empty', /seccomp/i, { seccompProfile: '' }],
  ...['1.2.3.4;IP=10.0.0.1', '1.2.3.4\n', 'localhost', '256.1.1.1', '1.2.3.4=5'].map(
    (hostIp): Case => [
      `K18 host address ${JSON.stringify(hostIp)}`,
      /^publish: .* is no IP address/,
      { networks: ['e2e'], ports: [{ hostPort: 8080, containerPort: 80, hostIp }] },
    ],
  ),
  ['K18 host port 0', /^publish: 0 /, { networks: ['e2e'], ports: [{ hostPort: 0, containerPort: 80 }] }],
  [
    'K18 container port 65536',
    /^publish: 65536 /,
    { networks: ['e2e'], ports: [{ hostPort: 80, containerPort: 65536 }] },
  ],
  ['a port without a network', /^publish: .*none/, { ports: [{ hostPort: 80, containerPort: 80 }] }],
  ...IDS.filter((name) => name !== '').flatMap((name): Case[] => [
    [`K19 name ${JSON.stringify(name).slice(0, 20)}`, /name/i, { name }],
    [`K19 network ${JSON.stringify(name).slice(0, 20)}`, /network/i, { networks: [name] }],
    [`K19 volume ${JSON.stringify(name).slice(0, 20)}`, /volume/i, { mounts: [{ volume: name, target: '/d' }] }],
  ]),
  ...['known\nevil', 'a b', '-x', LONG, 'a..b', ''].map(
    (hostname): Case => [`K20 hostname ${JSON.stringify(hostname).slice(0, 20)}`, /hostname/i, { hostname }],
  ),
  ['a capability that is none', /cap/i, { capAdd: ['SYS_NOTHING'] }],
  ['memory below what a process needs', /memory/i, { resources: { memoryBytes: '1' } }],
  ['negative memory', /memory/i, { resources: { memoryBytes: '-5' } }],
  ['no CPU at all', /cpu/i, { resources: { cpuMillis: '0' } }],
  ['an environment entry without a key', /env/i, { env: ['=x'] }],
  ['an environment entry with a NUL', /env/i, { env: ['A=\0'] }],
  ['an argument with a NUL', /command/i, { command: ['a\0b'] }],
  ['an argument of 2 MiB', /command|larger/i, { command: ['x'.repeat(2 ** 21)] }],
  ['a mount target that climbs', /volume/, { mounts: [{ hostPath: '/usr', target: '/a/../../b' }] }],
  ['a mount over /proc', /volume.*proc/, { mounts: [{ hostPath: '/usr', target: '/proc' }] }],
  ['a host path that is relative', /volume|path/, { mounts: [{ hostPath: 'tmp', target: '/d' }] }],
  ['the root of the host', /volume|path/, { mounts: [{ hostPath: '/', target: '/d' }] }],
  ['/proc/1/root of the host', /volume|path/, { mounts: [{ hostPath: '/proc/1/root', target: '/d' }] }],
  ['an image reference that climbs', /image|reference/i, { image: '../x:1' }],
];

test('bad requests for containers', { timeout: 120_000 }, async (t) => {
  if (!needs(t, 'root', 'conmon', 'cni', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const fine: ContainerSpec = { image: IMAGE, command: ['true'], networks: ['none'] };

  for (const [title, field, change] of SPECS) {
    await t.test(`${title} is refused`, async () => {
      const { code, details } = await refusal(daemon.api.start({ ...fine, ...change }));
      const refusals: number[] = [
        status.INVALID_ARGUMENT,
        status.NOT_FOUND,
        status.FAILED_PRECONDITION,
        status.RESOURCE_EXHAUSTED,
      ];
      assert.ok(refusals.includes(code), `${code} ${details}`);
      assert.match(details, field);
      await before.assertClean();
    });
  }

  await t.test('K08 a seccomp profile that is broken is refused', async () => {
    const seccompProfile = join(daemon.dir, 'broken.json');
    writeFileSync(seccompProfile, '{"defaultAction": "SCMP_ACT_EVERYTHING"}');
    const { code, details } = await refusal(daemon.api.start({ ...fine, seccompProfile }));
    assert.ok(code === status.INVALID_ARGUMENT || code === status.FAILED_PRECONDITION, `${code} ${details}`);
    assert.match(details, /broken\.json/);
    await before.assertClean();
  });

  await t.test("Berth's own directories and links to them are refused as host paths", async () => {
    symlinkSync(daemon.root, join(daemon.dir, 'link'));
    for (const hostPath of [daemon.root, daemon.run, daemon.socketPath, join(daemon.dir, 'link'), daemon.dir]) {
      const { code, details } = await refusal(daemon.api.start({ ...fine, mounts: [{ hostPath, target: '/d' }] }));
      assert.ok(
        code === status.INVALID_ARGUMENT || code === status.PERMISSION_DENIED,
        `${hostPath}: ${code} ${details}`,
      );
    }
    await before.assertClean();
  });

  await t.test('K11 labels never reach the runtime as annotations', async () => {
    const labels = [
      { key: 'run.oci.hooks', value: '/bin/sh' },
      { key: 'org.systemd.property.ExecStart', value: "'x'" },
      { key: 'io.berth.restart', value: 'always' },
    ];
    const id = await daemon.api.start({ ...fine, command: ['sleep', '1000'], labels });
    const config: { annotations?: Record<string, string> } = JSON.parse(
      readFileSync(join(daemon.run, 'bundles', id, 'config.json'), 'utf8'),
    );
    for (const { key } of labels) assert.ok(!JSON.stringify(config).includes(key), key);
    await daemon.api.containers.call('Remove', { ref: id, force: true });
  });

  await t.test('K23 keys such as __proto__ are kept as data', async () => {
    const labels = [
      { key: '__proto__', value: 'polluted' },
      { key: 'constructor', value: 'x' },
    ];
    const { id = '' } = await daemon.api.containers.call('Create', { spec: { ...fine, labels } });
    const { spec } = await daemon.api.containers.call('Inspect', { ref: id });
    assert.deepEqual(spec?.labels, labels);
    await daemon.api.containers.call('Remove', { ref: id });
  });
});

/** Imports the busybox image with further links in its root: name -> where it leads. */
async function importWithLinks(daemon: Daemon, reference: string, links: Readonly<Record<string, string>>) {
  const rootfs = await busyboxRootfs(join(daemon.dir, `rootfs-${reference.split(':')[0]}`));
  for (const [name, target] of Object.entries(links)) {
    await rm(join(rootfs, name), { recursive: true, force: true });
    await symlink(target, join(rootfs, name));
  }
  const sourcePath = `${rootfs}.tar`;
  await hostCommand('tar', ['--create', `--file=${sourcePath}`, '-C', rootfs, '.'], AbortSignal.timeout(10_000));
  await daemon.api.images.call('Import', { sourcePath, reference });
}

test('mount targets that links of the image lead out of it (K21)', { timeout: 120_000 }, async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'loop', 'ext4', 'tar')) return;
  const daemon = await startDaemon(t);
  const canary = join(daemon.dir, 'canary');
  const shared = join(daemon.dir, 'shared');
  for (const dir of [canary, join(canary, 'sub'), shared]) mkdirSync(dir);
  writeFileSync(join(canary, 'file'), 'untouched');
  writeFileSync(join(shared, 'mine'), '');
  const up = `${'../'.repeat(20)}${canary.slice(1)}`;
  await importWithLinks(daemon, 'links:1', {
    out: canary,
    up,
    root: '/',
    deep: `${canary}/sub`,
    file: `${canary}/file`,
  });
  await importWithLinks(daemon, 'etc:1', { etc: canary });
  await daemon.api.volumes.call('Create', { name: 'data', capacityBytes: 2 ** 24 });
  let ran = 0;
  const before = daemon.oracle();

  const targets = ['/out', '/out/sub', '/out/absent', '/up', '/up/sub', '/root/x', '/deep', '/deep/absent/y', '/file'];
  const sources = [{ hostPath: shared }, { volume: 'data' }];
  const cases: [string, ContainerSpec][] = targets.flatMap((target) =>
    sources.map((source): [string, ContainerSpec] => [
      `${target} of ${Object.keys(source)[0]}`,
      { image: 'links:1', mounts: [{ ...source, target }] },
    ]),
  );
  // Where Berth itself mounts: /etc/hosts and its kin.
  cases.push(['/etc of the image', { image: 'etc:1' }]);
  for (const [title, change] of cases) {
    await t.test(`${title}: refused, or inside the container`, async () => {
      const spec: ContainerSpec = { command: ['sleep', '1000'], networks: ['none'], ...change };
      const id = await daemon.api.start(spec).catch(() => undefined);
      assert.deepEqual(readdirSync(canary).sort(), ['file', 'sub']);
      assert.deepEqual(readdirSync(join(canary, 'sub')), []);
      assert.equal(readFileSync(join(canary, 'file'), 'utf8'), 'untouched');
      const onCanary = readMounts().filter(({ mountPoint }) => mountPoint.startsWith(canary));
      assert.deepEqual(onCanary, [], 'nothing is mounted over it');
      if (id !== undefined) {
        ran += 1;
        await daemon.api.containers.call('Remove', { ref: id, force: true });
      }
      await before.assertClean();
    });
  }
  assert.ok(ran > 0, 'none was refused for a reason of its own');
});

/** Every call that takes a name or an id. */
function callsWith(daemon: Daemon, ref: string): Readonly<Record<string, Promise<unknown>>> {
  const { containers, images, networks, volumes } = daemon.api;
  const logs = async (): Promise<void> => {
    for await (const _ of containers.stream('Logs', { ref })) assert.fail('output of nothing');
  };
  return {
    Start: containers.call('Start', { ref }),
    Inspect: containers.call('Inspect', { ref }),
    Wait: containers.call('Wait', { ref }),
    Stop: containers.call('Stop', { ref }),
    Kill: containers.call('Kill', { ref, signal: 'KILL' }),
    Remove: containers.call('Remove', { ref }),
    Stats: containers.call('Stats', { ref }),
    Logs: logs(),
    'Images.Inspect': images.call('Inspect', { ref }),
    'Images.Remove': images.call('Remove', { ref }),
    'Networks.Inspect': networks.call('Inspect', { name: ref }),
    'Volumes.Create': volumes.call('Create', { name: ref, capacityBytes: 2 ** 24 }),
    'Volumes.Inspect': volumes.call('Inspect', { name: ref }),
    'Volumes.Remove': volumes.call('Remove', { name: ref }),
    'Volumes.Create driver': volumes.call('Create', {
      name: 'fine',
      driver: ref === '' ? '-' : ref,
      capacityBytes: 2 ** 24,
    }),
    'Images.Import': images.call('Import', { sourcePath: ref, reference: 'x:1' }),
    'Images.Import reference': images.call('Import', { sourcePath: '/dev/null', reference: ref }),
  };
}

test('bad names and ids in every call (K19)', { timeout: 120_000 }, async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  mkdirSync(join(daemon.dir, 'canary'));
  const before = daemon.oracle();
  for (const ref of [...IDS, '__proto__', "' OR 1=1", '%00']) {
    await t.test(`${JSON.stringify(ref).slice(0, 20)} is refused by each`, async () => {
      for (const [name, call] of Object.entries(callsWith(daemon, ref))) {
        const { code, details } = await refusal(call);
        assert.notEqual(code, status.OK, `${name} accepted ${JSON.stringify(ref)}`);
        assert.notEqual(code, status.INTERNAL, `${name}: ${details}`);
        assert.notEqual(code, status.UNKNOWN, `${name}: ${details}`);
      }
      await before.assertClean();
    });
  }
});
