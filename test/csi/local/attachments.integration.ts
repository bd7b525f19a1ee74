/** The embedded driver with attachment, which is an option, and the place where its volumes are. */
import assert from 'node:assert/strict';
import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { missing } from '../../support/needs.ts';
import { type Driver, type DriverOptions, type Message, MIB, mountOf, startDriver } from './driver.ts';
import { killDuring, repeated } from './killing.ts';
import { published, withdrawn } from './use.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4');
const ATTACH: DriverOptions = { process: { attach: true, maxVolumes: 2 } };
const KEY = 'topology.local.csi.berth/node';

async function volume(driver: Driver, name: string): Promise<Message> {
  const volumeId = await driver.createVolume(name);
  return { volumeId, ...(await driver.paths(name)), volumeCapability: mountOf(), nodeId: 'test-node' };
}

const capabilities = async (driver: Driver, rpc: string): Promise<string[]> =>
  (await driver.call(rpc))['capabilities'].map((one: Message) => one['rpc'].type);

describe('a driver with attachment', { skip }, () => {
  test('offers it only where it was asked for', async (t) => {
    const without = await startDriver(t);
    assert.ok(!(await capabilities(without, 'ControllerGetCapabilities')).includes('PUBLISH_UNPUBLISH_VOLUME'));
    assert.equal((await without.call('NodeGetInfo'))['maxVolumesPerNode'], '0');
    const request = await volume(without, 'v');
    assert.equal(await without.codeOf('ControllerPublishVolume', request), 'UNIMPLEMENTED');
    const driver = await startDriver(t, ATTACH);
    const offered = await capabilities(driver, 'ControllerGetCapabilities');
    assert.ok(offered.includes('PUBLISH_UNPUBLISH_VOLUME') && offered.includes('PUBLISH_READONLY'));
    assert.equal((await driver.call('NodeGetInfo'))['maxVolumesPerNode'], '2');
  });

  test('stages with the publish context only, and keeps it over its own death', async (t) => {
    const driver = await startDriver(t, ATTACH);
    const request = await volume(driver, 'v');
    assert.equal(await driver.codeOf('NodeStageVolume', request), 'INVALID_ARGUMENT');
    const forged = { ...request, publishContext: { attachment: '0'.repeat(32) } };
    assert.equal(await driver.codeOf('NodeStageVolume', forged), 'FAILED_PRECONDITION');
    const { publishContext } = await driver.call('ControllerPublishVolume', request);
    await driver.restart('SIGKILL');
    assert.deepEqual(await driver.call('ControllerPublishVolume', request), { publishContext });
    assert.equal(await driver.codeOf('NodeStageVolume', forged), 'FAILED_PRECONDITION');
    const attached = { ...request, publishContext };
    await driver.call('NodeStageVolume', attached);
    await driver.call('NodePublishVolume', attached);
    const { status } = await driver.call('ControllerGetVolume', request);
    assert.deepEqual(status.publishedNodeIds, ['test-node']);
    assert.equal(await driver.codeOf('ControllerUnpublishVolume', request), 'FAILED_PRECONDITION');
    await withdrawn(driver, request);
    assert.equal(await driver.codeOf('DeleteVolume', request), 'FAILED_PRECONDITION');
    await driver.call('ControllerUnpublishVolume', request);
    await driver.call('ControllerUnpublishVolume', request);
    assert.equal(await driver.codeOf('NodeStageVolume', attached), 'FAILED_PRECONDITION');
    assert.deepEqual((await driver.call('ControllerGetVolume', request))['status'].publishedNodeIds, []);
    await driver.call('DeleteVolume', request);
    await driver.call('ControllerUnpublishVolume', request);
    assert.deepEqual(driver.held(), []);
  });

  test('refuses what is not as CSI has it', async (t) => {
    const driver = await startDriver(t, ATTACH);
    const request = await volume(driver, 'v');
    const publish = (change: Message): Promise<string> =>
      driver.codeOf('ControllerPublishVolume', { ...request, ...change });
    assert.equal(await publish({ volumeId: '' }), 'INVALID_ARGUMENT');
    assert.equal(await publish({ nodeId: '' }), 'INVALID_ARGUMENT');
    assert.equal(await publish({ volumeCapability: undefined }), 'INVALID_ARGUMENT');
    assert.equal(await publish({ volumeId: 'f'.repeat(32) }), 'NOT_FOUND');
    assert.equal(await publish({ nodeId: 'other' }), 'NOT_FOUND');
    assert.equal(await publish({}), 'OK');
    assert.equal(await publish({ readonly: true }), 'ALREADY_EXISTS');
    assert.equal(await publish({ volumeCapability: mountOf('SINGLE_NODE_READER_ONLY') }), 'ALREADY_EXISTS');
    assert.equal(await driver.codeOf('ControllerUnpublishVolume', { volumeId: '' }), 'INVALID_ARGUMENT');
    await driver.call('ControllerUnpublishVolume', { volumeId: request['volumeId'] });
    assert.deepEqual((await driver.call('ControllerGetVolume', request))['status'].publishedNodeIds, []);
  });

  test('takes so many volumes and no more, also when they come at once', async (t) => {
    const driver = await startDriver(t, ATTACH);
    const requests = [await volume(driver, 'a'), await volume(driver, 'b'), await volume(driver, 'c')];
    const codes = await Promise.all(requests.map((request) => driver.codeOf('ControllerPublishVolume', request)));
    assert.deepEqual(codes.toSorted(), ['OK', 'OK', 'RESOURCE_EXHAUSTED']);
    const held = requests[codes.indexOf('OK')] ?? {};
    const refused = requests[codes.indexOf('RESOURCE_EXHAUSTED')] ?? {};
    await driver.call('ControllerPublishVolume', held);
    await driver.call('ControllerUnpublishVolume', held);
    await driver.call('ControllerPublishVolume', refused);
  });

  test('publishes a volume that is attached to be read for readers only', async (t) => {
    const driver = await startDriver(t, ATTACH);
    const request = await volume(driver, 'v');
    const { publishContext } = await driver.call('ControllerPublishVolume', { ...request, readonly: true });
    const attached = { ...request, publishContext };
    await driver.call('NodeStageVolume', attached);
    assert.equal(await driver.codeOf('NodePublishVolume', attached), 'FAILED_PRECONDITION');
    assert.equal(await driver.codeOf('NodePublishVolume', { ...attached, readonly: true }), 'OK');
    await withdrawn(driver, request);
  });

  test('leaves a volume to the node that has it, until it is taken back', async (t) => {
    const driver = await startDriver(t, ATTACH);
    const request = await volume(driver, 'v');
    await driver.call('ControllerPublishVolume', request);
    await driver.end('SIGTERM');
    driver.options = { process: { attach: true, nodeId: 'renamed' } };
    await driver.start();
    const here = { ...request, nodeId: 'renamed' };
    await assert.rejects(driver.call('ControllerPublishVolume', here), /FAILED_PRECONDITION.*test-node/);
    await driver.call('ControllerUnpublishVolume', request);
    assert.equal(await driver.codeOf('ControllerPublishVolume', here), 'OK');
    // The volumes are where they were, whatever the node is called.
    assert.deepEqual((await driver.call('NodeGetInfo'))['accessibleTopology'].segments, { [KEY]: 'test-node' });
  });

  test('leaves a volume alone whose attachments cannot be read, and serves the others', async (t) => {
    const driver = await startDriver(t, ATTACH);
    const [request, other] = [await volume(driver, 'v'), await volume(driver, 'w')];
    await driver.call('ControllerPublishVolume', request);
    await driver.end('SIGKILL');
    await writeFile(`${driver.dataDir}/volumes/${request['volumeId']}/attachments.json`, '{"version":1');
    await driver.start();
    for (const rpc of ['ControllerPublishVolume', 'ControllerUnpublishVolume', 'DeleteVolume']) {
      assert.equal(await driver.codeOf(rpc, request), 'DATA_LOSS', rpc);
    }
    assert.match(driver.stderr, /attachment record is not readable/);
    assert.equal(await driver.codeOf('ControllerPublishVolume', other), 'OK');
    assert.equal((await driver.call('ListVolumes'))['entries'].length, 2);
  });

  test('is killed in the middle of both calls and comes to the same', async (t) => {
    const driver = await startDriver(t, ATTACH);
    const request = await volume(driver, 'v');
    for (const moment of [1, 3, 6, 10]) {
      await killDuring(driver, moment, 'ControllerPublishVolume', request);
      const { publishContext } = await repeated(driver, 'ControllerPublishVolume', request);
      await driver.call('NodeStageVolume', { ...request, publishContext });
      await driver.call('NodeUnstageVolume', request);
      await killDuring(driver, moment, 'ControllerUnpublishVolume', request);
      await repeated(driver, 'ControllerUnpublishVolume', request);
      assert.deepEqual((await driver.call('ControllerGetVolume', request))['status'].publishedNodeIds, []);
    }
  });
});

describe('the place of a volume', { skip }, () => {
  test('is this node, in every answer, and asked for where it is', async (t) => {
    const driver = await startDriver(t);
    const here = { segments: { [KEY]: 'test-node' } };
    const elsewhere = { segments: { [KEY]: 'other' } };
    assert.deepEqual((await driver.call('NodeGetInfo'))['accessibleTopology'], here);
    const create = (name: string, accessibilityRequirements: Message): Message => ({
      name,
      volumeCapabilities: [mountOf()],
      capacityRange: { requiredBytes: String(MIB) },
      accessibilityRequirements,
    });
    const both = create('a', { requisite: [elsewhere, here], preferred: [elsewhere] });
    const { volume } = await driver.call('CreateVolume', both);
    assert.deepEqual(volume.accessibleTopology, [here]);
    assert.deepEqual((await driver.call('CreateVolume', both))['volume'], volume);
    assert.deepEqual((await driver.call('ControllerGetVolume', volume))['volume'], volume);
    const upper = { segments: { [KEY.toUpperCase()]: 'test-node' } };
    assert.equal(await driver.codeOf('CreateVolume', create('b', { requisite: [upper] })), 'OK');
    assert.equal(await driver.codeOf('CreateVolume', create('c', { preferred: [elsewhere] })), 'OK');
    const refused = create('d', { requisite: [elsewhere, { segments: { [KEY]: 'test-node', rack: '1' } }] });
    await assert.rejects(driver.call('CreateVolume', refused), /RESOURCE_EXHAUSTED.*other.*test-node/);
    assert.equal(await driver.codeOf('CreateVolume', create('e', {})), 'INVALID_ARGUMENT');
    assert.equal((await driver.call('ListVolumes'))['entries'].length, 3);
    assert.equal((await driver.call('GetCapacity', { accessibleTopology: elsewhere }))['availableCapacity'], '0');
    assert.notEqual((await driver.call('GetCapacity', { accessibleTopology: here }))['availableCapacity'], '0');
  });
});

describe('a volume for a group', { skip }, () => {
  test('belongs to it with all that is in it, from staging on', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {});
    await mkdir(`${request['targetPath']}/dir`);
    await writeFile(`${request['targetPath']}/dir/file`, 'text');
    await chmod(`${request['targetPath']}/dir/file`, 0o600);
    await withdrawn(driver, request);
    const grouped = { ...request, volumeCapability: mountOf('SINGLE_NODE_WRITER', { volumeMountGroup: '4242' }) };
    await driver.call('NodeStageVolume', grouped);
    assert.equal(await driver.codeOf('NodeStageVolume', request), 'ALREADY_EXISTS');
    await driver.call('NodePublishVolume', grouped);
    const target: string = request['targetPath'];
    for (const [path, mode] of [
      [target, 0o2775],
      [`${target}/dir`, 0o2770],
      [`${target}/dir/file`, 0o660],
    ] as const) {
      const found = await stat(path);
      assert.equal(found.gid, 4242, path);
      assert.equal(found.mode & mode, mode, `${path} has ${(found.mode & 0o7777).toString(8)}`);
    }
    assert.equal(await readFile(`${target}/dir/file`, 'utf8'), 'text');
    await withdrawn(driver, grouped);
    for (const volumeMountGroup of ['wheel', '-1', '4294967295']) {
      const odd = { ...request, volumeCapability: mountOf('SINGLE_NODE_WRITER', { volumeMountGroup }) };
      assert.equal(await driver.codeOf('NodeStageVolume', odd), 'INVALID_ARGUMENT');
    }
  });
});
