import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../src/errors.ts';
import { type CgroupHierarchy, readCgroupLayout } from '../../src/runtime/cgroup-layout.ts';
import { CgroupTree } from '../../src/runtime/cgroup-tree.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';

const PARENT = 'berth-lch-tree';
const ID = 'a'.repeat(32);
const tree = new CgroupTree({ parent: PARENT });

describe('CgroupTree', { skip: missing('root') }, () => {
  test('kills what is in any hierarchy and in nested cgroups, frozen or not', async (t) => {
    for (const hierarchy of hierarchies()) {
      const path = cgroup(t, hierarchy, `${ID}/nested/deeper`);
      const process = sleeper(t);
      writeFileSync(join(path, 'cgroup.procs'), String(process.pid));
      if (hierarchy.controllers.includes('freezer')) writeFileSync(join(path, '../../freezer.state'), 'FROZEN');
      assert.deepEqual(tree.pids(ID), [process.pid], hierarchy.mountPoint);
      const ended = once(process, 'exit');
      await tree.kill(ID, AbortSignal.timeout(10_000));
      assert.equal((await ended)[1], 'SIGKILL');
      await tree.remove(ID, AbortSignal.timeout(10_000));
      assert.deepEqual(tree.ids(), new Set());
    }
  });

  test('gives up when its signal aborts, and says what is left', async (t) => {
    const [hierarchy] = hierarchies();
    assert.ok(hierarchy !== undefined);
    const process = sleeper(t);
    writeFileSync(join(cgroup(t, hierarchy, ID), 'cgroup.procs'), String(process.pid));
    await assert.rejects(tree.kill(ID, AbortSignal.abort(new RuntimeError('CANCELLED', 'enough'))), /enough/);
    assert.equal(process.signalCode, null);
    await assert.rejects(tree.remove(ID, AbortSignal.timeout(100)));
    assert.deepEqual(tree.ids(), new Set([ID]));
  });

  test('has nothing to do for ids it does not know', async () => {
    await tree.kill(ID, AbortSignal.timeout(1000));
    await tree.remove(ID, AbortSignal.timeout(1000));
    assert.deepEqual(tree.pids(ID), []);
  });
});

function hierarchies(): CgroupHierarchy[] {
  // A process can be moved into a cpuset only once that has CPUs.
  return readCgroupLayout().hierarchies.filter(
    ({ kind, controllers }) => kind !== 'plain' && !controllers.includes('cpuset'),
  );
}

function cgroup(t: TestScope, { mountPoint }: CgroupHierarchy, name: string): string {
  const path = join(mountPoint, PARENT, name);
  cleanup(t, async () => {
    await tree.kill(ID, AbortSignal.timeout(10_000));
    await tree.remove(ID, AbortSignal.timeout(10_000));
    rmdirSync(join(mountPoint, PARENT));
  });
  mkdirSync(path, { recursive: true });
  return path;
}

function sleeper(t: TestScope): ChildProcess {
  const process = spawn('/bin/sleep', ['1000'], { stdio: 'ignore' });
  cleanup(t, () => process.kill('SIGKILL'));
  return process;
}
