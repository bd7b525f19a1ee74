import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { BLOCK_BYTES, differingRuns, type Run } from '../../../src/csi/local/block-runs.ts';
import type { TestScope } from '../../support/cleanup.ts';
import { tempDir } from '../../support/temp-dir.ts';

const MIB = 1024 * 1024;

/** A file of a size with single bytes set. */
async function image(t: TestScope, sizeBytes: number, bytesAt: readonly number[]): Promise<string> {
  const path = `${await tempDir(t)}/image`;
  await using file = await open(path, 'w');
  await file.truncate(sizeBytes);
  for (const offset of bytesAt) await file.write(Buffer.of(7), 0, 1, offset);
  return path;
}

async function runs(path: string, base: string | undefined, from = 0): Promise<Run[]> {
  return Array.fromAsync(differingRuns(path, base, from, new AbortController().signal));
}

describe('differingRuns', () => {
  test('tells the blocks that are not zero, neighbours as one, also across what is read at once', async (t) => {
    const path = await image(t, 3 * MIB + 100, [0, BLOCK_BYTES, MIB - 1, MIB, 3 * MIB + 99]);
    assert.deepEqual(await runs(path, undefined), [
      { offset: 0, bytes: 2 * BLOCK_BYTES },
      { offset: MIB - BLOCK_BYTES, bytes: 2 * BLOCK_BYTES },
      { offset: 3 * MIB, bytes: 100 },
    ]);
  });

  test('tells nothing of an empty image and of equal ones', async (t) => {
    const path = await image(t, MIB, [5000]);
    assert.deepEqual(await runs(await image(t, MIB, []), undefined), []);
    assert.deepEqual(await runs(path, await image(t, MIB, [5000])), []);
  });

  test('begins with the block of the offset', async (t) => {
    const path = await image(t, MIB, [0, 5 * BLOCK_BYTES, 9 * BLOCK_BYTES]);
    const [first] = await runs(path, undefined, 5 * BLOCK_BYTES + 1);
    assert.deepEqual(first, { offset: 5 * BLOCK_BYTES, bytes: BLOCK_BYTES });
    assert.deepEqual(await runs(path, undefined, MIB), []);
  });

  test('tells what differs from a base, which ends with zeros', async (t) => {
    const path = await image(t, 2 * MIB, [0, 2 * BLOCK_BYTES, MIB + BLOCK_BYTES]);
    const base = await image(t, MIB, [0, 4 * BLOCK_BYTES]);
    assert.deepEqual(await runs(path, base), [
      { offset: 2 * BLOCK_BYTES, bytes: BLOCK_BYTES },
      { offset: 4 * BLOCK_BYTES, bytes: BLOCK_BYTES },
      { offset: MIB + BLOCK_BYTES, bytes: BLOCK_BYTES },
    ]);
  });
});
