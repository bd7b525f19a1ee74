/** The isolator "volume/csi" over real mounts and devices. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { VolumeIsolator } from '../../src/csi/volume-isolator.ts';
import { RuntimeError } from '../../src/errors.ts';
import type { ContainerRecord, ContainerSpec } from '../../src/runtime/container.ts';
import { containerSpec } from '../support/container-spec.ts';
import { failWith, hang } from '../support/fake-csi.ts';
import { FakeStatus } from '../support/fake-status.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, B, type FakeOptions, request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

const STAGED: FakeOptions = { controller: ['CREATE_DELETE_VOLUME'], node: ['STAGE_UNSTAGE_VOLUME'] };

const hasCode =
  (code: string, text = /./) =>
  (error: unknown) =>
    error instanceof RuntimeError && error.code === code && text.test(error.message);

function container(id: string, spec: Partial<ContainerSpec>): ContainerRecord {
  const createdAt = new Date().toISOString();
  return { id, spec: containerSpec(spec), createdAt, provisional: false, cleanupFailures: [] };
}

const data = (target = '/data', readOnly = false, volume = 'data'): ContainerSpec['mounts'][number] => ({
  kind: 'volume',
  volume,
  target,
  readOnly,
});

/** A host with a mount volume "data" and a block volume "raw". */
async function furnished(t: Parameters<typeof volumeHost>[0]): Promise<VolumeHost & { isolator: VolumeIsolator }> {
  const host = await volumeHost(t, STAGED);
  await host.volumes.create(request(), soon());
  await host.volumes.create(request({ name: 'raw', access: 'block' }), soon());
  return Object.assign(host, { isolator: new VolumeIsolator({ volumes: host.volumes }) });
}

describe('VolumeIsolator', { skip: missing('root', 'loop') }, () => {
  test('turns volumes into bind mounts and devices, and gives all back', async (t) => {
    const host = await furnished(t);
    const box = container(A, {
      mounts: [data('/data', true)],
      devices: [{ volume: 'raw', path: '/dev/xvdb', readOnly: false }],
    });
    host.isolator.validate(box);
    const { mounts, devices } = await host.isolator.prepare(box, soon());
    const [mount] = mounts ?? [];
    assert.deepEqual(mount?.options, ['bind', 'private', 'nodev', 'ro']);
    assert.deepEqual([mount?.destination, mount?.type], ['/data', 'bind']);
    assert.ok(host.mounts().includes(String(mount?.source)));
    const [device] = devices ?? [];
    assert.deepEqual([device?.path, device?.type, device?.access], ['/dev/xvdb', 'b', 'rw']);
    assert.equal(`${device?.major}:${device?.minor}`, loopOf(host, 'raw'));
    assert.deepEqual(host.isolator.status(A).volumes, [
      { volume: 'data', driver: 'fake.csi.test', target: '/data', readOnly: true },
      { volume: 'raw', driver: 'fake.csi.test', target: '/dev/xvdb', readOnly: false },
    ]);
    assert.deepEqual([...host.isolator.pending()], []);
    await host.isolator.cleanup(A, soon());
    await host.isolator.cleanup(A, soon());
    assert.deepEqual(host.isolator.status(A).volumes, []);
    assertIdle(host);
  });

  test('a device that may be read only has the mode and the rule for it, beside one that may be written', async (t) => {
    const node: FakeOptions['node'] = ['STAGE_UNSTAGE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'];
    const host = await volumeHost(t, { controller: ['CREATE_DELETE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'], node });
    await host.volumes.create(request({ name: 'raw', access: 'block' }), soon());
    const isolator = new VolumeIsolator({ volumes: host.volumes });
    const rights: unknown[] = [];
    for (const [id, readOnly] of [
      [A, false],
      [B, true],
    ] as const) {
      const box = container(id, { devices: [{ volume: 'raw', path: '/dev/xvdb', readOnly }] });
      isolator.validate(box);
      const [device] = (await isolator.prepare(box, soon())).devices ?? [];
      rights.push([device?.fileMode, device?.access, `${device?.major}:${device?.minor}` === loopOf(host, 'raw')]);
    }
    assert.deepEqual(rights, [
      [0o660, 'rw', true],
      [0o440, 'r', true],
    ]);
    assert.equal(isolator.status(B).volumes?.[0]?.readOnly, true);
    for (const id of [A, B]) await isolator.cleanup(id, soon());
    assertIdle(host);
  });

  test('publishes the volumes of a container side by side', async (t) => {
    const host = await furnished(t);
    let together = 0;
    const both = Promise.withResolvers<void>();
    host.plugin.onCall = async (rpc) => {
      if (rpc !== 'NodeStageVolume') return;
      together += 1;
      if (together === 2) both.resolve();
      await both.promise;
    };
    await host.isolator.prepare(
      container(A, { mounts: [data()], devices: [{ volume: 'raw', path: '/dev/xvdb', readOnly: false }] }),
      soon(),
    );
    await host.isolator.cleanup(A, soon());
    assertIdle(host);
  });

  test('refuses unknown volumes, the wrong kind of access and duplicates, by field', async (t) => {
    const { isolator } = await furnished(t);
    const refuse = (spec: Partial<ContainerSpec>, code: string, text: RegExp): void =>
      assert.throws(() => isolator.validate(container(A, spec)), hasCode(code, text));
    refuse({ mounts: [data('/data', false, 'nope')] }, 'NOT_FOUND', /no such volume: nope/);
    refuse({ mounts: [data('/data', false, 'raw')] }, 'INVALID_ARGUMENT', /^volume: .*use --device raw:/);
    refuse(
      { devices: [{ volume: 'data', path: '/dev/x', readOnly: false }] },
      'INVALID_ARGUMENT',
      /^device: .*use -v data:/,
    );
    refuse({ mounts: [data('/a'), data('/b')] }, 'INVALID_ARGUMENT', /named twice/);
    isolator.validate(container(A, { mounts: [{ kind: 'bind', source: '/x', target: '/y', readOnly: true }] }));
  });

  test('one volume that fails stops the others, and cleanup undoes all', async (t) => {
    const host = await furnished(t);
    host.plugin.next('NodePublishVolume', failWith('INTERNAL', { message: 'no such lun' }));
    const box = container(A, { mounts: [data()], devices: [{ volume: 'raw', path: '/dev/xvdb', readOnly: false }] });
    await assert.rejects(host.isolator.prepare(box, soon()), hasCode('INTERNAL', /no such lun/));
    await host.isolator.cleanup(A, soon());
    assertIdle(host);
  });

  test('cleanup attempts every volume, reports what is left, and is due until it succeeds', async (t) => {
    const host = await furnished(t);
    const box = container(A, { mounts: [data()], devices: [{ volume: 'raw', path: '/dev/xvdb', readOnly: false }] });
    await host.isolator.prepare(box, soon());
    host.plugin.onCall = (rpc, { volumeId }) => {
      const stuck = rpc === 'NodeUnpublishVolume' && String(volumeId).includes('raw');
      if (stuck) throw new FakeStatus('INTERNAL', 'not now');
    };
    await assert.rejects(host.isolator.cleanup(A, soon()), hasCode('INTERNAL', /not now/));
    assert.deepEqual([...host.isolator.pending()], [A]);
    assert.equal(host.plugin.published.size, 1);
    host.plugin.onCall = () => undefined;
    await host.isolator.cleanup(A, soon());
    assert.deepEqual([...host.isolator.pending()], []);
    assertIdle(host);
  });

  test('recovery keeps the volumes of running containers and gives back all others', async (t) => {
    const host = await furnished(t);
    await host.isolator.prepare(container(A, { mounts: [data()] }), soon());
    await host.isolator.prepare(
      container(B, { mounts: [data()], devices: [{ volume: 'raw', path: '/dev/x', readOnly: false }] }),
      soon(),
    );
    await host.start();
    const isolator = new VolumeIsolator({ volumes: host.volumes });
    await host.volumes.recover(soon());
    await isolator.recover(new Set([A]), new Set([A, B]), soon());
    assert.equal(host.plugin.published.size, 1);
    assert.deepEqual(
      isolator.status(A).volumes?.map(({ target }) => target),
      ['/data'],
    );
    assert.deepEqual(isolator.status(B).volumes, []);
    await isolator.cleanup(A, soon());
    assertIdle(host);
  });

  test('a launch cut short is cleaned up, whatever the plugin was doing', async (t) => {
    const host = await furnished(t);
    host.plugin.next('NodePublishVolume', hang({ afterEffect: true }));
    const box = container(A, { mounts: [data()] });
    await assert.rejects(host.isolator.prepare(box, AbortSignal.timeout(300)), hasCode('DEADLINE_EXCEEDED'));
    await host.isolator.cleanup(A, soon());
    assert.ok(host.plugin.isIdle);
    assert.deepEqual(host.mounts(), []);
  });
});

/** "major:minor" of the loop device below a block volume, as the kernel says. */
function loopOf(host: VolumeHost, name: string): string {
  const volume = host.plugin.volumes.get(String(host.volumes.get(name).volumeId));
  return readFileSync(`/sys/block/${String(volume?.loop).replace('/dev/', '')}/dev`, 'utf8').trim();
}
