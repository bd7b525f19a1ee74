import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { ExecutableError } from '../../../src/runtime/launcher.ts';
import { missing } from '../../support/needs.ts';
import { assertGone, cgroupsOf, LauncherFixture, processesOf, within } from './launcher-fixture.ts';

for (const runtime of ['crun', 'runc'] as const) {
  describe(`OciLauncher with ${runtime}`, { skip: missing('root', 'conmon', 'busybox', runtime) }, () => {
    test('reports the exit codes of the process', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      assert.equal((await box.shell(t, 'exit 0')).code, 0);
      assert.equal((await box.shell(t, 'exit 3')).code, 3);
      assert.equal((await box.shell(t, 'kill -9 $$; sleep 1')).code, 0);
    });

    test('says 127 for a missing command and 126 for one that cannot be executed', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      writeFileSync(join(box.rootfs, 'bin/plain'), 'text');
      writeFileSync(join(box.rootfs, 'bin/odd'), '\0\u0001odd');
      writeFileSync(join(box.rootfs, 'bin/script'), '#!/bin/nowhere\n');
      chmodSync(join(box.rootfs, 'bin/odd'), 0o755);
      chmodSync(join(box.rootfs, 'bin/script'), 0o755);
      const expected = [
        ['nonesuch', 127],
        ['/bin/nonesuch', 127],
        ['/bin/script', 127],
        ['/bin/plain', 126],
        ['plain', 126],
        ['/bin/odd', 126],
        ['/etc', 126],
      ] as const;
      for (const [command, code] of expected) {
        const id = box.id(t);
        const creating = box.launcher.create(id, await box.contribution(id, [command]), within());
        await assert.rejects(creating, (error) => error instanceof ExecutableError && error.exitCode === code, command);
        await box.launcher.destroy(id, within());
        assertGone(box, id);
      }
    });

    test('leaves nothing behind', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const { id } = await box.shell(t, 'true');
      assert.notDeepEqual(cgroupsOf(id), []);
      await box.launcher.destroy(id, within());
      assertGone(box, id);
      assert.deepEqual(processesOf(id), []);
    });
  });
}
