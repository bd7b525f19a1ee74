import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../../src/errors.ts';
import type { Contribution, ProcessContribution } from '../../../src/runtime/isolator.ts';
import { ContainerPaths } from '../../../src/runtime/launcher/container-path.ts';
import { checkProcess } from '../../../src/runtime/launcher/executable.ts';
import { ExecutableError } from '../../../src/runtime/launcher.ts';
import type { TestScope } from '../../support/cleanup.ts';
import { tempDir } from '../../support/temp-dir.ts';

const ELF = '\x7fELF';

/** A tree of files (path -> content, mode) and links. */
async function tree(
  t: TestScope,
  files: Readonly<Record<string, [string, number]>>,
  links: Readonly<Record<string, string>> = {},
): Promise<string> {
  const dir = await tempDir(t);
  for (const [path, [content, mode]] of Object.entries(files)) {
    mkdirSync(join(dir, path, '..'), { recursive: true });
    writeFileSync(join(dir, path), content);
    chmodSync(join(dir, path), mode);
  }
  for (const [path, target] of Object.entries(links)) {
    mkdirSync(join(dir, path, '..'), { recursive: true });
    symlinkSync(target, join(dir, path));
  }
  return dir;
}

function contribution(rootfs: string, args: readonly string[], process: ProcessContribution = {}): Contribution {
  return { rootfs, process: { args, env: ['PATH=/none:/bin:/usr/bin'], cwd: '/', ...process } };
}

function hasExit(exitCode: number): (error: unknown) => boolean {
  return (error) => error instanceof ExecutableError && error.exitCode === exitCode;
}

describe('ContainerPaths.resolve', () => {
  test('follows links inside the root and never out of it', async (t) => {
    const dir = await tree(
      t,
      { 'bin/real': [ELF, 0o755] },
      { a: '/bin', 'bin/up': '../../../../../bin/real', deep: 'a/up' },
    );
    const paths = new ContainerPaths({ rootfs: dir });
    for (const path of ['/bin/real', '/a/real', '/bin/up', '/deep', '/../../bin/../bin/real']) {
      const found = paths.resolve(path);
      assert.deepEqual([found.kind, found.path], ['found', '/bin/real'], path);
    }
    assert.equal(paths.resolve('/etc/hostname').kind, 'missing');
  });

  test('tells loops, and what only the runtime will make', async (t) => {
    const dir = await tree(t, {}, { one: 'two', two: 'one', exe: '/proc/self/exe' });
    const paths = new ContainerPaths({ rootfs: dir });
    assert.equal(paths.resolve('/one/x').kind, 'astray');
    assert.equal(paths.resolve('/absent/../one').kind, 'astray');
    assert.deepEqual(paths.resolve('/exe'), { kind: 'hidden', path: '/proc' });
  });

  test('goes through directories that lead to a mount point and are yet to be made', async (t) => {
    const rootfs = await tree(t, {}, {});
    const volume = await tree(t, { tool: [ELF, 0o755] }, {});
    const mounts = [{ destination: '/opt/some/bin', type: 'bind', source: volume, options: ['rbind'] }];
    const paths = new ContainerPaths({ rootfs, mounts });
    assert.equal(paths.resolve('/opt/some/bin/tool').kind, 'found');
    assert.equal(paths.resolve('/opt/some/lib').kind, 'missing');
  });

  test('goes into what is bind-mounted; a link there means a path of the container', async (t) => {
    const rootfs = await tree(t, { 'bin/real': [ELF, 0o755] });
    const volume = await tree(t, { tool: [ELF, 0o755] }, { link: '/bin/real' });
    const paths = new ContainerPaths({
      rootfs,
      mounts: [
        { destination: '/data', type: 'bind', source: volume, options: ['rbind'] },
        { destination: '/scratch', type: 'tmpfs', source: 'tmpfs', options: [] },
      ],
    });
    assert.deepEqual(paths.resolve('/data/tool').kind, 'found');
    assert.deepEqual(paths.resolve('/data/link').path, '/bin/real');
    assert.equal(paths.resolve('/scratch/x').kind, 'hidden');
  });
});

describe('checkProcess', () => {
  test('takes programs and scripts that can run', async (t) => {
    const files = { 'bin/tool': [ELF, 0o755], 'usr/bin/script': ['#! /bin/tool -x\n', 0o755] } as const;
    const dir = await tree(t, { 'bin/tool': [...files['bin/tool']], 'usr/bin/script': [...files['usr/bin/script']] });
    for (const command of ['tool', '/bin/tool', 'bin/tool', './bin/../bin/tool', 'script']) {
      checkProcess(contribution(dir, [command]));
    }
  });

  test('says 127 for what is not there and 126 for what cannot be executed', async (t) => {
    const dir = await tree(t, {
      'bin/text': ['text', 0o644],
      'bin/junk': ['junk', 0o755],
      'bin/empty': ['', 0o755],
      'bin/script': ['#!/bin/absent\n', 0o755],
    });
    for (const command of ['absent', '/absent', '/bin/text/x', 'script']) {
      assert.throws(() => checkProcess(contribution(dir, [command])), hasExit(127), command);
    }
    for (const command of ['text', '/bin/text', '/bin', '/bin/junk', 'empty']) {
      assert.throws(() => checkProcess(contribution(dir, [command])), hasExit(126), command);
    }
  });

  test('goes on along PATH past what may not be executed', async (t) => {
    const dir = await tree(t, { 'bin/tool': ['text', 0o644], 'usr/bin/tool': [ELF, 0o755] });
    checkProcess(contribution(dir, ['tool']));
  });

  test('looks at the mode as the kernel would for this user', async (t) => {
    const dir = await tree(t, { 'bin/tool': [ELF, 0o700] });
    const user = { uid: 4242, gid: 4242, additionalGids: [] };
    assert.throws(() => checkProcess(contribution(dir, ['/bin/tool'], { user })), hasExit(126));
    chmodSync(join(dir, 'bin/tool'), 0o705);
    checkProcess(contribution(dir, ['/bin/tool'], { user }));
  });

  test('leaves to the runtime what it cannot see', async (t) => {
    const dir = await tree(t, {});
    checkProcess(contribution(dir, ['/proc/self/exe']));
    checkProcess(contribution(dir, ['tool'], { env: [] }));
  });

  test('refuses a working directory in a pseudo file system, however it is reached', async (t) => {
    const dir = await tree(
      t,
      { 'bin/tool': [ELF, 0o755] },
      { fd: '/proc/self/fd/7', 'a/b': '../fd', c: 'a/b', s: 'sys', loop: 'loop' },
    );
    const volume = await tree(t, {}, { escape: '/proc/self/fd/8' });
    for (const cwd of [
      '/proc/self/fd/3',
      '/proc/1/root',
      '/sys',
      '/dev/fd',
      '/fd',
      '/c',
      '/c/../../../../..',
      '/absent/../c',
      '/s',
      '/loop',
      '/vol/escape/x',
    ]) {
      const asked = contribution(dir, ['tool'], { cwd });
      const mounts = [{ destination: '/vol', type: 'bind', source: volume, options: ['rbind'] }];
      const refused = (error: unknown): boolean => error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT';
      assert.throws(() => checkProcess({ ...asked, mounts }), refused, cwd);
    }
    checkProcess(contribution(dir, ['/bin/tool'], { cwd: '/not/yet/there' }));
  });
});
