import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { describe } from 'node:test';
import { cleanup, type TestScope } from './cleanup.ts';
import { tempDir } from './temp-dir.ts';

/** A scope ended by hand. */
function scope(): TestScope & { end(): Promise<void> } {
  const hooks: (() => void | Promise<void>)[] = [];
  return {
    after: (hook) => hooks.push(hook),
    end: async () => {
      for (const hook of hooks) await hook();
    },
  };
}

describe('cleanup', () => {
  test('runs steps last made first', async () => {
    const order: number[] = [];
    const t = scope();
    for (const n of [1, 2, 3]) cleanup(t, () => order.push(n));
    await t.end();
    assert.deepEqual(order, [3, 2, 1]);
  });

  test('runs every step when some fail and reports every failure', async () => {
    const order: number[] = [];
    const t = scope();
    cleanup(t, () => order.push(1));
    cleanup(t, () => Promise.reject(new Error('first')));
    cleanup(t, () => order.push(2));
    cleanup(t, () => Promise.reject(new Error('second')));
    await assert.rejects(t.end(), /first.*|second.*first/);
    assert.deepEqual(order, [2, 1]);
  });

  test('a step that registers another has it run too', async () => {
    const order: string[] = [];
    const t = scope();
    cleanup(t, () => cleanup(t, () => order.push('inner')));
    await t.end();
    assert.deepEqual(order, ['inner']);
  });
});

describe('tempDir', () => {
  test('gives a short empty directory that is gone afterwards', async () => {
    const t = scope();
    const dir = await tempDir(t);
    assert.match(dir, /^\/tmp\/berth-test-.{6}$/);
    await writeFile(join(dir, 'file'), 'text');
    await t.end();
    assert.equal(existsSync(dir), false);
  });
});
