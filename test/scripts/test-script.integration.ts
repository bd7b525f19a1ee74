/** scripts/test.sh: a failure and a skipped test never pass for success. Runs in a tree of its own, with links to the real one. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { TestScope } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));

/** A tree with the scripts and one test file. */
async function tree(t: TestScope, testFile: string): Promise<string> {
  const dir = await tempDir(t);
  cpSync(join(REPOSITORY, 'scripts'), join(dir, 'scripts'), { recursive: true });
  for (const name of ['node_modules', 'src', 'package.json']) symlinkSync(join(REPOSITORY, name), join(dir, name));
  mkdirSync(join(dir, 'test'));
  symlinkSync(join(REPOSITORY, 'test/support'), join(dir, 'test/support'));
  writeFileSync(join(dir, 'test/only.test.ts'), `import { test } from 'node:test';\n${testFile}\n`);
  return dir;
}

async function run(dir: string, argv: readonly string[], env: NodeJS.ProcessEnv = {}) {
  // What node:test sets would make the inner tests report to the outer ones.
  const { NODE_TEST_CONTEXT: _, ...own } = process.env;
  const child = spawn(join(dir, 'scripts/test.sh'), argv, {
    env: { ...own, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return { stdout, stderr, code };
}

describe('scripts/test.sh', { concurrency: true, skip: missing('root', 'losetup', 'iptables') }, () => {
  // Whether the machine is as it was is not ours to say here: other tests run beside this one.
  test('runs the stage it is told to, and says that it passed', async (t) => {
    const { stdout } = await run(await tree(t, "test('fine', () => {});"), ['unit']);
    assert.match(stdout, /^ {2}passed {2}unit/m);
  });

  test('fails when a test fails, and names the stage', async (t) => {
    const { stdout, code } = await run(await tree(t, "test('bad', () => { throw new Error('no'); });"), ['unit']);
    assert.equal(code, 1);
    assert.match(stdout, /^ {2}FAILED {2}unit/m);
    assert.match(stdout, /^FAILED:.* unit/m);
  });

  test('lists a skipped test with its reason', async (t) => {
    const { stdout } = await run(await tree(t, "test('later', { skip: 'no such device' }, () => {});"), ['unit']);
    assert.match(stdout, /Skipped, and why\n {2}test\/only\.test\.ts: later: no such device/);
  });

  test('fails when a test is skipped for the want of what REQUIRE names', async (t) => {
    // No machine has both.
    const both = ['cgroup-v1', 'cgroup-v2'];
    const file = `import { needs } from './support/needs.ts';\ntest('both', (t) => { needs(t, '${both.join("', '")}'); });`;
    const { stdout, code } = await run(await tree(t, file), ['unit'], { REQUIRE: both.join(' ') });
    assert.equal(code, 1);
    assert.match(stdout, /^ {2}FAILED {2}unit/m);
  });

  test('refuses a stage that is none', async (t) => {
    const { stderr, code } = await run(await tree(t, ''), ['unit', 'nosuch']);
    assert.notEqual(code, 0);
    assert.match(stderr, /no stage nosuch/);
  });
});
