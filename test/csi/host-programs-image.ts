/**
 * An image without anything in it but links to /usr: with the host's own /usr mounted there, a container has Node, mkfs
 * and mount without a copy of them.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import type { Daemon } from '../support/daemon.ts';
import { tempDir } from '../support/temp-dir.ts';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

/** Imports the image and returns its reference. */
export async function importHostPrograms(t: TestScope, daemon: Daemon): Promise<string> {
  const dir = await tempDir(t);
  const root = join(dir, 'root');
  mkdirSync(root);
  for (const name of ['usr', 'etc', 'tmp', 'var', 'run', 'proc', 'sys', 'dev']) mkdirSync(join(root, name));
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) symlinkSync(`usr/${name}`, join(root, name));
  const sourcePath = join(dir, 'image.tar');
  execFileSync('tar', [
    '--create',
    '--numeric-owner',
    '--owner=0',
    '--group=0',
    `--file=${sourcePath}`,
    '-C',
    root,
    '.',
  ]);
  cleanup(t, () => rmSync(sourcePath, { force: true }));
  const reference = 'host-programs:1';
  await daemon.api.images.call('Import', { sourcePath, reference });
  return reference;
}

/** Mounts of a drop-in file that make the image's programs work, and this repository's source. */
export function hostProgramMounts(): string[] {
  const node = dirname(process.execPath);
  const places = ['/usr', '/etc', ...(node.startsWith('/usr/') ? [] : [node]), REPOSITORY];
  return places.map((path) => `${path}:${path}:ro`);
}
