/** What a volume of the embedded driver is to those who use it, and what the driver does on a bad day. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, stat, statfs, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { loopDevicesBelow } from '../../../src/csi/local/loop-devices.ts';
import { hostCommand } from '../../../src/host-command.ts';
import { mountAt } from '../../../src/mountinfo.ts';
import { cleanup } from '../../support/cleanup.ts';
import { missing, needs } from '../../support/needs.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { blockOf, Driver, type Message, MIB, mountOf, startDriver } from './driver.ts';
import { blockSize, fill, published, withdrawn } from './use.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4');

describe('a mounted volume', { skip }, () => {
  for (const [fsType, sizeMib] of [
    ['ext4', 64],
    ['xfs', 300],
  ] as const) {
    test(`has ${fsType}, holds its size and not more, and keeps its data`, async (t) => {
      if (!needs(t, fsType)) return;
      const driver = await startDriver(t);
      const capacityRange = { requiredBytes: String(sizeMib * MIB) };
      const volumeCapabilities = [mountOf('SINGLE_NODE_WRITER', { fsType })];
      const request = await published(driver, 'v', { capacityRange, volumeCapabilities });
      const target: string = request['targetPath'];
      assert.equal(mountAt(target)?.fsType, fsType);
      await writeFile(`${target}/kept`, 'data');
      const taken = await fill(`${target}/full`);
      assert.ok(taken > 0.7 * sizeMib * MIB && taken < sizeMib * MIB, `took ${taken}`);
      const { usage } = await driver.call('NodeGetVolumeStats', { volumeId: request['volumeId'], volumePath: target });
      const { bsize, blocks } = await statfs(target);
      assert.equal(usage[0].total, String(bsize * blocks));
      await withdrawn(driver, request);
      await driver.restart();
      await driver.call('NodeStageVolume', request);
      await driver.call('NodePublishVolume', request);
      assert.equal(await readFile(`${target}/kept`, 'utf8'), 'data');
      await withdrawn(driver, request);
      await driver.call('DeleteVolume', request);
      assert.deepEqual(driver.held(), []);
    });
  }

  test('has the mount flags that were asked for, and is read-only where asked', async (t) => {
    const driver = await startDriver(t);
    const capability = mountOf('SINGLE_NODE_MULTI_WRITER', { mountFlags: ['noatime', 'nosuid', 'discard'] });
    const request = await published(driver, 'v', { volumeCapabilities: [capability] });
    const second = { ...request, targetPath: `${request['targetPath']}-ro`, readonly: true };
    await driver.call('NodePublishVolume', second);
    for (const flag of ['noatime', 'nosuid', 'rw']) {
      assert.ok(mountAt(request['targetPath'])?.options.includes(flag), flag);
    }
    for (const flag of ['noatime', 'nosuid', 'ro']) assert.ok(mountAt(second.targetPath)?.options.includes(flag), flag);
    assert.ok(mountAt(request['targetPath'])?.superOptions.includes('discard'));
    await writeFile(`${request['targetPath']}/x`, 'x');
    assert.equal(await readFile(`${second.targetPath}/x`, 'utf8'), 'x');
    await assert.rejects(writeFile(`${second.targetPath}/y`, 'y'), { code: 'EROFS' });
    await driver.call('NodeUnpublishVolume', second);
    await withdrawn(driver, request);
    assert.deepEqual(driver.held(), []);
  });

  test('can be written on a loop device that somebody left read-only', async (t) => {
    const driver = await startDriver(t);
    const file = join(driver.dir, 'stranger');
    await writeFile(file, '');
    await truncate(file, 1024 * 1024);
    const soon = AbortSignal.timeout(10_000);
    const device = await hostCommand('losetup', ['--find', '--show', file], soon);
    await hostCommand('blockdev', ['--setro', device], soon);
    await hostCommand('losetup', ['--detach', device], soon);
    const request = await published(driver, 'v', { volumeCapabilities: [mountOf('SINGLE_NODE_WRITER')] });
    await writeFile(`${request['targetPath']}/x`, 'x');
    await withdrawn(driver, request);
  });

  test('of type directory lies on the disk of the driver', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', { parameters: { type: 'directory' } }, { readonly: true });
    await writeFile(`${request['stagingTargetPath']}/x`, 'x');
    assert.equal(await readFile(`${request['targetPath']}/x`, 'utf8'), 'x');
    await assert.rejects(writeFile(`${request['targetPath']}/y`, 'y'), { code: 'EROFS' });
    assert.equal((await statfs(request['targetPath'])).blocks, (await statfs(driver.dir)).blocks);
    assert.equal(await driver.codeOf('DeleteVolume', request), 'FAILED_PRECONDITION');
    await withdrawn(driver, request);
    assert.deepEqual(driver.held(), []);
    await driver.call('DeleteVolume', request);
    assert.equal(existsSync(`${driver.dataDir}/volumes/${request['volumeId']}`), false);
  });

  test('that a process uses is not unpublished until it ends its use', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {});
    const file = await open(`${request['targetPath']}/x`, 'w');
    assert.equal(await driver.codeOf('NodeUnpublishVolume', request), 'UNAVAILABLE');
    assert.ok(mountAt(request['targetPath']) !== undefined);
    await file.close();
    await withdrawn(driver, request);
    assert.deepEqual(driver.held(), []);
  });

  test('is found through paths with symbolic links', async (t) => {
    const driver = await startDriver(t);
    await mkdir(`${driver.dir}/real`);
    await symlink(`${driver.dir}/real`, `${driver.dir}/link`);
    const volumeId = await driver.createVolume('v');
    await mkdir(`${driver.dir}/link/staging`);
    const request = {
      volumeId,
      stagingTargetPath: `${driver.dir}/link/staging`,
      targetPath: `${driver.dir}/link/target`,
      volumeCapability: mountOf(),
    };
    for (const rpc of ['NodeStageVolume', 'NodeStageVolume', 'NodePublishVolume', 'NodePublishVolume']) {
      await driver.call(rpc, request);
    }
    assert.equal(driver.held().length, 3);
    await withdrawn(driver, request);
    assert.deepEqual(driver.held(), []);
  });
});

describe('a block volume', { skip }, () => {
  test('is a device of exactly its size that keeps what is written', async (t) => {
    const driver = await startDriver(t);
    const size = 5 * MIB + 4096;
    const range = { requiredBytes: String(size), limitBytes: String(size) };
    const request = await published(driver, 'v', { capacityRange: range, volumeCapabilities: [blockOf()] });
    const target: string = request['targetPath'];
    assert.equal((await stat(target)).isBlockDevice(), true);
    assert.equal(await blockSize(target), size);
    const device = await open(target, 'r+');
    await device.write('at the end', size - 10);
    await assert.rejects(device.write('beyond', size), { code: 'ENOSPC' });
    await device.sync();
    await device.close();
    await withdrawn(driver, request);
    assert.equal(existsSync(target), false);
    await driver.call('NodeStageVolume', request);
    await driver.call('NodePublishVolume', request);
    assert.equal((await readFile(target)).subarray(-10).toString(), 'at the end');
    await withdrawn(driver, request);
  });

  test('published read-only refuses writes, and takes them when published again without', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', { volumeCapabilities: [blockOf()] }, { readonly: true });
    const target: string = request['targetPath'];
    const write = async (): Promise<void> => {
      const device = await open(target, 'r+');
      try {
        await device.write('x');
      } finally {
        await device.close();
      }
    };
    await assert.rejects(write());
    await driver.call('NodeUnpublishVolume', request);
    await driver.call('NodePublishVolume', { ...request, readonly: false });
    await write();
    await withdrawn(driver, request);
  });

  test('that a process still has open is not staged a second time', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', { volumeCapabilities: [blockOf()] });
    const [loop] = loopDevicesBelow(driver.dir);
    assert.ok(loop !== undefined);
    // As through a container's own mount.
    const device = await open(loop.path, 'r+');
    await withdrawn(driver, request);
    assert.equal(await driver.codeOf('NodeStageVolume', request), 'UNAVAILABLE');
    assert.equal(await driver.codeOf('DeleteVolume', request), 'FAILED_PRECONDITION');
    await device.close();
    await driver.call('NodeStageVolume', request);
    await withdrawn(driver, request);
    await driver.call('DeleteVolume', request);
    assert.deepEqual(driver.held(), []);
  });
});

describe('the driver', { skip }, () => {
  test('serves twenty volumes at once', async (t) => {
    const driver = await startDriver(t);
    const names = Array.from({ length: 20 }, (_, index) => `v${index}`);
    const requests = await Promise.all(
      names.map((name, index) =>
        published(driver, name, { volumeCapabilities: [index % 3 === 0 ? blockOf() : mountOf()] }),
      ),
    );
    assert.equal(new Set(requests.map((request) => request['volumeId'])).size, 20);
    assert.equal(loopDevicesBelow(driver.dir).length, 20);
    await Promise.all(
      requests.map(async (request, index) => {
        if (index % 3 !== 0) await writeFile(`${request['targetPath']}/own`, request['volumeId']);
      }),
    );
    for (const [index, request] of requests.entries()) {
      if (index % 3 === 0) continue;
      assert.equal(await readFile(`${request['targetPath']}/own`, 'utf8'), request['volumeId']);
    }
    await Promise.all(
      requests.map(async (request) => {
        await withdrawn(driver, request);
        await driver.call('DeleteVolume', request);
      }),
    );
    assert.deepEqual(driver.held(), []);
  });

  test('answers ABORTED to a second call on a volume and makes one volume of two equal requests', async (t) => {
    const driver = await startDriver(t);
    const request = {
      name: 'v',
      volumeCapabilities: [mountOf()],
      capacityRange: { requiredBytes: String(16 * MIB) },
    };
    const creates = Array.from({ length: 5 }, () => driver.codeOf('CreateVolume', request));
    assert.deepEqual([...new Set(await Promise.all(creates))].toSorted(), ['ABORTED', 'OK']);
    assert.equal((await driver.call('ListVolumes'))['entries'].length, 1);
    const staging = {
      volumeId: await driver.createVolume('v'),
      ...(await driver.paths('v')),
      volumeCapability: mountOf(),
    };
    const stages = Array.from({ length: 5 }, () => driver.codeOf('NodeStageVolume', staging));
    assert.deepEqual((await Promise.all(stages)).toSorted(), ['ABORTED', 'ABORTED', 'ABORTED', 'ABORTED', 'OK']);
    assert.equal(loopDevicesBelow(driver.dir).length, 1);
    await driver.call('NodeUnstageVolume', staging);
  });

  test('does not touch a target that it did not make', async (t) => {
    const driver = await startDriver(t);
    const request: Message = { volumeId: await driver.createVolume('v'), ...(await driver.paths('v')) };
    await writeFile(request['targetPath'], 'mine');
    await driver.call('NodeUnpublishVolume', request);
    const staged = { ...request, volumeCapability: mountOf() };
    await driver.call('NodeStageVolume', staged);
    assert.equal(await driver.codeOf('NodePublishVolume', staged), 'FAILED_PRECONDITION');
    assert.equal(await driver.codeOf('NodeUnpublishVolume', staged), 'FAILED_PRECONDITION');
    assert.equal(await readFile(request['targetPath'], 'utf8'), 'mine');
    await driver.call('NodeUnstageVolume', staged);
  });

  test('mounts nothing through a symbolic link', async (t) => {
    const driver = await startDriver(t);
    const volumeId = await driver.createVolume('v');
    const request = { volumeId, ...(await driver.paths('v')), volumeCapability: mountOf() };
    await mkdir(`${driver.dir}/elsewhere`);
    await symlink(`${driver.dir}/elsewhere`, `${driver.dir}/link`);
    const link = `${driver.dir}/link`;
    assert.equal(
      await driver.codeOf('NodeStageVolume', { ...request, stagingTargetPath: link }),
      'FAILED_PRECONDITION',
    );
    assert.deepEqual(driver.held(), []);
    await driver.call('NodeStageVolume', request);
    assert.equal(await driver.codeOf('NodePublishVolume', { ...request, targetPath: link }), 'FAILED_PRECONDITION');
    assert.equal(mountAt(`${driver.dir}/elsewhere`), undefined);
    await driver.call('NodeUnstageVolume', request);
  });

  test('waits for a command that an earlier driver left running on the volume', async (t) => {
    const driver = await startDriver(t);
    const request = {
      volumeId: await driver.createVolume('v'),
      ...(await driver.paths('v')),
      volumeCapability: mountOf(),
    };
    const lock = `${driver.dataDir}/volumes/${request.volumeId}/lock`;
    const holder = hostCommand(
      'flock',
      [lock, 'sh', '-c', 'echo held >"$1"; read -r line <"$2"', '-', `${driver.dir}/held`, await fifo(driver)],
      AbortSignal.timeout(20_000),
    );
    await until(() => existsSync(`${driver.dir}/held`));
    assert.equal(await driver.codeOf('NodeStageVolume', request), 'ABORTED');
    assert.deepEqual(driver.held(), []);
    await writeFile(`${driver.dir}/fifo`, 'go\n');
    await holder;
    await driver.call('NodeStageVolume', request);
    await driver.call('NodeUnstageVolume', request);
  });

  test('leaves a volume alone whose record is damaged, and says so', async (t) => {
    const driver = await startDriver(t);
    const volumeId = await driver.createVolume('v');
    await driver.end('SIGTERM');
    await writeFile(`${driver.dataDir}/volumes/${volumeId}/volume.json`, '{"version":1,"id":');
    await driver.start();
    assert.equal(await driver.codeOf('DeleteVolume', { volumeId }), 'DATA_LOSS');
    assert.match(driver.stderr, /volume record is not readable/);
    assert.equal(existsSync(`${driver.dataDir}/volumes/${volumeId}/image`), true);
  });
});

describe('the driver as a process', { skip }, () => {
  test('listens on a socket of mode 0600 and leaves none when it ends', async (t) => {
    const driver = await startDriver(t);
    assert.equal((await stat(driver.socketPath)).mode & 0o777, 0o600);
    assert.equal(await driver.end('SIGTERM'), 0);
    assert.equal(existsSync(driver.socketPath), false);
  });

  test('ends when its standard input does', async (t) => {
    const driver = await startDriver(t);
    const exit = once(driver.process, 'exit');
    driver.process.stdin?.end();
    assert.deepEqual(await exit, [0, null]);
  });

  test('ends after the calls under way', async (t) => {
    const driver = await startDriver(t);
    const creates = ['a', 'b', 'c'].map((name) =>
      driver.codeOf('CreateVolume', { name, volumeCapabilities: [mountOf()] }),
    );
    // The first answer shows that the calls have arrived.
    await Promise.race(creates);
    const exit = once(driver.process, 'exit');
    driver.process.kill('SIGTERM');
    assert.deepEqual(await Promise.all(creates), ['OK', 'OK', 'OK']);
    assert.deepEqual(await exit, [0, null]);
  });

  test('replaces the socket of a killed driver, never a live socket or a file', async (t) => {
    const driver = await startDriver(t);
    await driver.restart('SIGKILL');
    await driver.end('SIGKILL');
    const { socketPath } = driver;
    await hostCommand('rm', [socketPath], AbortSignal.timeout(5000));
    await refusesToStart(t, socketPath, () => writeFile(socketPath, 'mine'), /is not a socket/);
    assert.equal(await readFile(socketPath, 'utf8'), 'mine');
    const server = createServer();
    cleanup(t, () => server.close());
    await refusesToStart(
      t,
      `${driver.dir}/live.sock`,
      async () => {
        server.listen(`${driver.dir}/live.sock`);
        await once(server, 'listening');
      },
      /served by another process/,
    );
  });

  test('keeps volumes usable while it is away and finds them when it is back', async (t) => {
    const driver = await startDriver(t);
    const mount = await published(driver, 'm', {});
    const block = await published(driver, 'b', { volumeCapabilities: [blockOf()] });
    await driver.end('SIGKILL');
    await writeFile(`${mount['targetPath']}/x`, 'x');
    assert.equal(await blockSize(block['targetPath']), 16 * MIB);
    const held = driver.held();
    await driver.start();
    assert.deepEqual(driver.held(), held);
    for (const request of [mount, block]) {
      await driver.call('NodeStageVolume', request);
      await driver.call('NodePublishVolume', request);
    }
    assert.deepEqual(driver.held(), held);
    for (const request of [mount, block]) await withdrawn(driver, request);
    assert.deepEqual(driver.held(), []);
  });

  test('takes a reboot for what it is: records stay, mounts and devices are made again', async (t) => {
    const driver = await startDriver(t);
    const mount = await published(driver, 'm', {});
    const block = await published(driver, 'b', { volumeCapabilities: [blockOf()] });
    await writeFile(`${mount['targetPath']}/x`, 'x');
    // All that a reboot takes away, and nothing else.
    await driver.dispose();
    assert.deepEqual(driver.held(), []);
    await driver.start();
    assert.equal(await driver.codeOf('NodePublishVolume', mount), 'FAILED_PRECONDITION');
    // One is only cleaned up, the other is used again.
    await withdrawn(driver, block);
    assert.equal(existsSync(block['targetPath']), false);
    await driver.call('NodeStageVolume', mount);
    await driver.call('NodePublishVolume', mount);
    assert.equal(await readFile(`${mount['targetPath']}/x`, 'utf8'), 'x');
    await withdrawn(driver, mount);
    assert.deepEqual(driver.held(), []);
  });

  test('detaches a loop device nobody asked for when it starts', async (t) => {
    const driver = await startDriver(t);
    const volumeId = await driver.createVolume('v', { volumeCapabilities: [blockOf()] });
    await driver.end('SIGKILL');
    const image = `${driver.dataDir}/volumes/${volumeId}/image`;
    await hostCommand('losetup', ['--find', image], AbortSignal.timeout(5000));
    assert.equal(driver.held().length, 1);
    await driver.start();
    assert.deepEqual(driver.held(), []);
  });
});

async function refusesToStart(
  t: TestContext,
  path: string,
  occupy: () => Promise<void>,
  reason: RegExp,
): Promise<void> {
  const driver = new Driver(await tempDir(t));
  cleanup(t, () => driver.dispose());
  Object.assign(driver, { socketPath: path });
  await occupy();
  await assert.rejects(driver.start(), reason);
}

async function fifo(driver: Driver): Promise<string> {
  await hostCommand('mkfifo', [`${driver.dir}/fifo`], AbortSignal.timeout(5000));
  return `${driver.dir}/fifo`;
}

/** Waits for something of another process that announces itself in no other way. */
async function until(condition: () => boolean): Promise<void> {
  const giveUpAt = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > giveUpAt) throw new Error('it did not come true');
    await new Promise((resolve) => setImmediate(resolve));
  }
}
