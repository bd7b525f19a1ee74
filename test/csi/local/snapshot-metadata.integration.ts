/** What the embedded driver tells of the blocks of its snapshots, used as a backup program uses it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { open, readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import type { ServiceError } from '@grpc/grpc-js';
import { codeOfStatus } from '../../../src/status.ts';
import { missing } from '../../support/needs.ts';
import { imageOf, snapshotOf } from './copies.ts';
import { blockOf, type Driver, type Message, MIB, mountOf, startDriver } from './driver.ts';

const skip = missing('root', 'mount', 'losetup', 'loop', 'ext4', 'fsfreeze');

async function write(path: string, offsets: readonly number[], value: number): Promise<void> {
  const file = await open(path, 'r+');
  for (const offset of offsets) await file.write(Buffer.alloc(100, value), 0, 100, offset);
  await file.sync();
  await file.close();
}

function runsOf(messages: readonly Message[]): [number, number][] {
  return messages.flatMap((message) =>
    message['blockMetadata'].map((block: Message) => [Number(block['byteOffset']), Number(block['sizeBytes'])]),
  );
}

/** What a backup is after the blocks were copied into it. */
async function withBlocks(backup: Buffer, image: string, messages: readonly Message[]): Promise<Buffer> {
  const source = await readFile(image);
  for (const [offset, bytes] of runsOf(messages)) source.copy(backup, offset, offset, offset + bytes);
  return backup;
}

async function codeOf(driver: Driver, rpc: string, request: Message): Promise<string> {
  return driver.stream(rpc, request).then(
    () => 'OK',
    (error: ServiceError) => codeOfStatus(error.code),
  );
}

describe('snapshot metadata', { skip }, () => {
  test('makes a full backup and an incremental one', async (t) => {
    const driver = await startDriver(t);
    const volumeId = await driver.createVolume('v', { volumeCapabilities: [blockOf()] });
    const image = `${driver.dataDir}/volumes/${volumeId}/image`;
    await write(image, [0, 8192, 5 * MIB, 16 * MIB - 100], 1);
    const first = await snapshotOf(driver, 's', volumeId);
    await write(image, [8192, 7 * MIB], 2);
    // A block that holds zeros again has changed, too.
    await write(image, [5 * MIB], 0);
    const second = await snapshotOf(driver, 't', volumeId);
    const full = await driver.stream('GetMetadataAllocated', first);
    assert.deepEqual(
      [full[0]?.['blockMetadataType'], full[0]?.['volumeCapacityBytes']],
      ['VARIABLE_LENGTH', String(16 * MIB)],
    );
    assert.equal(runsOf(full).length, 4);
    const backup = await withBlocks(Buffer.alloc(16 * MIB), imageOf(driver, first), full);
    assert.ok(backup.equals(await readFile(imageOf(driver, first))));
    const between = { baseSnapshotId: first['snapshotId'], targetSnapshotId: second['snapshotId'] };
    const delta = await driver.stream('GetMetadataDelta', between);
    assert.deepEqual(runsOf(delta), [
      [8192, 4096],
      [5 * MIB, 4096],
      [7 * MIB, 4096],
    ]);
    await withBlocks(backup, imageOf(driver, second), delta);
    assert.ok(backup.equals(await readFile(imageOf(driver, second))));
    // In small messages, and from where an earlier stream broke off.
    const small = await driver.stream('GetMetadataDelta', { ...between, maxResults: 2 });
    assert.deepEqual(
      small.map((message) => message['blockMetadata'].length),
      [2, 1],
    );
    const rest = await driver.stream('GetMetadataDelta', { ...between, startingOffset: String(8192 + 4096) });
    assert.deepEqual(runsOf(rest), runsOf(delta).slice(1));
    const none = await driver.stream('GetMetadataDelta', { ...between, targetSnapshotId: first['snapshotId'] });
    assert.deepEqual([none.length, runsOf(none)], [1, []]);
  });

  test('of a reader that stops reading does not hold up the end of the driver', async (t) => {
    const driver = await startDriver(t);
    const volumeId = await driver.createVolume('v', { volumeCapabilities: [blockOf()] });
    const every = Array.from({ length: 2048 }, (_, index) => index * 8192);
    await write(`${driver.dataDir}/volumes/${volumeId}/image`, every, 1);
    const snapshot = await snapshotOf(driver, 's', volumeId);
    // One message for each run, more than fits between the two.
    const request = { ...snapshot, maxResults: 1 };
    assert.equal((await driver.stream('GetMetadataAllocated', request)).length, 2048);
    const call = driver.beginStream('GetMetadataAllocated', request);
    const failed = once(call, 'error');
    const [message] = await once(call, 'data');
    call.pause();
    assert.equal(message.blockMetadata.length, 1);
    const exit = once(driver.process, 'exit');
    driver.process.kill('SIGTERM');
    assert.deepEqual(await exit, [0, null]);
    call.resume();
    const [error] = await failed;
    // It did not wait for the caller to give up.
    assert.notEqual(codeOfStatus(error.code), 'DEADLINE_EXCEEDED');
  });

  test('is refused for what has none', async (t) => {
    const driver = await startDriver(t);
    const [a, b] = [await driver.createVolume('a'), await driver.createVolume('b')];
    const dir = await driver.createVolume('d', { parameters: { type: 'directory' }, volumeCapabilities: [mountOf()] });
    const { snapshotId } = await snapshotOf(driver, 'of-a', a);
    const ofB = (await snapshotOf(driver, 'of-b', b))['snapshotId'];
    const ofDir = (await snapshotOf(driver, 'of-d', dir))['snapshotId'];
    for (const [request, code] of [
      [{}, 'INVALID_ARGUMENT'],
      [{ snapshotId: 'none' }, 'NOT_FOUND'],
      [{ snapshotId: ofDir }, 'INVALID_ARGUMENT'],
      [{ snapshotId, startingOffset: '-1' }, 'OUT_OF_RANGE'],
      [{ snapshotId, startingOffset: String(17 * MIB) }, 'OUT_OF_RANGE'],
      [{ snapshotId, startingOffset: String(16 * MIB) }, 'OK'],
      [{ snapshotId, maxResults: -1 }, 'INVALID_ARGUMENT'],
    ] as const) {
      assert.equal(await codeOf(driver, 'GetMetadataAllocated', request), code, JSON.stringify(request));
    }
    const between = { baseSnapshotId: snapshotId, targetSnapshotId: ofB };
    assert.equal(await codeOf(driver, 'GetMetadataDelta', between), 'INVALID_ARGUMENT');
    const unknown = { baseSnapshotId: 'none', targetSnapshotId: ofB };
    assert.equal(await codeOf(driver, 'GetMetadataDelta', unknown), 'NOT_FOUND');
  });
});
