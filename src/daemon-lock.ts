/**
 * One daemon a directory: two that share a root or run directory would tear down each other's containers. The lock is
 * a file with the owner's process identity; it needs no release, since a dead owner is no owner.
 */
import { linkSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { RuntimeError, systemCode } from './errors.ts';
import { identify, isAlive, readBootId } from './process-identity.ts';

/**
 * Takes the lock of a directory.
 * @throws {RuntimeError} FAILED_PRECONDITION naming the pid when a live berthd holds it
 */
export function lockDirectory(dir: string): void {
  const path = `${dir}/berthd.lock`;
  const own = `${path}.${process.pid}`;
  const identity = identify(process.pid);
  writeFileSync(own, JSON.stringify({ ...identity, bootId: readBootId() }), { mode: 0o600 });
  try {
    for (let attempt = 0; attempt < 3; attempt += 1) {
      if (linked(own, path)) return;
      refuseLiveOwner(path, dir);
      removeIfThere(path);
    }
    throw new RuntimeError('UNAVAILABLE', `lock ${path} changes hands all the time`);
  } finally {
    unlinkSync(own);
  }
}

/** link(2) fails when the name exists: the kernel decides between two that start at once. */
function linked(own: string, path: string): boolean {
  try {
    linkSync(own, path);
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw RuntimeError.from(error, `lock ${path}`);
  }
}

function refuseLiveOwner(path: string, dir: string): void {
  const text = readIfThere(path);
  const match = /"pid":(\d+),"startTicks":(\d+),"bootId":"([0-9a-f-]+)"/.exec(text);
  if (match === null || match[3] !== readBootId()) return;
  const owner = { pid: Number(match[1]), startTicks: Number(match[2]) };
  if (isAlive(owner)) {
    throw new RuntimeError('FAILED_PRECONDITION', `${dir} is in use by berthd with pid ${owner.pid}: stop it first`);
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return '';
    throw RuntimeError.from(error, `read ${path}`);
  }
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove ${path}`);
  }
}
