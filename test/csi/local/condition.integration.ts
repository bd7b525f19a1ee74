/** How well volumes are, as node and controller tell it, on days when something is wrong. */
import assert from 'node:assert/strict';
import { rename, truncate, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { loopDevicesBelow } from '../../../src/csi/local/loop-devices.ts';
import { hostCommand } from '../../../src/host-command.ts';
import { missing } from '../../support/needs.ts';
import { blockOf, type Driver, type Message, MIB, mountOf, startDriver } from './driver.ts';
import { published, withdrawn } from './use.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4');
const WELL = { abnormal: false, message: 'nothing is wrong' };

const soon = (): AbortSignal => AbortSignal.timeout(10_000);

async function told(driver: Driver, request: Message): Promise<{ node: Message; controller: Message }> {
  const { volumeId, targetPath: volumePath } = request;
  const [node, controller] = await Promise.all([
    driver.call('NodeGetVolumeStats', { volumeId, volumePath }),
    driver.call('ControllerGetVolume', { volumeId }),
  ]);
  const { entries } = await driver.call('ListVolumes');
  assert.deepEqual(
    entries.find(({ volume }: Message) => volume.volumeId === volumeId),
    controller,
  );
  return { node, controller };
}

function loopOf(driver: Driver): { readonly name: string; readonly path: string } {
  const [loop] = loopDevicesBelow(driver.dataDir);
  assert.ok(loop !== undefined);
  return loop;
}

describe('the condition of a volume', { skip }, () => {
  test('is well, with the node it is used on, until it is not used any more', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {});
    const { node, controller } = await told(driver, request);
    assert.deepEqual(node['volumeCondition'], WELL);
    assert.equal(node['usage'].length, 2);
    assert.equal(controller['volume'].capacityBytes, String(16 * MIB));
    assert.deepEqual(controller['status'], { publishedNodeIds: ['test-node'], volumeCondition: WELL });
    await withdrawn(driver, request);
    const unused = await driver.call('ControllerGetVolume', { volumeId: request['volumeId'] });
    assert.deepEqual(unused['status'], { publishedNodeIds: [], volumeCondition: WELL });
    assert.equal(await driver.codeOf('ControllerGetVolume', { volumeId: 'f'.repeat(32) }), 'NOT_FOUND');
    assert.equal(await driver.codeOf('ControllerGetVolume', {}), 'INVALID_ARGUMENT');
  });

  test('shows an image that is missing, or shorter than the volume', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {});
    const image = `${driver.dataDir}/volumes/${request['volumeId']}/image`;
    await rename(image, `${image}.away`);
    const gone = await told(driver, request);
    for (const condition of [gone.node['volumeCondition'], gone.controller['status'].volumeCondition]) {
      assert.deepEqual(condition, { abnormal: true, message: 'its image is missing' });
    }
    await rename(`${image}.away`, image);
    assert.deepEqual((await told(driver, request)).node['volumeCondition'], WELL);
    await withdrawn(driver, request);
    await truncate(image, 4096);
    const { status } = await driver.call('ControllerGetVolume', { volumeId: request['volumeId'] });
    assert.match(status.volumeCondition.message, /4096 of 16777216 bytes/);
  });

  test('shows the errors that ext4 met, also after it is mounted no more', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {});
    await writeFile(`/sys/fs/ext4/${loopOf(driver).name}/trigger_fs_error`, 'test');
    const { node } = await told(driver, request);
    assert.match(node['volumeCondition'].message, /ext4 has met 1 errors/);
    assert.equal(node['usage'].length, 2);
    await withdrawn(driver, request);
    const { status } = await driver.call('ControllerGetVolume', { volumeId: request['volumeId'] });
    assert.match(status.volumeCondition.message, /needs a check/);
  });

  test('shows ext4 that stopped writing after an error', async (t) => {
    const driver = await startDriver(t);
    const volumeCapabilities = [mountOf('SINGLE_NODE_WRITER', { mountFlags: ['errors=remount-ro'] })];
    const request = await published(driver, 'v', { volumeCapabilities });
    await writeFile(`/sys/fs/ext4/${loopOf(driver).name}/trigger_fs_error`, 'test');
    const { node } = await told(driver, request);
    assert.match(node['volumeCondition'].message, /stopped writing|became read-only/);
    await withdrawn(driver, request);
  });

  test('shows a file system that somebody made read-only, and none that was asked to be', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {});
    await hostCommand('mount', ['-o', 'remount,ro', request['stagingTargetPath']], soon());
    assert.match((await told(driver, request)).node['volumeCondition'].message, /became read-only/);
    await withdrawn(driver, request);
    const asked = { ...request, volumeCapability: mountOf('SINGLE_NODE_WRITER', { mountFlags: ['ro'] }) };
    await driver.call('NodeStageVolume', asked);
    await driver.call('NodePublishVolume', asked);
    assert.deepEqual((await told(driver, asked)).node['volumeCondition'], WELL);
    await withdrawn(driver, asked);
  });

  test('shows mounts and loop devices that are gone, without usage', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {});
    await hostCommand('umount', [request['targetPath']], soon());
    const { node } = await told(driver, request);
    assert.match(node['volumeCondition'].message, /no longer mounted where it was published/);
    assert.deepEqual(node['usage'], []);
    await hostCommand('umount', [request['stagingTargetPath']], soon());
    assert.match((await told(driver, request)).node['volumeCondition'].message, /staging path/);
    await withdrawn(driver, request);
    await driver.call('DeleteVolume', request);

    const block = await published(driver, 'b', { volumeCapabilities: [blockOf()] });
    assert.deepEqual((await told(driver, block)).node['volumeCondition'], WELL);
    await hostCommand('losetup', ['--detach', loopOf(driver).path], soon());
    assert.match((await told(driver, block)).node['volumeCondition'].message, /loop device is gone/);
    await hostCommand('umount', [block['targetPath']], soon());
    await withdrawn(driver, block);
    assert.deepEqual(driver.held(), []);
  });

  test('shows xfs that cannot be read', { skip: missing('xfs') }, async (t) => {
    const driver = await startDriver(t);
    const capacityRange = { requiredBytes: String(300 * MIB) };
    const volumeCapabilities = [mountOf('SINGLE_NODE_WRITER', { fsType: 'xfs' })];
    const request = await published(driver, 'v', { capacityRange, volumeCapabilities });
    await hostCommand('xfs_io', ['-x', '-c', 'shutdown -f', request['targetPath']], soon());
    assert.match((await told(driver, request)).node['volumeCondition'].message, /cannot be read: EIO/);
    await withdrawn(driver, request);
  });
});
