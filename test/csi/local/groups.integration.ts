/** Snapshots of several volumes as of one moment by the embedded driver: all or none, and they go together. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { open, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { describe, type TestContext, test } from 'node:test';
import { missing, needs } from '../../support/needs.ts';
import { fillBlocks, isFrozen, listed, published, startOnXfs, thawInTheEnd, until, withdrawn } from './copies.ts';
import { blockOf, type Driver, type Message, MIB, startDriver } from './driver.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4', 'fsfreeze');

/** A group of volumes with a number in each that a writer raises in all of them, in order, all the time. */
async function counting(t: TestContext, driver: Driver, names: readonly string[]): Promise<Message[]> {
  const requests: Message[] = [];
  for (const name of names) {
    const request = await published(driver, name);
    thawInTheEnd(t, request['targetPath']);
    requests.push(request);
  }
  return requests;
}

async function groupOf(driver: Driver, name: string, requests: readonly Message[]): Promise<Message> {
  const sourceVolumeIds = requests.map((request) => request['volumeId']);
  return (await driver.call('CreateVolumeGroupSnapshot', { name, sourceVolumeIds }))['groupSnapshot'];
}

function idsOf(group: Message): { groupSnapshotId: string; snapshotIds: string[] } {
  const snapshotIds = group['snapshots'].map((snapshot: Message) => snapshot['snapshotId']);
  return { groupSnapshotId: group['groupSnapshotId'], snapshotIds };
}

/** What the numbers are in volumes made of the group's members. */
async function numbersIn(driver: Driver, group: Message): Promise<number[]> {
  const numbers: number[] = [];
  for (const snapshotId of idsOf(group).snapshotIds) {
    const name = `of-${snapshotId.slice(0, 8)}`;
    const volumeContentSource = { snapshot: { snapshotId } };
    const request = await published(driver, name, { capacityRange: null, volumeContentSource });
    numbers.push(Number(await readFile(`${request['targetPath']}/number`, 'utf8')));
    await withdrawn(driver, request);
  }
  return numbers;
}

for (const disk of ['plain', 'reflink'] as const) {
  describe(`a group of snapshots, ${disk} copies`, { skip }, () => {
    test('is of one moment while its volumes are written', async (t) => {
      if (disk === 'reflink' && !needs(t, 'xfs')) return;
      const driver = disk === 'reflink' ? await startOnXfs(t) : await startDriver(t);
      const requests = await counting(t, driver, ['a', 'b', 'c']);
      const raise = async (number: number): Promise<void> => {
        for (const request of requests) {
          // Written as a whole: the name changes hands when the number is in the file.
          const file = await open(`${request['targetPath']}/new`, 'w');
          await file.writeFile(String(number));
          await file.sync();
          await file.close();
          await rename(`${request['targetPath']}/new`, `${request['targetPath']}/number`);
        }
      };
      await raise(1);
      let isWanted = true;
      const writing = (async () => {
        for (let number = 2; isWanted; number += 1) await raise(number);
      })();
      const groups: Message[] = [];
      try {
        for (const name of ['g', 'h', 'i']) groups.push(await groupOf(driver, name, requests));
      } finally {
        isWanted = false;
        await writing;
      }
      for (const request of requests) assert.equal(await isFrozen(request['targetPath']), false);
      for (const group of groups) {
        const [a = 0, b = 0, c = 0] = await numbersIn(driver, group);
        // The writer goes from a to c: none is ahead of the one before it, and none two behind.
        assert.ok(a >= b && b >= c && a - c <= 1, `${a}, ${b}, ${c}`);
      }
      for (const request of requests) await withdrawn(driver, request);
    });
  });
}

describe('a group of snapshots', { skip }, () => {
  test('goes as a whole, and is the same when it is asked for again', async (t) => {
    const driver = await startDriver(t);
    const sourceVolumeIds = [await driver.createVolume('a'), await driver.createVolume('b')];
    const wanted = { name: 'g', sourceVolumeIds };
    const { groupSnapshot } = await driver.call('CreateVolumeGroupSnapshot', wanted);
    assert.equal(groupSnapshot.readyToUse, true);
    const sources = groupSnapshot.snapshots.map((snapshot: Message) => snapshot['sourceVolumeId']);
    assert.deepEqual(sources, sourceVolumeIds);
    const ids = idsOf(groupSnapshot);
    for (const snapshot of groupSnapshot.snapshots) {
      assert.equal(snapshot.groupSnapshotId, ids.groupSnapshotId);
      assert.deepEqual(snapshot.creationTime, groupSnapshot.creationTime);
      assert.equal(await driver.codeOf('DeleteSnapshot', snapshot), 'INVALID_ARGUMENT');
    }
    await driver.restart();
    const again = { name: 'g', sourceVolumeIds: sourceVolumeIds.toReversed() };
    assert.deepEqual((await driver.call('CreateVolumeGroupSnapshot', again))['groupSnapshot'], groupSnapshot);
    assert.deepEqual((await driver.call('GetVolumeGroupSnapshot', ids))['groupSnapshot'], groupSnapshot);
    assert.deepEqual(await listed(driver), ids.snapshotIds.toSorted());
    const fewer = { name: 'g', sourceVolumeIds: sourceVolumeIds.slice(1) };
    assert.equal(await driver.codeOf('CreateVolumeGroupSnapshot', fewer), 'ALREADY_EXISTS');
    const others = { ...ids, snapshotIds: ids.snapshotIds.slice(1) };
    assert.equal(await driver.codeOf('GetVolumeGroupSnapshot', others), 'INVALID_ARGUMENT');
    assert.equal(await driver.codeOf('DeleteVolumeGroupSnapshot', others), 'INVALID_ARGUMENT');
    await driver.call('DeleteVolumeGroupSnapshot', ids);
    await driver.call('DeleteVolumeGroupSnapshot', ids);
    assert.equal(await driver.codeOf('GetVolumeGroupSnapshot', ids), 'NOT_FOUND');
    assert.deepEqual(await listed(driver), []);
    for (const area of ['groups', 'new', 'trash']) assert.deepEqual(await readdir(`${driver.dataDir}/${area}`), []);
  });

  test('is not made at all when one member cannot be', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'a');
    thawInTheEnd(t, request['targetPath']);
    const directory = await published(driver, 'd', { parameters: { type: 'directory' } });
    for (const [code, other] of [
      ['FAILED_PRECONDITION', directory['volumeId']],
      ['NOT_FOUND', 'none'],
      ['INVALID_ARGUMENT', request['volumeId']],
    ]) {
      const wanted = { name: 'g', sourceVolumeIds: [request['volumeId'], other] };
      assert.equal(await driver.codeOf('CreateVolumeGroupSnapshot', wanted), code);
    }
    assert.equal(await driver.codeOf('CreateVolumeGroupSnapshot', { name: 'g' }), 'INVALID_ARGUMENT');
    assert.deepEqual(await listed(driver), []);
    for (const area of ['groups', 'new']) assert.deepEqual(await readdir(`${driver.dataDir}/${area}`), []);
    await writeFile(`${request['targetPath']}/alive`, '');
    for (const one of [request, directory]) await withdrawn(driver, one);
  });

  test('with a device that is written all the time is refused', async (t) => {
    if (!needs(t, 'xfs')) return;
    // Each copy is made in one step, but not all of them in the same.
    const driver = await startOnXfs(t);
    const request = await published(driver, 'a');
    thawInTheEnd(t, request['targetPath']);
    const block = await published(driver, 'b', { volumeCapabilities: [blockOf()] });
    const device = await open(block['targetPath'], 'r+');
    let isWanted = true;
    const writing = (async () => {
      for (let index = 0; isWanted; index += 1) {
        await device.write(Buffer.alloc(4096, index % 250), 0, 4096, 0);
        await device.sync();
      }
    })();
    try {
      const wanted = { name: 'g', sourceVolumeIds: [request['volumeId'], block['volumeId']] };
      assert.equal(await driver.codeOf('CreateVolumeGroupSnapshot', wanted), 'UNAVAILABLE');
      // Alone it is of one moment.
      await driver.call('CreateSnapshot', { name: 's', sourceVolumeId: block['volumeId'] });
    } finally {
      isWanted = false;
      await writing;
      await device.close();
    }
    await groupOf(driver, 'g', [request, block]);
    for (const one of [request, block]) await withdrawn(driver, one);
  });

  test('leaves nothing when the driver is killed while it copies', async (t) => {
    const driver = await startDriver(t);
    const requests: Message[] = [];
    for (const name of ['a', 'b']) {
      const request = await published(driver, name, { capacityRange: { requiredBytes: String(200 * MIB) } });
      thawInTheEnd(t, request['targetPath']);
      await writeFile(`${request['targetPath']}/big`, '');
      await fillBlocks(`${request['targetPath']}/big`, 150);
      requests.push(request);
    }
    const sourceVolumeIds = requests.map((request) => request['volumeId']);
    const answer = driver.codeOf('CreateVolumeGroupSnapshot', { name: 'g', sourceVolumeIds });
    await until(async () => {
      for (const group of await readdir(`${driver.dataDir}/new`)) {
        for (const member of await readdir(`${driver.dataDir}/new/${group}`)) {
          if (existsSync(`${driver.dataDir}/new/${group}/${member}/image`)) return true;
        }
      }
      return false;
    });
    await driver.restart('SIGKILL');
    assert.notEqual(await answer, 'OK');
    assert.deepEqual(await listed(driver), []);
    for (const area of ['groups', 'new']) assert.deepEqual(await readdir(`${driver.dataDir}/${area}`), []);
    for (const request of requests) {
      assert.equal(await isFrozen(request['targetPath']), false);
      assert.equal(existsSync(`${driver.dataDir}/volumes/${request['volumeId']}/frozen`), false);
    }
    await groupOf(driver, 'g', requests);
    for (const request of requests) await withdrawn(driver, request);
  });
});
