import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { mountAt, mountsBelow, parseMountInfo } from '../../../src/mountinfo.ts';
import type { ContainerRecord } from '../../../src/runtime/container.ts';
import { HostPathIsolator } from '../../../src/runtime/isolators/host-path.ts';
import { cleanup } from '../../support/cleanup.ts';
import { missing } from '../../support/needs.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { LauncherFixture, within } from '../launcher/launcher-fixture.ts';
import { ID, recordOf } from './isolator-fixture.ts';

for (const runtime of ['crun', 'runc'] as const) {
  describe(`HostPathIsolator with ${runtime}`, { skip: missing('root', 'conmon', 'busybox', 'mount', runtime) }, () => {
    test('a directory and a file appear, writable or not as asked, nosuid and nodev with all that is below', async (t) => {
      const dir = await tempDir(t);
      mkdirSync(join(dir, 'data/below'), { recursive: true });
      writeFileSync(join(dir, 'file'), 'text');
      cleanup(t, () => spawnSync('umount', [join(dir, 'data/below')]));
      assert.equal(spawnSync('mount', ['-t', 'tmpfs', 'berth-test', join(dir, 'data/below')]).status, 0);
      chmodSync(join(dir, 'data'), 0o777);
      const isolator = new HostPathIsolator({ protectedDirs: [], runDir: join(dir, 'run') });
      cleanup(t, () => isolator.cleanup(ID, within()));
      const record = recordOf({
        mounts: [
          { kind: 'bind', source: join(dir, 'data'), target: '/rw', readOnly: false },
          { kind: 'bind', source: join(dir, 'data'), target: '/ro', readOnly: true },
          { kind: 'bind', source: join(dir, 'file'), target: '/etc/file', readOnly: true },
        ],
      });
      isolator.validate(record);
      const box = await LauncherFixture.make(t, runtime);
      const script =
        'cat /etc/file; echo new >/rw/made; echo x 2>&- >/ro/x || echo x 2>&- >/ro/below/x || cat /proc/self/mountinfo';
      const { stdout } = await box.shell(t, script, await isolator.prepare(record, within()));
      const [first, ...rest] = stdout.toString().split('\n');
      assert.ok(first?.startsWith('text'), stdout.toString());
      assert.equal(readFileSync(join(dir, 'data/made'), 'utf8'), 'new\n');
      const mounts = parseMountInfo([first?.slice('text'.length), ...rest].join('\n'));
      for (const place of ['/rw', '/rw/below', '/ro', '/ro/below', '/etc/file']) {
        const mount = mounts.find(({ mountPoint }) => mountPoint === place);
        assert.ok(mount !== undefined, place);
        assert.ok(mount.options.includes('nosuid') && mount.options.includes('nodev'), place);
        assert.deepEqual(mount.propagation, [], place);
        assert.equal(mount.options.includes('ro'), !place.startsWith('/rw'), place);
      }
    });
  });
}

describe('HostPathIsolator', { skip: missing('root', 'mount') }, () => {
  test('mounts the very inode it checked, though the name changes hands', async (t) => {
    const dir = await tempDir(t);
    mkdirSync(join(dir, 'good'));
    mkdirSync(join(dir, 'evil'));
    const { ino } = statSync(join(dir, 'good'));
    const isolator = new HostPathIsolator({ protectedDirs: [], runDir: join(dir, 'run') });
    cleanup(t, () => isolator.cleanup(ID, within()));
    const { mounts } = await isolator.prepare(bind(join(dir, 'good')), within());
    renameSync(join(dir, 'good'), join(dir, 'moved'));
    symlinkSync(join(dir, 'evil'), join(dir, 'good'));
    assert.equal(statSync(mounts?.[0]?.source ?? '').ino, ino);
  });

  test('takes its mounts away, after a restart too, and leaves those of the host alone', async (t) => {
    const dir = await tempDir(t);
    mkdirSync(join(dir, 'data/below'), { recursive: true });
    const below = join(dir, 'data/below');
    cleanup(t, () => spawnSync('umount', [below]));
    assert.equal(spawnSync('mount', ['-t', 'tmpfs', '--make-shared', 'berth-test', below]).status, 0);
    const options = { protectedDirs: [], runDir: join(dir, 'run') };
    const isolator = new HostPathIsolator(options);
    cleanup(t, () => isolator.cleanup(ID, within()));
    await isolator.prepare(bind(join(dir, 'data')), within());
    assert.equal(mountsBelow(join(dir, 'run')).length, 2);
    await new HostPathIsolator(options).recover(new Set([ID]), new Set([ID]), within());
    assert.equal(mountsBelow(join(dir, 'run')).length, 2);
    const restarted = new HostPathIsolator(options);
    await restarted.recover(new Set(), new Set([ID]), within());
    assert.deepEqual(mountsBelow(join(dir, 'run')), []);
    assert.deepEqual(readdirSync(join(dir, 'run/host-paths')), []);
    assert.deepEqual(restarted.pending(), new Set());
    assert.equal(mountAt(below)?.fsType, 'tmpfs');
  });
});

function bind(source: string): ContainerRecord {
  return recordOf({ mounts: [{ kind: 'bind', source, target: '/data', readOnly: false }] });
}
