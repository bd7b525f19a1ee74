/** A directory that is made a shared mount of its own, on a real kernel. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { test } from 'node:test';
import { propagationOf, SharedDirectory } from '../../src/csi/shared-mount.ts';
import { RuntimeError } from '../../src/errors.ts';
import { mountsBelow, readMounts } from '../../src/mountinfo.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { needs } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';

const soon = (): AbortSignal => AbortSignal.timeout(10_000);

/** A directory on a private mount, whatever the machine's root is. */
async function privatePlace(t: TestScope): Promise<string> {
  const dir = await tempDir(t);
  cleanup(t, () => {
    for (const { mountPoint } of mountsBelow(dir)) execFileSync('umount', [mountPoint]);
  });
  execFileSync('mount', ['--make-private', '-t', 'tmpfs', 'tmpfs', dir]);
  return dir;
}

test('a directory on a private mount becomes a shared mount, once, and is as it was afterwards', async (t) => {
  if (!needs(t, 'root')) return;
  const dir = `${await privatePlace(t)}/mounts`;
  const shared = new SharedDirectory(dir);
  await Promise.all([shared.share(soon()), shared.share(soon())]);
  await shared.share(soon());
  assert.deepEqual(propagationOf(readMounts(), dir), { mountPoint: dir, shared: true });
  assert.equal(mountsBelow(dir).length, 1);
  execFileSync('mount', ['--make-private', dir]);
  await shared.share(soon());
  assert.equal(propagationOf(readMounts(), dir)?.shared, true);
  mkdirSync(`${dir}/volume`);
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', `${dir}/volume`]);
  assert.equal(await shared.unshare(soon()), false);
  execFileSync('umount', [`${dir}/volume`]);
  assert.equal(await shared.unshare(soon()), true);
  assert.equal(await shared.unshare(soon()), true);
  assert.deepEqual(mountsBelow(dir), []);
});

test('nothing is bound over what is mounted already', async (t) => {
  if (!needs(t, 'root')) return;
  const place = await privatePlace(t);
  mkdirSync(`${place}/mounts/volume`, { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', `${place}/mounts/volume`]);
  await assert.rejects(
    new SharedDirectory(`${place}/mounts`).share(soon()),
    (error) =>
      error instanceof RuntimeError && error.code === 'FAILED_PRECONDITION' && /make-shared/.test(error.message),
  );
  assert.equal(mountsBelow(`${place}/mounts`).length, 1);
});

test('a file system that somebody mounted there stays', async (t) => {
  if (!needs(t, 'root')) return;
  const dir = `${await privatePlace(t)}/mounts`;
  mkdirSync(dir);
  execFileSync('mount', ['--make-shared', '-t', 'tmpfs', 'tmpfs', dir]);
  const shared = new SharedDirectory(dir);
  await shared.share(soon());
  assert.equal(await shared.unshare(soon()), true);
  assert.equal(mountsBelow(dir).length, 1);
});
