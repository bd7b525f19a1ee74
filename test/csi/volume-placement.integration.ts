/** Whether a volume may come to this node: how many it takes, where it is reachable, how long its paths are. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { MAX_ROOT_BYTES } from '../../src/config-values.ts';
import { VolumeMounts } from '../../src/csi/volume-mounts.ts';
import { RuntimeError } from '../../src/errors.ts';
import { failWith } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, B, type FakeOptions, request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

const MANY: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
  node: ['STAGE_UNSTAGE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
};
const RW = { readOnly: false };

const hasCode =
  (code: string, text = /./) =>
  (error: unknown) =>
    error instanceof RuntimeError && error.code === code && text.test(error.message);

async function made(host: VolumeHost, ...names: string[]): Promise<void> {
  for (const name of names) await host.volumes.create(request({ name }), soon());
}

describe('max_volumes_per_node', { skip: missing('root', 'loop') }, () => {
  test('is the most that come here; who is one too many hears the limit and who is here', async (t) => {
    const host = await volumeHost(t, { ...MANY, maxVolumesPerNode: 1 });
    await made(host, 'data', 'two');
    await host.volumes.publish('data', A, RW, soon());
    const calls = host.plugin.volumeCalls().length;
    const second = host.volumes.publish('two', B, RW, soon());
    const text = /volume two: CSI plugin fake\.csi\.test takes 1 volumes per node, here are data: stop what uses/;
    await assert.rejects(second, hasCode('RESOURCE_EXHAUSTED', text));
    assert.equal(host.plugin.volumeCalls().length, calls);
    await host.volumes.publish('data', B, RW, soon());
    await host.volumes.release('two', B, soon());
    for (const id of [A, B]) await host.volumes.release('data', id, soon());
    await host.volumes.publish('two', B, RW, soon());
    await host.volumes.release('two', B, soon());
    assertIdle(host);
  });

  test('holds for volumes that come at the same time', async (t) => {
    const host = await volumeHost(t, { ...MANY, maxVolumesPerNode: 2 });
    const names = ['v1', 'v2', 'v3', 'v4', 'v5'];
    await made(host, ...names);
    const results = await Promise.allSettled(names.map((name) => host.volumes.publish(name, A, RW, soon())));
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 2);
    assert.equal(host.plugin.requests('ControllerPublishVolume').length, 2);
    for (const name of names) await host.volumes.release(name, A, soon());
    assertIdle(host);
  });

  test('counts what could not be taken down', async (t) => {
    const host = await volumeHost(t, { ...MANY, maxVolumesPerNode: 1 });
    await made(host, 'data', 'two');
    await host.volumes.publish('data', A, RW, soon());
    const stuck = new Error('not now');
    host.plugin.onCall = (rpc) => {
      if (rpc === 'ControllerUnpublishVolume') throw stuck;
    };
    await assert.rejects(host.volumes.release('data', A, soon()), /not now/);
    await assert.rejects(host.volumes.publish('two', B, RW, soon()), hasCode('RESOURCE_EXHAUSTED', /here are data/));
    host.plugin.onCall = () => undefined;
    await host.volumes.release('data', A, soon());
    await host.volumes.release('two', B, soon());
    await host.volumes.publish('two', B, RW, soon());
    await host.volumes.release('two', B, soon());
    assertIdle(host);
  });
});

describe('the places of a class', { skip: missing('root') }, () => {
  test('are told to CreateVolume after this node; a class of other places is refused before anything is recorded', async (t) => {
    const host = await volumeHost(t, { ...MANY, topology: { 'fake/zone': 'a', 'fake/rack': '7' } });
    const allowedTopologies = [{ 'fake/zone': 'b' }, { 'FAKE/zone': 'a' }];
    const vague = failWith('INTERNAL');
    host.plugin.next('CreateVolume', vague);
    await host.volumes.create(request({ volumeClass: 'two', allowedTopologies }), soon());
    const sent = host.plugin.requests('CreateVolume').map((one) => one['accessibilityRequirements']);
    const places = [{ segments: { 'fake/zone': 'a', 'fake/rack': '7' } }, { segments: { 'fake/zone': 'b' } }];
    assert.deepEqual(sent, Array(2).fill({ requisite: places, preferred: places }));
    const elsewhere = request({ name: 'x', volumeClass: 'far', allowedTopologies: [{ 'fake/zone': 'b' }] });
    const sides =
      /volumes of class far cannot be made here: allowed-topologies are {"fake\/zone":"b"}, this node is {.*"a"/;
    await assert.rejects(host.volumes.create(elsewhere, soon()), hasCode('FAILED_PRECONDITION', sides));
    assert.deepEqual([host.volumes.list().length, host.plugin.requests('CreateVolume').length], [1, 2]);
  });
});

describe('topology', { skip: missing('root', 'loop') }, () => {
  test('is looked at anew when the plugin says that the node has moved, and the error has both sides', async (t) => {
    const host = await volumeHost(t, { ...MANY, topology: { 'fake/zone': 'here' } });
    await made(host, 'data');
    await host.volumes.publish('data', A, RW, soon());
    await host.volumes.release('data', A, soon());
    host.plugin.topology = { 'fake/zone': 'there' };
    await host.registry.probe('fake.csi.test', soon());
    const calls = host.plugin.volumeCalls().length;
    const sides =
      /cannot be reached from here: accessible_topology is {"fake\/zone":"here"}, this node is {"fake\/zone":"there"}/;
    await assert.rejects(host.volumes.publish('data', A, RW, soon()), hasCode('FAILED_PRECONDITION', sides));
    assert.equal(host.plugin.volumeCalls().length, calls);
    host.plugin.topology = { 'FAKE/zone': 'here', 'fake/rack': 'r1' };
    await host.registry.probe('fake.csi.test', soon());
    await host.volumes.publish('data', A, RW, soon());
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });
});

describe('paths of volumes', () => {
  test('stay below 128 bytes whatever the volume is called, and are refused where the root is too long', async (t) => {
    const host = await volumeHost(t, { ...MANY, volumeId: () => `id/${'ü'.repeat(60)}` });
    const name = 'n'.repeat(128);
    await made(host, name);
    const record = host.volumes.get(name);
    const log = pino({ level: 'silent' });
    const mountsAt = (rootDir: string): VolumeMounts => new VolumeMounts({ rootDir, log });
    const paths = mountsAt('/var/lib/berth').pathsOf(record);
    for (const path of [paths.stage, paths.target(''), paths.target(A)]) assert.ok(Buffer.byteLength(path) < 80, path);
    assert.notEqual(paths.target(A), paths.target(B));
    const rest = Buffer.byteLength(mountsAt('').pathsOf(record).target(A));
    const longest = `/${'r'.repeat(127 - rest)}`;
    assert.equal(Buffer.byteLength(longest), MAX_ROOT_BYTES);
    mountsAt(longest).checkPaths(record);
    const advice = new RegExp(
      `have 129 bytes, CSI plugins take 128: start berthd with a --root of at most ${128 - rest} bytes`,
    );
    assert.throws(() => mountsAt(`${longest}r`).checkPaths(record), hasCode('FAILED_PRECONDITION', advice));
  });

  test('that are too long keep a volume from coming here before anything is sent', async (t) => {
    const host = await volumeHost(t, MANY);
    await made(host, 'data');
    await host.start({ rootDir: `${host.dir}/${'long'.repeat(25)}` });
    const publishing = host.volumes.publish('data', A, RW, soon());
    await assert.rejects(publishing, hasCode('FAILED_PRECONDITION', /volume data: its paths below .* --root/));
    assert.deepEqual(host.plugin.volumeCalls(), ['CreateVolume']);
    await host.volumes.release('data', A, soon());
  });
});
