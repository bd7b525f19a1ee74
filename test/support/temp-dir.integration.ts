import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { describe } from 'node:test';
import { cleanup } from './cleanup.ts';
import { needs } from './needs.ts';
import { removeTree, tempDir } from './temp-dir.ts';

describe('removeTree', () => {
  test('refuses a directory with a live mount and removes nothing', async (t) => {
    if (!needs(t, 'root', 'mount', 'tmpfs')) return;
    const dir = await tempDir(t);
    const mounted = join(dir, 'a', 'mounted');
    const precious = join(dir, 'a', 'precious');
    await mkdir(mounted, { recursive: true });
    await writeFile(precious, 'kept');
    cleanup(t, () => spawnSync('umount', [mounted]));
    assert.equal(spawnSync('mount', ['-t', 'tmpfs', 'tmpfs', mounted]).status, 0);
    await writeFile(join(mounted, 'data'), 'kept too');
    await assert.rejects(removeTree(dir), new RegExp(`mounts are left in it: ${mounted}`));
    assert.ok(existsSync(precious) && existsSync(join(mounted, 'data')));
  });
});
