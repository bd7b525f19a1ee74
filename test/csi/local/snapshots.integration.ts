/** What a snapshot of the embedded driver is: the volume of one moment, on the disk, whatever happens meanwhile. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { whileFrozen } from '../../../src/csi/local/freezer.ts';
import { RuntimeError } from '../../../src/errors.ts';
import { hostCommand } from '../../../src/host-command.ts';
import type { TestScope } from '../../support/cleanup.ts';
import { missing, needs } from '../../support/needs.ts';
import {
  fillBlocks,
  imageOf,
  isFrozen,
  listed,
  published,
  readIn,
  snapshotOf,
  startOnXfs,
  thawInTheEnd,
  until,
  withdrawn,
} from './copies.ts';
import { blockOf, type Driver, type Message, MIB, startDriver } from './driver.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4', 'fsfreeze');

for (const disk of ['ext4', 'xfs'] as const) {
  describe(`a snapshot, data directory on ${disk === 'xfs' ? 'xfs' : 'what there is'}`, { skip }, () => {
    const start = async (t: TestScope): Promise<Driver> => (disk === 'xfs' ? startOnXfs(t) : startDriver(t));

    test('holds what the mounted volume held, and the volume goes on', async (t) => {
      if (disk === 'xfs' && !needs(t, 'xfs')) return;
      const driver = await start(t);
      const request = await published(driver, 'v');
      thawInTheEnd(t, request['targetPath']);
      // Not written out: the freeze does that.
      await writeFile(`${request['targetPath']}/note`, 'first');
      const snapshot = await snapshotOf(driver, 's', request['volumeId']);
      assert.equal(snapshot['readyToUse'], true);
      assert.equal(snapshot['sourceVolumeId'], request['volumeId']);
      assert.equal(Number(snapshot['sizeBytes']), 16 * MIB);
      assert.ok(Math.abs(Number(snapshot['creationTime'].seconds) - Date.now() / 1000) < 60);
      assert.equal(await isFrozen(request['targetPath']), false);
      assert.equal(existsSync(`${driver.dataDir}/volumes/${request['volumeId']}/frozen`), false);
      await writeFile(`${request['targetPath']}/note`, 'second');
      assert.equal(await readIn(t, driver, snapshot, 'note'), 'first');
      // The same again is the same, also for the next driver; the volume may go.
      await driver.restart();
      assert.deepEqual(await snapshotOf(driver, 's', request['volumeId']), snapshot);
      await withdrawn(driver, request);
      await driver.call('DeleteVolume', request);
      assert.deepEqual((await driver.call('GetSnapshot', snapshot))['snapshot'], snapshot);
      assert.equal(await readIn(t, driver, snapshot, 'note'), 'first');
      await driver.call('DeleteSnapshot', snapshot);
      await driver.call('DeleteSnapshot', snapshot);
      assert.deepEqual(await listed(driver), []);
      for (const area of ['snapshots', 'new', 'trash']) {
        assert.deepEqual(await readdir(`${driver.dataDir}/${area}`), []);
      }
    });

    test('of a block volume in use holds what was written out', async (t) => {
      if (disk === 'xfs' && !needs(t, 'xfs')) return;
      const driver = await start(t);
      const request = await published(driver, 'v', { volumeCapabilities: [blockOf()] });
      const device = await open(request['targetPath'], 'r+');
      try {
        await device.write('first');
        const snapshot = await snapshotOf(driver, 's', request['volumeId']);
        await device.write('later', 0);
        assert.equal((await readFile(imageOf(driver, snapshot))).subarray(0, 5).toString(), 'first');
        assert.equal((await stat(imageOf(driver, snapshot))).size, 16 * MIB);
        // Holes stay holes.
        assert.ok((await stat(imageOf(driver, snapshot))).blocks * 512 < MIB);
      } finally {
        await device.close();
      }
      await withdrawn(driver, request);
    });
  });
}

describe('snapshots', { skip }, () => {
  test('are listed by id, by source and in pages', async (t) => {
    const driver = await startDriver(t);
    const [a, b] = [await driver.createVolume('a'), await driver.createVolume('b')];
    const ids: string[] = [];
    for (const [name, source] of [
      ['one', a],
      ['two', a],
      ['three', b],
    ] as const) {
      ids.push((await snapshotOf(driver, name, source))['snapshotId']);
    }
    assert.deepEqual((await listed(driver)).toSorted(), ids.toSorted());
    assert.deepEqual((await listed(driver, { sourceVolumeId: a })).toSorted(), ids.slice(0, 2).toSorted());
    assert.deepEqual(await listed(driver, { snapshotId: ids[2] }), [ids[2]]);
    assert.deepEqual(await listed(driver, { snapshotId: ids[2], sourceVolumeId: a }), []);
    assert.deepEqual(await listed(driver, { snapshotId: 'none' }), []);
    assert.deepEqual(await listed(driver, { sourceVolumeId: 'none' }), []);
    const first = await driver.call('ListSnapshots', { maxEntries: 2 });
    const page = first['entries'].map((entry: Message) => entry['snapshot'].snapshotId);
    assert.equal(page.length, 2);
    // A token stays good when the snapshot it names is gone.
    await driver.call('DeleteSnapshot', { snapshotId: page[1] });
    const rest = await driver.call('ListSnapshots', { maxEntries: 2, startingToken: first['nextToken'] });
    assert.equal(rest['nextToken'], '');
    const last = rest['entries'].map((entry: Message) => entry['snapshot'].snapshotId);
    assert.deepEqual([...page, ...last].toSorted(), ids.toSorted());
  });

  test('of one name are of one volume', async (t) => {
    const driver = await startDriver(t);
    const [a, b] = [await driver.createVolume('a'), await driver.createVolume('b')];
    await snapshotOf(driver, 's', a);
    assert.equal(await driver.codeOf('CreateSnapshot', { name: 's', sourceVolumeId: b }), 'ALREADY_EXISTS');
    assert.equal((await listed(driver)).length, 1);
  });

  test('of a directory are made while nothing uses it', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', { parameters: { type: 'directory' } });
    await writeFile(`${request['targetPath']}/note`, 'text');
    const wanted = { name: 's', sourceVolumeId: request['volumeId'] };
    assert.equal(await driver.codeOf('CreateSnapshot', wanted), 'FAILED_PRECONDITION');
    await withdrawn(driver, request);
    const { snapshot } = await driver.call('CreateSnapshot', wanted);
    const data = `${driver.dataDir}/snapshots/${snapshot.snapshotId}/data`;
    assert.equal(await readFile(`${data}/note`, 'utf8'), 'text');
    assert.equal((await stat(data)).mode & 0o777, 0o755);
  });

  test('claim the blocks that they share with their volume', async (t) => {
    if (!needs(t, 'xfs')) return;
    const driver = await startOnXfs(t);
    const volumeId = await driver.createVolume('v', {
      capacityRange: { requiredBytes: String(200 * MIB) },
      volumeCapabilities: [blockOf()],
    });
    const available = async (): Promise<number> => Number((await driver.call('GetCapacity'))['availableCapacity']);
    await fillBlocks(`${driver.dataDir}/volumes/${volumeId}/image`, 200);
    const before = await available();
    const snapshot = await snapshotOf(driver, 's', volumeId);
    const during = await available();
    assert.ok(before - during > 190 * MIB && before - during < 220 * MIB, `${before} - ${during}`);
    // What is claimed is there: each shared block can be written.
    await fillBlocks(`${driver.dataDir}/volumes/${volumeId}/image`, 200);
    await driver.call('DeleteSnapshot', snapshot);
    // xfs frees the blocks of a removed file a moment later.
    await until(async () => Math.abs(before - (await available())) < 20 * MIB);
    const after = await available();
    const large = await driver.createVolume('large', {
      capacityRange: { requiredBytes: String(after - 100 * MIB) },
      volumeCapabilities: [blockOf()],
    });
    assert.equal(await driver.codeOf('CreateSnapshot', { name: 't', sourceVolumeId: volumeId }), 'RESOURCE_EXHAUSTED');
    assert.deepEqual(await readdir(`${driver.dataDir}/new`), []);
    await driver.call('DeleteVolume', { volumeId: large });
    await snapshotOf(driver, 't', volumeId);
  });

  test('leave nothing behind when the driver is killed while it copies, and can be made then', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', { capacityRange: { requiredBytes: String(400 * MIB) } });
    thawInTheEnd(t, request['targetPath']);
    await writeFile(`${request['targetPath']}/big`, '');
    await fillBlocks(`${request['targetPath']}/big`, 300);
    const wanted = { name: 's', sourceVolumeId: request['volumeId'] };
    const answer = driver.codeOf('CreateSnapshot', wanted);
    const copies = async (): Promise<string[]> => {
      const names = await readdir(`${driver.dataDir}/new`);
      return names.filter((name) => existsSync(`${driver.dataDir}/new/${name}/image`));
    };
    await until(async () => (await copies()).length === 1);
    assert.equal(await isFrozen(request['targetPath']), true);
    await driver.end('SIGKILL');
    assert.notEqual(await answer, 'OK');
    // Nobody has started a new driver yet: the volume's users need none.
    await until(async () => !(await isFrozen(request['targetPath'])));
    await writeFile(`${request['targetPath']}/note`, 'alive');
    await driver.start();
    assert.deepEqual(await readdir(`${driver.dataDir}/new`), []);
    assert.deepEqual(await listed(driver), []);
    assert.equal(existsSync(`${driver.dataDir}/volumes/${request['volumeId']}/frozen`), false);
    const snapshot = await snapshotOf(driver, 's', request['volumeId']);
    assert.equal(await readIn(t, driver, snapshot, 'note'), 'alive');
    await withdrawn(driver, request);
  });

  test('hold up no writer for longer than the limit, and what was copied by then is void', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v');
    const path: string = request['targetPath'];
    thawInTheEnd(t, path);
    const target = { volumeId: 'v', path, marker: `${driver.dir}/frozen` };
    let thawed: Promise<unknown> | undefined;
    const endless = (signal: AbortSignal | undefined): Promise<unknown> => {
      assert.ok(signal !== undefined && existsSync(target.marker));
      // A writer waits for the thaw, and goes on although the copy never ends by itself.
      thawed = hostCommand('touch', [`${path}/later`], AbortSignal.timeout(20_000));
      return once(signal, 'abort').then(() => thawed);
    };
    const beganAt = performance.now();
    await assert.rejects(whileFrozen(pino({ level: 'silent' }), [target], endless, 500), (error) => {
      assert.ok(error instanceof RuntimeError && error.code === 'FAILED_PRECONDITION', String(error));
      return /did not stay frozen .* for at most 500 ms: stop the containers/.test(error.message);
    });
    assert.ok(performance.now() - beganAt >= 500);
    assert.equal(await isFrozen(path), false);
    assert.equal(existsSync(target.marker), false);
    assert.ok(existsSync(`${path}/later`));
    await withdrawn(driver, request);
  });

  test('leave a volume frozen that somebody else froze', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v');
    thawInTheEnd(t, request['targetPath']);
    await hostCommand('fsfreeze', ['--freeze', request['targetPath']], AbortSignal.timeout(10_000));
    const wanted = { name: 's', sourceVolumeId: request['volumeId'] };
    assert.equal(await driver.codeOf('CreateSnapshot', wanted), 'UNAVAILABLE');
    assert.equal(await isFrozen(request['targetPath']), true);
    assert.equal(existsSync(`${driver.dataDir}/volumes/${request['volumeId']}/frozen`), false);
    await hostCommand('fsfreeze', ['--unfreeze', request['targetPath']], AbortSignal.timeout(10_000));
    await driver.call('CreateSnapshot', wanted);
    await withdrawn(driver, request);
  });

  test('do not leave a volume frozen: the next driver thaws it', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v');
    thawInTheEnd(t, request['targetPath']);
    await driver.end('SIGKILL');
    // As after the end of a whole control group, the child that holds the freeze included.
    const marker = `${driver.dataDir}/volumes/${request['volumeId']}/frozen`;
    await writeFile(marker, request['stagingTargetPath']);
    await hostCommand('fsfreeze', ['--freeze', request['targetPath']], AbortSignal.timeout(10_000));
    await driver.start();
    assert.equal(await isFrozen(request['targetPath']), false);
    assert.equal(existsSync(marker), false);
    await withdrawn(driver, request);
  });

  test('of a device that is written all the time are refused where a copy takes time', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', {
      capacityRange: { requiredBytes: String(64 * MIB) },
      volumeCapabilities: [blockOf()],
    });
    await fillBlocks(request['targetPath'], 64);
    const device = await open(request['targetPath'], 'r+');
    let isWanted = true;
    const writing = (async () => {
      for (let index = 0; isWanted; index += 1) {
        await device.write(Buffer.alloc(4096, index % 250), 0, 4096, (index % 1000) * 4096);
        await device.sync();
      }
    })();
    try {
      const wanted = { name: 's', sourceVolumeId: request['volumeId'] };
      assert.equal(await driver.codeOf('CreateSnapshot', wanted), 'UNAVAILABLE');
      assert.deepEqual(await readdir(`${driver.dataDir}/new`), []);
    } finally {
      isWanted = false;
      await writing;
      await device.close();
    }
    await snapshotOf(driver, 's', request['volumeId']);
    await withdrawn(driver, request);
  });
});
