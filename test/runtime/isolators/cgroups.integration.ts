import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../../src/errors.ts';
import { readCgroupLayout } from '../../../src/runtime/cgroup-layout.ts';
import { CgroupTree } from '../../../src/runtime/cgroup-tree.ts';
import { CgroupsIsolator } from '../../../src/runtime/isolators/cgroups.ts';
import { missing } from '../../support/needs.ts';
import {
  CGROUP_PREFIX,
  cgroupsOf,
  collected,
  LauncherFixture,
  removeCgroupParent,
  silent,
  within,
} from '../launcher/launcher-fixture.ts';
import { recordOf } from './isolator-fixture.ts';

const PARENT = `${CGROUP_PREFIX}recover`;

for (const runtime of ['crun', 'runc'] as const) {
  describe(`CgroupsIsolator with ${runtime}`, { skip: missing('root', 'conmon', 'busybox', runtime) }, () => {
    test('the limits of the request hold, usage is told, and the directories go', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const isolator = new CgroupsIsolator({ cgroupParent: box.cgroupParent, log: silent });
      const id = box.id(t);
      const resources = { memoryBytes: 32 * 1024 * 1024, cpuMillis: 250, pidsLimit: 5 };
      const script = 'i=0; while [ $i -lt 10 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait';
      await box.start(id, ['/bin/sh', '-c', script], await isolator.prepare(recordOf({ resources }, id)));
      const logs = await box.launcher.openLogs(id, { follow: true }, within());
      // The shell gives up at the sixth process and says so.
      const { stderr } = await collected(logs);
      assert.match(stderr.toString(), /can't fork/);
      const usage = await isolator.usage(id);
      assert.equal(usage.memoryLimitBytes, resources.memoryBytes);
      assert.ok((usage.cpuUsageNanos ?? 0n) > 0n);
      await box.launcher.terminate(id, within());
      await isolator.cleanup(id, within());
      assert.deepEqual(cgroupsOf(id), []);
      assert.deepEqual(await isolator.usage(id), {});
      await isolator.cleanup(id, within());
    });
  });
}

describe('CgroupsIsolator.recover', { skip: missing('root') }, () => {
  test('removes the directories of ended runs and leaves running ones and strangers alone', async (t) => {
    const [hierarchy] = readCgroupLayout().hierarchies;
    assert.ok(hierarchy !== undefined);
    const [ended, running] = ['e'.repeat(32), 'd'.repeat(32)];
    const tree = new CgroupTree({ parent: PARENT });
    t.after(async () => {
      await tree.remove(running, within());
      removeCgroupParent(PARENT);
    });
    for (const name of [ended, running]) mkdirSync(join(hierarchy.mountPoint, PARENT, name), { recursive: true });
    const isolator = new CgroupsIsolator({ cgroupParent: PARENT, log: silent });
    await isolator.recover(new Set([running]), new Set(), within());
    assert.deepEqual(cgroupsOf(ended), []);
    assert.equal(cgroupsOf(running).length, 1);
    assert.deepEqual(isolator.pending(), new Set());
  });

  test('refuses parents and ids that lead elsewhere', async () => {
    const refused = (error: unknown): boolean => error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT';
    for (const parent of ['', '/', '..', '../..', 'a/../..', '/berth', 'a//b', `a${'\0'}b`, '-v', 'a\nb']) {
      assert.throws(() => new CgroupTree({ parent }), refused, JSON.stringify(parent));
    }
    const tree = new CgroupTree({ parent: PARENT });
    for (const id of ['', '.', '..', '../../x', 'a/b', 'x'.repeat(32), 'f'.repeat(31)]) {
      assert.throws(() => tree.pids(id), refused, id);
      await assert.rejects(tree.remove(id, within()), refused, id);
    }
  });
});
