/**
 * The driver is killed in the middle of each call, at many moments, and started again: the same call repeated comes to
 * the same result, its opposite undoes it, and nothing is left over.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { missing } from '../../support/needs.ts';
import { blockOf, type Driver, type Message, MIB, mountOf, startDriver } from './driver.ts';
import { killDuring, repeated } from './killing.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4');

/** Moments of the kill after the call was sent, in milliseconds: all steps of a call take some 20. */
const MOMENTS_MS = { mount: [2, 8, 15], block: [2, 8, 15], directory: [3, 9] } as const;

async function idsOf(driver: Driver): Promise<string[]> {
  const { entries } = await driver.call('ListVolumes');
  return entries.map((entry: Message) => entry['volume'].volumeId);
}

for (const access of ['mount', 'block', 'directory'] as const) {
  describe(`a driver killed during each call, ${access}`, { skip, concurrency: true }, () => {
    const volumeCapability = access === 'block' ? blockOf() : mountOf();
    const create = (name: string): Message => ({
      name,
      capacityRange: { requiredBytes: String(16 * MIB) },
      volumeCapabilities: [volumeCapability],
      parameters: access === 'directory' ? { type: 'directory' } : {},
    });
    /** Writes to the published volume and reads it back. */
    const use = async (target: string): Promise<void> => {
      if (access === 'block') await writeFile(target, 'text', { flag: 'r+' });
      else await writeFile(`${target}/file`, 'text');
      const read = await readFile(access === 'block' ? target : `${target}/file`);
      assert.equal(read.subarray(0, 4).toString(), 'text');
    };

    test('repeats every call of the way up and the way down to the same result', async (t) => {
      const driver = await startDriver(t);
      for (const moment of MOMENTS_MS[access]) {
        const name = `v${moment}`;
        await killDuring(driver, moment, 'CreateVolume', create(name));
        const { volume } = await repeated(driver, 'CreateVolume', create(name));
        const { volumeId } = volume;
        assert.deepEqual(await idsOf(driver), [volumeId]);
        const request = { volumeId, ...(await driver.paths(name)), volumeCapability };
        for (const rpc of ['NodeStageVolume', 'NodePublishVolume']) {
          await killDuring(driver, moment, rpc, request);
          await repeated(driver, rpc, request);
        }
        await use(request.targetPath);
        for (const rpc of ['NodeUnpublishVolume', 'NodeUnstageVolume']) {
          await killDuring(driver, moment, rpc, request);
          await repeated(driver, rpc, request);
        }
        assert.equal(existsSync(request.targetPath), false);
        assert.deepEqual(driver.held(), []);
        await killDuring(driver, moment, 'DeleteVolume', request);
        await repeated(driver, 'DeleteVolume', request);
        assert.deepEqual(await idsOf(driver), []);
      }
      for (const area of ['volumes', 'new', 'trash']) assert.deepEqual(await readdir(`${driver.dataDir}/${area}`), []);
    });

    test('undoes every call of the way up by its opposite', async (t) => {
      const driver = await startDriver(t);
      const { volume } = await driver.call('CreateVolume', create('v'));
      const request = { volumeId: volume.volumeId, ...(await driver.paths('v')), volumeCapability };
      for (const moment of MOMENTS_MS[access]) {
        await killDuring(driver, moment, 'NodeStageVolume', request);
        await repeated(driver, 'NodeUnstageVolume', request);
        assert.deepEqual(driver.held(), []);
        await driver.call('NodeStageVolume', request);
        await killDuring(driver, moment, 'NodePublishVolume', request);
        await repeated(driver, 'NodeUnpublishVolume', request);
        assert.equal(existsSync(request.targetPath), false);
        await repeated(driver, 'NodeUnstageVolume', request);
        assert.deepEqual(driver.held(), []);
      }
      await driver.call('DeleteVolume', request);
    });
  });
}
