/** Volumes made of snapshots and of other volumes by the embedded driver. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { readdir, readFile, stat, statfs, writeFile } from 'node:fs/promises';
import { describe, type TestContext, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { identify, signalProcess } from '../../../src/process-identity.ts';
import { cleanup } from '../../support/cleanup.ts';
import { missing, needs } from '../../support/needs.ts';
import { fillBlocks, published, snapshotOf, startOnXfs, thawInTheEnd, until, withdrawn } from './copies.ts';
import { blockOf, type Driver, type Message, MIB, mountOf, startDriver } from './driver.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4', 'fsfreeze');

const ofSnapshot = (snapshotId: string): Message => ({ volumeContentSource: { snapshot: { snapshotId } } });
const ofVolume = (volumeId: string): Message => ({ volumeContentSource: { volume: { volumeId } } });
/** Stops the program that the driver copies with, once setpriv(1) has become it. It looks without a pause: a copy is short. */
async function stoppedCopier(t: TestContext, driver: Driver): Promise<number> {
  const { pid: parent } = driver.process;
  const deadlineMs = performance.now() + 20_000;
  let copier: number | undefined;
  while (copier === undefined) {
    assert.ok(performance.now() < deadlineMs, 'no copier was seen');
    await setImmediate();
    const children = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8').split(' ').filter(Boolean);
    copier = children.map(Number).find((pid) => /^(\S*\/)?cp\0.*--sparse=always/.test(commandOf(pid)));
  }
  process.kill(copier, 'SIGSTOP');
  const identity = identify(copier);
  cleanup(t, () => {
    if (identity !== undefined) signalProcess(identity, 'SIGKILL');
  });
  return copier;
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

/** Nothing is said about the size: the copy has its original's. */
const sizeless = { capacityRange: null };

for (const [fsType, sizeMib] of [
  ['ext4', 16],
  ['xfs', 300],
] as const) {
  for (const disk of ['plain', 'reflink'] as const) {
    describe(`a copy of an ${fsType} volume, ${disk} copies`, { skip }, () => {
      const started = async (t: TestContext): Promise<Driver | undefined> => {
        if ((fsType === 'xfs' || disk === 'reflink') && !needs(t, 'xfs')) return undefined;
        return disk === 'reflink' ? startOnXfs(t, 4096) : startDriver(t);
      };
      const create = {
        capacityRange: { requiredBytes: String(sizeMib * MIB) },
        volumeCapabilities: [mountOf('SINGLE_NODE_WRITER', { fsType })],
      };

      test('has the old data, is mounted beside its original, and grows to its own size', async (t) => {
        const driver = await started(t);
        if (driver === undefined) return;
        const original = await published(driver, 'v', create);
        thawInTheEnd(t, original['targetPath']);
        await writeFile(`${original['targetPath']}/note`, 'first');
        const { snapshotId } = await snapshotOf(driver, 's', original['volumeId']);
        await writeFile(`${original['targetPath']}/note`, 'second');
        const restored = await published(driver, 'restored', { ...sizeless, ...ofSnapshot(snapshotId) });
        const capacityRange = { requiredBytes: String(2 * sizeMib * MIB) };
        const clone = await published(driver, 'clone', { capacityRange, ...ofVolume(original['volumeId']) });
        assert.equal(await readFile(`${restored['targetPath']}/note`, 'utf8'), 'first');
        assert.equal(await readFile(`${clone['targetPath']}/note`, 'utf8'), 'second');
        await writeFile(`${clone['targetPath']}/note`, 'own');
        assert.equal(await readFile(`${original['targetPath']}/note`, 'utf8'), 'second');
        const bytesOf = async (path: string): Promise<number> => {
          const { bsize, blocks } = await statfs(path);
          return bsize * blocks;
        };
        const [small, large] = [await bytesOf(restored['targetPath']), await bytesOf(clone['targetPath'])];
        assert.ok(large > small + 0.8 * sizeMib * MIB, `${small}, ${large}`);
        // The original comes back beside its copies.
        await withdrawn(driver, original);
        await driver.call('NodeStageVolume', original);
        await driver.call('NodePublishVolume', original);
        // Nothing depends on anything.
        await driver.call('DeleteSnapshot', { snapshotId });
        await withdrawn(driver, original);
        await driver.call('DeleteVolume', original);
        assert.equal(await readFile(`${restored['targetPath']}/note`, 'utf8'), 'first');
        await driver.restart();
        for (const request of [restored, clone]) {
          await withdrawn(driver, request);
          await driver.call('NodeStageVolume', request);
          await driver.call('NodePublishVolume', request);
        }
        assert.equal(await readFile(`${clone['targetPath']}/note`, 'utf8'), 'own');
        for (const request of [restored, clone]) {
          await withdrawn(driver, request);
          await driver.call('DeleteVolume', request);
        }
        for (const area of ['volumes', 'snapshots', 'new', 'trash']) {
          assert.deepEqual(await readdir(`${driver.dataDir}/${area}`), []);
        }
      });
    });
  }
}

describe('a copy', { skip }, () => {
  test('tells what it was made of, the same request gives it again, another source does not', async (t) => {
    const driver = await startDriver(t);
    const volumeId = await driver.createVolume('v');
    const { snapshotId } = await snapshotOf(driver, 's', volumeId);
    const request = { name: 'copy', volumeCapabilities: [mountOf()], ...ofSnapshot(snapshotId) };
    const { volume } = await driver.call('CreateVolume', request);
    assert.equal(volume.contentSource.snapshot.snapshotId, snapshotId);
    assert.equal(Number(volume.capacityBytes), 16 * MIB);
    await driver.call('DeleteSnapshot', { snapshotId });
    await driver.restart();
    assert.deepEqual((await driver.call('CreateVolume', request))['volume'], volume);
    for (const other of [ofVolume(volumeId), ofSnapshot(volumeId), { volumeContentSource: null }]) {
      assert.equal(await driver.codeOf('CreateVolume', { ...request, ...other }), 'ALREADY_EXISTS');
    }
    const empty = { name: 'v', volumeCapabilities: [mountOf()], ...ofVolume(volume.volumeId) };
    assert.equal(await driver.codeOf('CreateVolume', empty), 'ALREADY_EXISTS');
    const { entries } = await driver.call('ListVolumes');
    const sources = entries.map((entry: Message) => entry['volume'].contentSource?.snapshot?.snapshotId ?? '');
    assert.deepEqual(sources.toSorted(), ['', snapshotId]);
  });

  test('is what its original is, or is refused', async (t) => {
    const driver = await startDriver(t);
    const volumeId = await driver.createVolume('v');
    const { snapshotId } = await snapshotOf(driver, 's', volumeId);
    for (const [what, request] of [
      ['block', { volumeCapabilities: [blockOf()] }],
      ['xfs by capability', { volumeCapabilities: [mountOf('SINGLE_NODE_WRITER', { fsType: 'xfs' })] }],
      ['xfs by parameter', { parameters: { fsType: 'xfs' } }],
      ['directory', { parameters: { type: 'directory' } }],
    ] as const) {
      for (const source of [ofSnapshot(snapshotId), ofVolume(volumeId)]) {
        const wanted = { name: 'copy', volumeCapabilities: [mountOf()], ...source, ...request };
        assert.equal(await driver.codeOf('CreateVolume', wanted), 'INVALID_ARGUMENT', what);
      }
    }
    assert.equal((await driver.call('ListVolumes'))['entries'].length, 1);
  });

  test('that takes long is asked for anew in vain, holds its original, and is made once', async (t) => {
    const driver = await startDriver(t);
    const source = await driver.createVolume('v', {
      capacityRange: { requiredBytes: String(96 * MIB) },
      volumeCapabilities: [blockOf()],
    });
    await fillBlocks(`${driver.dataDir}/volumes/${source}/image`, 96);
    const wanted = { name: 'copy', ...sizeless, volumeCapabilities: [blockOf()], ...ofVolume(source) };
    const first = driver.codeOf('CreateVolume', wanted);
    // Now it takes as long as the test likes.
    const copier = await stoppedCopier(t, driver);
    for (const [rpc, request] of [
      ['CreateVolume', wanted],
      ['DeleteVolume', { volumeId: source }],
      ['CreateSnapshot', { name: 's', sourceVolumeId: source }],
    ] as const) {
      assert.equal(await driver.codeOf(rpc, request), 'ABORTED', rpc);
    }
    // Others are served meanwhile.
    await driver.createVolume('other');
    // With the driver goes the copier, although it is stopped; the next call begins anew.
    await driver.end('SIGKILL');
    assert.notEqual(await first, 'OK');
    await until(() => !existsSync(`/proc/${copier}`));
    await driver.start();
    assert.deepEqual(await readdir(`${driver.dataDir}/new`), []);
    const again = driver.createVolume('copy', wanted);
    process.kill(await stoppedCopier(t, driver), 'SIGCONT');
    const volumeId = await again;
    assert.equal(await driver.createVolume('copy', wanted), volumeId);
    const [copied, original] = await Promise.all(
      [volumeId, source].map((id) => readFile(`${driver.dataDir}/volumes/${id}/image`)),
    );
    assert.ok(copied !== undefined && original !== undefined && copied.equals(original));
    assert.equal((await driver.call('ListVolumes'))['entries'].length, 3);
  });

  test('of a directory is a directory', async (t) => {
    const driver = await startDriver(t);
    const request = await published(driver, 'v', { parameters: { type: 'directory' } });
    await writeFile(`${request['targetPath']}/note`, 'text', { mode: 0o640 });
    await withdrawn(driver, request);
    const copy = await published(driver, 'copy', { ...sizeless, ...ofVolume(request['volumeId']) });
    assert.equal(await readFile(`${copy['targetPath']}/note`, 'utf8'), 'text');
    assert.equal((await stat(`${copy['targetPath']}/note`)).mode & 0o777, 0o640);
    await withdrawn(driver, copy);
  });

  test('of a block volume is one, with room behind', async (t) => {
    const driver = await startDriver(t);
    const volumeCapabilities = [blockOf()];
    const request = await published(driver, 'v', { volumeCapabilities });
    await writeFile(request['targetPath'], 'text', { flag: 'r+' });
    const capacityRange = { requiredBytes: String(32 * MIB) };
    const copy = await published(driver, 'copy', {
      capacityRange,
      volumeCapabilities,
      ...ofVolume(request['volumeId']),
    });
    const bytes = await readFile(copy['targetPath']);
    assert.equal(bytes.subarray(0, 4).toString(), 'text');
    assert.equal(bytes.length, 32 * MIB);
    for (const one of [copy, request]) await withdrawn(driver, one);
  });
});
