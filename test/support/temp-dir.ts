/**
 * Temporary directories of tests: short paths (unix sockets inside must stay under 108 bytes), gone afterwards. A
 * directory with live mounts is never removed recursively, since that would delete what is mounted: the test fails.
 */
import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { mountsBelow } from '../../src/mountinfo.ts';
import { cleanup, type TestScope } from './cleanup.ts';

/**
 * A new directory such as "/tmp/berth-test-Ab3dE9", removed when the test ends. Undo mounts inside it by steps given to
 * {@link cleanup}: they run before the removal.
 */
export async function tempDir(t: TestScope): Promise<string> {
  const path = await mkdtemp('/tmp/berth-test-');
  cleanup(t, () => removeTree(path));
  return path;
}

/**
 * Removes a directory with all it holds. Succeeds when it is gone already.
 * @throws when something is mounted at it or below it; nothing is removed then
 */
export async function removeTree(path: string): Promise<void> {
  const mounts = mountsBelow(path).map((entry) => `${entry.mountPoint} (${entry.fsType})`);
  if (mounts.length > 0) {
    throw new Error(`${path} is kept, mounts are left in it: ${mounts.join(', ')}; unmount them by cleanup(t, ...)`);
  }
  // Not the one of fs/promises: that follows links in directories that are immutable (src/remove-tree.ts).
  rmSync(path, { recursive: true, force: true, maxRetries: 2 });
}
