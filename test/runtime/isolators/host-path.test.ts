import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type Code, RuntimeError } from '../../../src/errors.ts';
import type { ContainerRecord } from '../../../src/runtime/container.ts';
import { HostPathIsolator } from '../../../src/runtime/isolators/host-path.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { ID, recordOf } from './isolator-fixture.ts';

const { signal } = new AbortController();

function bind(source: string): ContainerRecord {
  return recordOf({ mounts: [{ kind: 'bind', source, target: '/data', readOnly: false }] });
}

function hasCode(code: Code): (error: unknown) => boolean {
  return (error) => error instanceof RuntimeError && error.code === code;
}

describe('HostPathIsolator', () => {
  test('follows links to where they lead, and judges that', async (t) => {
    const dir = await tempDir(t);
    mkdirSync(join(dir, 'own/state'), { recursive: true });
    mkdirSync(join(dir, 'other'));
    symlinkSync(join(dir, 'other'), join(dir, 'good'));
    symlinkSync('own/state', join(dir, 'bad'));
    symlinkSync('/proc', join(dir, 'kernel'));
    symlinkSync('..', join(dir, 'other/up'));
    symlinkSync('loop', join(dir, 'loop'));
    const isolator = new HostPathIsolator({ protectedDirs: [join(dir, 'own')], runDir: '/nonexistent' });
    isolator.validate(bind(join(dir, 'good')));
    const refused = ['bad', 'own', 'own/state', 'other/up/own', 'good/up', 'kernel', 'kernel/1/root', '.'];
    for (const name of refused) {
      assert.throws(() => isolator.validate(bind(join(dir, name))), hasCode('INVALID_ARGUMENT'), name);
    }
    assert.throws(() => isolator.validate(bind(join(dir, 'loop'))), hasCode('FAILED_PRECONDITION'));
  });

  test('refuses the whole host and the file systems of the kernel', () => {
    const isolator = new HostPathIsolator({ protectedDirs: [], runDir: '/nonexistent' });
    for (const path of ['/', '/proc', '/proc/1/root', '/proc/self/cwd', '/sys/fs/cgroup', '/dev', '/dev/null']) {
      assert.throws(() => isolator.validate(bind(path)), hasCode('INVALID_ARGUMENT'), path);
    }
  });

  test('refuses a source that is missing and makes none', async (t) => {
    const dir = await tempDir(t);
    const isolator = new HostPathIsolator({ protectedDirs: [], runDir: join(dir, 'run') });
    writeFileSync(join(dir, 'file'), '');
    for (const path of ['absent', 'file/below']) {
      assert.throws(() => isolator.validate(bind(join(dir, path))), hasCode('NOT_FOUND'), path);
      await assert.rejects(isolator.prepare(bind(join(dir, path)), signal), hasCode('NOT_FOUND'), path);
      await isolator.cleanup(ID, signal);
    }
    assert.equal(existsSync(join(dir, 'absent')), false);
    assert.deepEqual(readdirSync(join(dir, 'run/host-paths')), []);
    isolator.validate(bind(join(dir, 'file')));
  });

  test('keeps no descriptor of what it refused or only looked at', async (t) => {
    const dir = await tempDir(t);
    symlinkSync('/proc', join(dir, 'kernel'));
    const isolator = new HostPathIsolator({ protectedDirs: [], runDir: '/nonexistent' });
    const before = readdirSync('/proc/self/fd').length;
    isolator.validate(bind(dir));
    for (const name of ['kernel', 'absent', 'kernel/absent'])
      assert.throws(() => isolator.validate(bind(join(dir, name))));
    assert.equal(readdirSync('/proc/self/fd').length, before);
  });
});
