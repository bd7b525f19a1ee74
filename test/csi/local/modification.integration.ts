/** Volumes whose blocks are reserved, from the beginning or later, and given back. */
import assert from 'node:assert/strict';
import { mkdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { hostCommand } from '../../../src/host-command.ts';
import { cleanup } from '../../support/cleanup.ts';
import { missing } from '../../support/needs.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { blockOf, Driver, type Message, MIB, mountOf, startDriver } from './driver.ts';
import { killDuring, repeated } from './killing.ts';
import { published, withdrawn } from './use.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4');
const RESERVED = { allocation: 'reserved' };
const THIN = { allocation: 'thin' };

const soon = (): AbortSignal => AbortSignal.timeout(20_000);

const imageOf = (driver: Driver, id: string): string => `${driver.dataDir}/volumes/${id}/image`;

async function occupied(driver: Driver, id: string): Promise<number> {
  return (await stat(imageOf(driver, id))).blocks * 512;
}

describe('a volume with reserved blocks', { skip }, () => {
  for (const access of ['mount', 'block'] as const) {
    test(`has them from its creation, when it grows, and with each staging, ${access}`, async (t) => {
      const driver = await startDriver(t);
      const volumeCapabilities = [access === 'block' ? blockOf() : mountOf()];
      const request = await published(driver, 'v', { volumeCapabilities, mutableParameters: RESERVED });
      const { volumeId, targetPath } = request;
      assert.ok((await occupied(driver, volumeId)) >= 16 * MIB);
      assert.equal(await driver.createVolume('v', { volumeCapabilities, mutableParameters: RESERVED }), volumeId);
      await driver.call('ControllerExpandVolume', { volumeId, capacityRange: { requiredBytes: String(24 * MIB) } });
      assert.ok((await occupied(driver, volumeId)) >= 24 * MIB);
      await hostCommand(access === 'block' ? 'blkdiscard' : 'fstrim', [targetPath], soon());
      assert.ok((await occupied(driver, volumeId)) < 20 * MIB);
      await withdrawn(driver, request);
      await driver.call('NodeStageVolume', request);
      assert.ok((await occupied(driver, volumeId)) >= 24 * MIB);
      await driver.call('NodeUnstageVolume', request);
      assert.deepEqual(driver.held(), []);
    });
  }

  test('gets them and gives them back while it is used, and keeps what was written', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {});
    const { volumeId, targetPath } = request;
    await writeFile(`${targetPath}/file`, 'text');
    assert.ok((await occupied(driver, volumeId)) < 8 * MIB);
    await driver.call('ControllerModifyVolume', { volumeId, mutableParameters: RESERVED });
    await driver.call('ControllerModifyVolume', { volumeId, mutableParameters: RESERVED });
    assert.ok((await occupied(driver, volumeId)) >= 16 * MIB);
    await driver.call('ControllerModifyVolume', { volumeId, mutableParameters: THIN });
    // It was modified since: CreateVolume leaves it.
    await driver.createVolume('v', { mutableParameters: RESERVED });
    await hostCommand('fstrim', [targetPath], soon());
    await withdrawn(driver, request);
    await driver.call('NodeStageVolume', request);
    await driver.call('NodePublishVolume', request);
    assert.ok((await occupied(driver, volumeId)) < 12 * MIB, `${await occupied(driver, volumeId)} bytes stay`);
    assert.equal(await readFile(`${targetPath}/file`, 'utf8'), 'text');
    await withdrawn(driver, request);
    assert.deepEqual(driver.held(), []);
  });

  test('is refused what is not known, and what the disk does not have, and stays as it was', async (t) => {
    const driver = new Driver(await tempDir(t));
    cleanup(t, () => driver.dispose());
    await mkdir(driver.dataDir);
    await writeFile(`${driver.dir}/disk`, '');
    await truncate(`${driver.dir}/disk`, 64 * MIB);
    await hostCommand('mkfs.ext4', ['-q', '-m', '0', `${driver.dir}/disk`], soon());
    await hostCommand('mount', ['-o', 'loop', `${driver.dir}/disk`, driver.dataDir], soon());
    await driver.start();
    const volumeId = await driver.createVolume('v', { capacityRange: { requiredBytes: String(32 * MIB) } });
    const modify = (mutableParameters: Message, id = volumeId): Promise<string> =>
      driver.codeOf('ControllerModifyVolume', { volumeId: id, mutableParameters });
    assert.equal(await modify({ colour: 'red' }), 'INVALID_ARGUMENT');
    assert.equal(await modify({ allocation: 'much' }), 'INVALID_ARGUMENT');
    assert.equal(await modify(RESERVED, ''), 'INVALID_ARGUMENT');
    assert.equal(await modify(RESERVED, 'f'.repeat(32)), 'NOT_FOUND');
    assert.equal(await modify({}), 'OK');
    // Somebody else writes to the disk.
    await writeFile(`${driver.dataDir}/foreign`, Buffer.alloc(40 * MIB, 7));
    assert.equal(await modify(RESERVED), 'RESOURCE_EXHAUSTED');
    const { allocation } = JSON.parse(await readFile(`${driver.dataDir}/volumes/${volumeId}/volume.json`, 'utf8'));
    assert.equal(allocation, undefined);
    // One that is reserved and lost blocks is used all the same.
    const path = `${driver.dataDir}/volumes/${volumeId}/volume.json`;
    const record = await readFile(path, 'utf8');
    await driver.end('SIGKILL');
    await writeFile(path, JSON.stringify({ ...JSON.parse(record), allocation: 'reserved' }));
    await driver.start();
    const request = { volumeId, ...(await driver.paths('v')), volumeCapability: mountOf() };
    await driver.call('NodeStageVolume', request);
    await driver.call('NodeUnstageVolume', request);
    assert.match(driver.stderr, /has not all its blocks/);
    await driver.end('SIGKILL');
    await writeFile(path, record);
    await driver.start();
    await rm(`${driver.dataDir}/foreign`);
    assert.equal(await modify(RESERVED), 'OK');
    assert.ok((await occupied(driver, volumeId)) >= 32 * MIB);
    const create = { name: 'w', volumeCapabilities: [mountOf()], mutableParameters: { colour: 'red' } };
    assert.equal(await driver.codeOf('CreateVolume', create), 'INVALID_ARGUMENT');
    const directory = { ...create, parameters: { type: 'directory' }, mutableParameters: RESERVED };
    assert.equal(await driver.codeOf('CreateVolume', directory), 'INVALID_ARGUMENT');
    assert.equal((await driver.call('ListVolumes'))['entries'].length, 1);
  });

  test('has them also when the driver is killed meanwhile', async (t) => {
    const driver = await startDriver(t);
    for (const moment of [1, 4, 10]) {
      const volumeId = await driver.createVolume(`v${moment}`);
      const request = { volumeId, mutableParameters: RESERVED };
      await killDuring(driver, moment, 'ControllerModifyVolume', request);
      await repeated(driver, 'ControllerModifyVolume', request);
      assert.ok((await occupied(driver, volumeId)) >= 16 * MIB);
    }
    const volumeId = await driver.createVolume('cut');
    await driver.end('SIGKILL');
    const path = `${driver.dataDir}/volumes/${volumeId}/volume.json`;
    await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), allocation: 'reserved' }));
    await driver.start();
    assert.ok((await occupied(driver, volumeId)) >= 16 * MIB);
  });
});
