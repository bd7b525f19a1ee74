/** Volumes that grow, used and unused, and a driver that is killed meanwhile. */
import assert from 'node:assert/strict';
import { open, readFile, stat, statfs, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { canGrowMounted } from '../../../src/csi/local/file-system-growth.ts';
import { missing, needs } from '../../support/needs.ts';
import { blockOf, type Driver, type Message, MIB, mountOf, startDriver } from './driver.ts';
import { killDuring, repeated } from './killing.ts';
import { blockSize, fill, published, withdrawn } from './use.ts';

/** What the kernel asks for to make ext4 grow while it is mounted. */
const WITHOUT_SYS_RESOURCE = ['setpriv', '--bounding-set=-sys_resource'];
const GROWS_MOUNTED = { ext4: (await canGrowMounted('ext4')) ? undefined : 'needs CAP_SYS_RESOURCE', xfs: undefined };

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4');

const sized = (mib: number): Message => ({ requiredBytes: String(mib * MIB) });

async function bytesAt(path: string): Promise<number> {
  const { bsize, blocks } = await statfs(path);
  return bsize * blocks;
}

/** Both calls, as an orchestrator makes them; answers the capacity both agree on. */
async function expanded(driver: Driver, request: Message, mib: number): Promise<number> {
  const { volumeId, targetPath: volumePath, stagingTargetPath } = request;
  const capacityRange = sized(mib);
  const controller = await driver.call('ControllerExpandVolume', { volumeId, capacityRange });
  assert.equal(controller['nodeExpansionRequired'], true);
  const node = await driver.call('NodeExpandVolume', { volumeId, volumePath, stagingTargetPath, capacityRange });
  assert.equal(node['capacityBytes'], controller['capacityBytes']);
  return Number(node['capacityBytes']);
}

describe('a volume that grows', { skip }, () => {
  for (const [fsType, mib, moreMib] of [
    ['ext4', 32, 96],
    ['xfs', 300, 460],
  ] as const) {
    test(`does so under ${fsType} that is written to, takes all of its size and not more`, {
      skip: GROWS_MOUNTED[fsType],
    }, async (t) => {
      if (!needs(t, fsType)) return;
      const driver = await startDriver(t);
      const volumeCapabilities = [mountOf('SINGLE_NODE_WRITER', { fsType })];
      const create = { capacityRange: sized(mib), volumeCapabilities };
      const request = await published(driver, 'v', create);
      const target: string = request['targetPath'];
      await writeFile(`${target}/kept`, 'data');
      await using writer = await open(`${target}/open`, 'w');
      const before = await bytesAt(target);
      assert.equal(await expanded(driver, request, moreMib), moreMib * MIB);
      await writer.write('still');
      await writer.close();
      const after = await bytesAt(target);
      assert.ok(after - before > 0.9 * (moreMib - mib) * MIB && after <= moreMib * MIB, `${before} became ${after}`);
      const taken = await fill(`${target}/full`);
      assert.ok(taken > 1.05 * mib * MIB && taken < moreMib * MIB, `took ${taken}`);
      assert.equal(await expanded(driver, request, moreMib), moreMib * MIB);
      assert.equal(await driver.createVolume('v', create), request['volumeId']);
      await withdrawn(driver, request);
      await driver.restart();
      await driver.call('NodeStageVolume', request);
      await driver.call('NodePublishVolume', request);
      assert.equal(await bytesAt(target), after);
      assert.equal(await readFile(`${target}/kept`, 'utf8'), 'data');
      await withdrawn(driver, request);
      await driver.call('DeleteVolume', request);
      assert.deepEqual(driver.held(), []);
    });

    test(`while nobody uses it has ${fsType} of the new size with its next use, also without NodeExpandVolume`, async (t) => {
      if (!needs(t, fsType)) return;
      const driver = await startDriver(t);
      const volumeCapabilities = [mountOf('SINGLE_NODE_WRITER', { fsType })];
      const request = await published(driver, 'v', { capacityRange: sized(mib), volumeCapabilities });
      const before = await bytesAt(request['targetPath']);
      await withdrawn(driver, request);
      const { volumeId } = request;
      await driver.call('ControllerExpandVolume', { volumeId, capacityRange: sized(moreMib) });
      const volumePath = request['targetPath'];
      assert.equal(await driver.codeOf('NodeExpandVolume', { volumeId, volumePath }), 'NOT_FOUND');
      await driver.call('NodeStageVolume', request);
      const after = await bytesAt(request['stagingTargetPath']);
      assert.ok(after - before > 0.9 * (moreMib - mib) * MIB, `${before} became ${after}`);
      await driver.call('NodePublishVolume', request);
      assert.equal(await expanded(driver, request, moreMib), moreMib * MIB);
      await withdrawn(driver, request);
      assert.deepEqual(driver.held(), []);
    });
  }

  test('from the smallest to many times its size', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', { capacityRange: { requiredBytes: '1' } });
    await withdrawn(driver, request);
    const { volumeId } = request;
    await driver.call('ControllerExpandVolume', { volumeId, capacityRange: sized(512) });
    await driver.call('NodeStageVolume', request);
    assert.ok((await bytesAt(request['stagingTargetPath'])) > 400 * MIB);
    assert.doesNotMatch(driver.stderr, /does not grow/);
    await driver.call('NodeUnstageVolume', request);
  });

  for (const readonly of [false, true]) {
    test(`is a ${readonly ? 'read-only ' : ''}block device that shows its new size to who has it open`, async (t) => {
      const driver = await startDriver(t);
      const request = await published(driver, 'v', { volumeCapabilities: [blockOf()] }, { readonly });
      const target: string = request['targetPath'];
      const reader = await open(target, readonly ? 'r' : 'r+');
      assert.equal(await expanded(driver, request, 48), 48 * MIB);
      assert.equal(await blockSize(target), 48 * MIB);
      const { bytesRead } = await reader.read(Buffer.alloc(4096), 0, 4096, 48 * MIB - 4096);
      assert.equal(bytesRead, 4096);
      if (!readonly) {
        await reader.write(Buffer.alloc(4096, 7), 0, 4096, 48 * MIB - 4096);
        await reader.sync();
      }
      await reader.close();
      await withdrawn(driver, request);
      const { volumeId } = request;
      const unused = await driver.call('ControllerExpandVolume', { volumeId, capacityRange: sized(64) });
      assert.deepEqual(unused, { capacityBytes: String(64 * MIB), nodeExpansionRequired: false });
      await driver.call('NodeStageVolume', request);
      await driver.call('NodePublishVolume', request);
      assert.equal(await blockSize(target), 64 * MIB);
      await withdrawn(driver, request);
      assert.deepEqual(driver.held(), []);
    });
  }

  test('does not shrink, stays within the limit and within the disk, and is no other volume afterwards', async (t) => {
    const driver = await startDriver(t);
    const create = { capacityRange: { requiredBytes: String(16 * MIB), limitBytes: String(20 * MIB) } };
    const volumeId = await driver.createVolume('v', create);
    const expand = (capacityRange: Message | undefined): Promise<string> =>
      driver.codeOf('ControllerExpandVolume', { volumeId, capacityRange });
    const size = async (): Promise<string> => (await driver.call('ListVolumes'))['entries'][0].volume.capacityBytes;
    assert.equal(await expand(sized(8)), 'OK');
    assert.equal(await size(), String(16 * MIB));
    assert.equal(await expand({ limitBytes: String(8 * MIB) }), 'OUT_OF_RANGE');
    const odd = String(16 * MIB + 1);
    assert.equal(await expand({ requiredBytes: odd, limitBytes: odd }), 'OUT_OF_RANGE');
    assert.equal(await expand({ requiredBytes: String(2 ** 50) }), 'OUT_OF_RANGE');
    assert.equal(await expand({ requiredBytes: String(15 * 2 ** 40) }), 'RESOURCE_EXHAUSTED');
    assert.equal(await expand({ requiredBytes: '-1' }), 'INVALID_ARGUMENT');
    assert.equal(await expand({}), 'INVALID_ARGUMENT');
    assert.equal(await expand(undefined), 'INVALID_ARGUMENT');
    assert.equal(await size(), String(16 * MIB));
    const available = async (): Promise<number> => Number((await driver.call('GetCapacity'))['availableCapacity']);
    const before = await available();
    assert.equal(await expand(sized(1024)), 'OK');
    const claimed = before - (await available());
    // Others write to this disk, too.
    assert.ok(claimed > 800 * MIB, `${claimed} bytes are claimed`);
    assert.equal(await driver.createVolume('v', create), volumeId);
    assert.equal(await driver.codeOf('CreateVolume', { name: 'v', volumeCapabilities: [mountOf()] }), 'OK');
    const other = { name: 'v', volumeCapabilities: [mountOf()], capacityRange: sized(1024) };
    assert.equal(await driver.codeOf('CreateVolume', other), 'ALREADY_EXISTS');
    const unknown = { volumeId: 'f'.repeat(32), capacityRange: sized(1) };
    assert.equal(await driver.codeOf('ControllerExpandVolume', unknown), 'NOT_FOUND');
  });

  test('has ext4 that grows with the next use when the driver may not do it sooner', async (t) => {
    if (!needs(t, 'setpriv')) return;
    const driver = await startDriver(t, { wrapper: WITHOUT_SYS_RESOURCE });
    const request = await published(driver, 'v', {});
    const { volumeId, targetPath: volumePath } = request;
    await writeFile(`${volumePath}/kept`, 'data');
    const expand = { volumeId, volumePath, capacityRange: sized(64) };
    await driver.call('ControllerExpandVolume', expand);
    await assert.rejects(driver.call('NodeExpandVolume', expand), /CAP_SYS_RESOURCE/);
    assert.ok((await bytesAt(volumePath)) < 16 * MIB);
    await withdrawn(driver, request);
    await driver.call('NodeStageVolume', request);
    await driver.call('NodePublishVolume', request);
    assert.ok((await bytesAt(volumePath)) > 50 * MIB);
    assert.equal(await readFile(`${volumePath}/kept`, 'utf8'), 'data');
    assert.equal((await driver.call('NodeExpandVolume', expand))['capacityBytes'], String(64 * MIB));
    await withdrawn(driver, request);
    assert.deepEqual(driver.held(), []);
  });

  test('is asked of the node only where it is, and not while it is mounted read-only', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {
      volumeCapabilities: [mountOf('SINGLE_NODE_WRITER', { mountFlags: ['ro'] })],
    });
    const { volumeId, targetPath: volumePath } = request;
    const node = (change: Message): Promise<string> =>
      driver.codeOf('NodeExpandVolume', { volumeId, volumePath, ...change });
    assert.equal(await node({ volumeId: '' }), 'INVALID_ARGUMENT');
    assert.equal(await node({ volumePath: '' }), 'INVALID_ARGUMENT');
    assert.equal(await node({ volumeId: 'f'.repeat(32) }), 'NOT_FOUND');
    assert.equal(await node({ volumePath: `${volumePath}x` }), 'NOT_FOUND');
    assert.equal(await node({ capacityRange: sized(17) }), 'OUT_OF_RANGE');
    assert.equal(await driver.codeOf('ControllerExpandVolume', { volumeId, capacityRange: sized(17) }), 'OK');
    assert.equal(await node({ capacityRange: sized(17) }), 'FAILED_PRECONDITION');
    await withdrawn(driver, request);
    const writable = { ...request, volumeCapability: mountOf() };
    await driver.call('NodeStageVolume', writable);
    assert.ok((await bytesAt(request['stagingTargetPath'])) > 14 * MIB);
    await driver.call('NodeUnstageVolume', writable);
  });

  test('and is a directory only changes what is written down', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', { parameters: { type: 'directory' } });
    const { volumeId, targetPath: volumePath } = request;
    const answer = await driver.call('ControllerExpandVolume', { volumeId, capacityRange: sized(17) });
    assert.deepEqual(answer, { capacityBytes: String(17 * MIB), nodeExpansionRequired: false });
    assert.equal(await driver.codeOf('NodeExpandVolume', { volumeId, volumePath }), 'OK');
    await withdrawn(driver, request);
  });
});

describe('a driver killed while a volume grows', { skip }, () => {
  test('ends at its start what was written down', async (t) => {
    const driver = await startDriver(t);
    const volumeId = await driver.createVolume('v');
    await driver.end('SIGKILL');
    const path = `${driver.dataDir}/volumes/${volumeId}/volume.json`;
    const record = JSON.parse(await readFile(path, 'utf8'));
    await writeFile(path, JSON.stringify({ ...record, createdBytes: record.sizeBytes, expandingTo: 24 * MIB }));
    await driver.start();
    const { createdBytes, expandingTo, sizeBytes } = JSON.parse(await readFile(path, 'utf8'));
    assert.deepEqual([createdBytes, expandingTo, sizeBytes], [16 * MIB, undefined, 24 * MIB]);
    assert.equal((await stat(`${driver.dataDir}/volumes/${volumeId}/image`)).size, 24 * MIB);
    assert.equal(await driver.createVolume('v'), volumeId);
  });

  for (const kind of ['ext4', 'xfs', 'block'] as const) {
    test(`repeats each call to the same result, ${kind}`, async (t) => {
      if (kind !== 'block' && !needs(t, kind)) return;
      if (kind === 'ext4' && GROWS_MOUNTED.ext4 !== undefined) return t.skip(GROWS_MOUNTED.ext4);
      const driver = await startDriver(t);
      const mib = kind === 'xfs' ? 300 : 16;
      const volumeCapabilities = [kind === 'block' ? blockOf() : mountOf('SINGLE_NODE_WRITER', { fsType: kind })];
      const request = await published(driver, 'v', { capacityRange: sized(mib), volumeCapabilities });
      const { volumeId, targetPath: volumePath } = request;
      const size = (): Promise<number> => (kind === 'block' ? blockSize(volumePath) : bytesAt(volumePath));
      let wanted = mib;
      for (const moment of [1, 3, 6, 10, 15, 20]) {
        wanted *= 2;
        const before = await size();
        const expand = { volumeId, volumePath, capacityRange: sized(wanted) };
        await killDuring(driver, moment, 'ControllerExpandVolume', expand);
        assert.equal((await repeated(driver, 'ControllerExpandVolume', expand))['capacityBytes'], String(wanted * MIB));
        await killDuring(driver, moment, 'NodeExpandVolume', expand);
        await repeated(driver, 'NodeExpandVolume', expand);
        assert.ok((await size()) - before > 0.9 * (wanted / 2) * MIB, `${before} became ${await size()}`);
      }
      await withdrawn(driver, request);
      await driver.call('DeleteVolume', request);
      assert.deepEqual(driver.held(), []);
    });
  }

  test('stages ext4 that was growing meanwhile', async (t) => {
    if (!needs(t, 'setpriv')) return;
    const driver = await startDriver(t, { wrapper: WITHOUT_SYS_RESOURCE });
    const volumeId = await driver.createVolume('v');
    const request = { volumeId, ...(await driver.paths('v')), volumeCapability: mountOf() };
    let wanted = 16;
    for (const moment of [5, 15, 30, 50, 80]) {
      wanted *= 2;
      await driver.call('ControllerExpandVolume', { volumeId, capacityRange: sized(wanted) });
      await killDuring(driver, moment, 'NodeStageVolume', request);
      await repeated(driver, 'NodeStageVolume', request);
      assert.ok((await bytesAt(request.stagingTargetPath)) > 0.8 * wanted * MIB);
      await driver.call('NodeUnstageVolume', request);
    }
    assert.deepEqual(driver.held(), []);
  });
});
