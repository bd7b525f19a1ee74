import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../src/errors.ts';
import type { ContainerRecord } from '../../src/runtime/container.ts';
import { mergeContributions } from '../../src/runtime/contribution.ts';
import type { Contribution } from '../../src/runtime/isolator.ts';
import { CapabilitiesIsolator } from '../../src/runtime/isolators/capabilities.ts';
import { HostAccessIsolator } from '../../src/runtime/isolators/host-access.ts';
import { NamespacesIsolator } from '../../src/runtime/isolators/namespaces.ts';
import { PathsIsolator } from '../../src/runtime/isolators/paths.ts';
import { SeccompIsolator } from '../../src/runtime/isolators/seccomp.ts';
import { ociSpec } from '../../src/runtime/oci-spec.ts';
import { containerSpec } from '../support/container-spec.ts';

const ID = '0123456789abcdef0123456789abcdef';
const least: Contribution = { rootfs: '/rootfs', process: { args: ['true'] } };

/** The spec as the runtime reads it. */
function made(contribution: Contribution): ReturnType<typeof JSON.parse> {
  return JSON.parse(JSON.stringify(ociSpec(ID, contribution)));
}

describe('ociSpec', () => {
  test('is hardened where no isolator speaks', () => {
    const { process, linux, annotations, hooks, mounts, root } = made(least);
    assert.equal(process.noNewPrivileges, true);
    assert.deepEqual(process.env, []);
    assert.deepEqual(process.user, { uid: 0, gid: 0, additionalGids: [] });
    for (const set of ['bounding', 'effective', 'permitted', 'inheritable', 'ambient']) {
      assert.deepEqual(process.capabilities[set], [], set);
    }
    assert.equal(linux.seccomp.defaultAction, 'SCMP_ACT_ERRNO');
    assert.deepEqual(linux.resources.devices, [{ allow: false, access: 'rwm' }]);
    assert.equal(linux.rootfsPropagation, 'private');
    assert.ok(linux.maskedPaths.includes('/proc/kcore') && linux.readonlyPaths.includes('/proc/sys'));
    assert.deepEqual(linux.namespaces.map(({ type }: { type: string }) => type).sort(), [
      'cgroup',
      'ipc',
      'mount',
      'pid',
      'uts',
    ]);
    assert.equal(annotations, undefined);
    assert.equal(hooks, undefined);
    assert.equal(root.readonly, false);
    for (const { destination, options } of mounts) assert.ok(options.includes('nosuid'), destination);
  });

  test('gives all devices and shared mounts to a container of Berth only', async () => {
    const isolator = new HostAccessIsolator();
    const mount = { source: '/tmp', target: '/data', readOnly: false, propagation: 'shared' } as const;
    const own: ContainerRecord = {
      id: ID,
      spec: containerSpec({ hostAccess: { mounts: [mount] } }),
      createdAt: '2026-01-31T12:00:00.000Z',
      provisional: false,
      cleanupFailures: [],
    };
    const { linux, mounts } = made(mergeContributions([least, await isolator.prepare(own)]));
    assert.deepEqual(linux.resources.devices, [{ allow: true, type: 'a', access: 'rwm' }]);
    assert.equal(linux.rootfsPropagation, 'rshared');
    const at = (path: string): string[] =>
      mounts.filter(({ destination }: { destination: string }) => destination === path);
    assert.deepEqual(at('/data'), [
      { destination: '/data', type: 'bind', source: '/tmp', options: ['rbind', 'rshared'] },
    ]);
    assert.deepEqual([at('/dev').length, at('/dev/pts').length, at('/sys').length], [1, 0, 1]);
    const other = { ...own, spec: containerSpec({}) };
    assert.deepEqual(await isolator.prepare(other), {});
    const lost = { ...mount, source: '/nonexistent/place' };
    assert.throws(
      () => isolator.validate({ ...own, spec: containerSpec({ hostAccess: { mounts: [lost] } }) }),
      (error) => error instanceof RuntimeError && error.code === 'NOT_FOUND',
    );
  });

  test('is as hardened when contributions without a word were merged', () => {
    assert.deepEqual(made(mergeContributions([{}, least])).linux, { ...made(least).linux, sysctl: {} });
  });

  test('nothing of labels, names or the image reaches it', async () => {
    const record: ContainerRecord = {
      id: ID,
      spec: containerSpec({
        labels: { 'run.oci.hooks': '/evil', 'org.systemd.property.ExecStart': "'/evil'", 'berth.internal': 'evil' },
        image: 'evil',
        name: 'evil',
      }),
      createdAt: new Date(0).toISOString(),
      provisional: false,
      cleanupFailures: [],
    };
    const isolators = [
      new CapabilitiesIsolator(),
      new NamespacesIsolator(),
      new PathsIsolator(),
      new SeccompIsolator(),
    ];
    const parts = await Promise.all(isolators.map((isolator) => isolator.prepare(record)));
    const text = JSON.stringify(ociSpec(ID, mergeContributions([...parts, least])));
    assert.doesNotMatch(text, /evil|run\.oci|org\.systemd|annotations|hooks/);
  });

  test('later environment entries win and each key appears once', () => {
    const { process } = made({ ...least, process: { args: ['true'], env: ['A=1', 'B=2', 'A=3', 'C=x=y'] } });
    assert.deepEqual(process.env, ['A=3', 'B=2', 'C=x=y']);
  });

  test('limits become cgroup settings', () => {
    const { linux } = made({ ...least, resources: { memoryBytes: 1 << 26, cpuMillis: 1500, pidsLimit: 7 } });
    assert.deepEqual(linux.resources.memory, { limit: 1 << 26 });
    assert.deepEqual(linux.resources.cpu, { quota: 150_000, period: 100_000 });
    assert.deepEqual(linux.resources.pids, { limit: 7 });
    assert.deepEqual(Object.keys(made({ ...least, resources: {} }).linux.resources), ['devices']);
  });

  test('a device gets a node and the right to use it, and no other', () => {
    const device = { path: '/dev/xvdb', type: 'b', major: 7, minor: 3, fileMode: 0o660, uid: 0, gid: 6 } as const;
    const { linux } = made({ ...least, devices: [{ ...device, access: 'rw' }] });
    assert.deepEqual(linux.devices, [device]);
    assert.deepEqual(linux.resources.devices, [
      { allow: false, access: 'rwm' },
      { allow: true, type: 'b', major: 7, minor: 3, access: 'rw' },
    ]);
  });

  test('mounts parents before children, and a mount at a standard place replaces the standard one', () => {
    const mount = (destination: string) => ({ destination, type: 'bind', source: '/x', options: ['rbind'] });
    const { mounts } = made({ ...least, mounts: [mount('/data/deep/er'), mount('/data'), mount('/dev/shm')] });
    const places: string[] = mounts.map(({ destination }: { destination: string }) => destination);
    assert.ok(places.indexOf('/data') < places.indexOf('/data/deep/er'));
    assert.equal(places.filter((place) => place === '/dev/shm').length, 1);
    assert.equal(mounts.find(({ destination }: { destination: string }) => destination === '/dev/shm').source, '/x');
  });

  test('a filter is left out only on the explicit word', () => {
    assert.equal(made({ ...least, seccomp: 'unconfined' }).linux.seccomp, undefined);
  });

  test('refuses to do without a root file system or a command', () => {
    const lacks = (error: unknown): boolean => error instanceof RuntimeError && error.code === 'FAILED_PRECONDITION';
    assert.throws(() => ociSpec(ID, { process: { args: ['true'] } }), lacks);
    assert.throws(() => ociSpec(ID, { rootfs: '/rootfs', process: { args: [] } }), lacks);
  });
});
