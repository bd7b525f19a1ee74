/** The busybox root file system as a tar file, made once per process: what images of tests are imported from. */
import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { busyboxRootfs } from './busybox-rootfs.ts';

let made: Promise<string> | undefined;

/** Path of the tar file; it is removed when the process ends. */
export function busyboxTar(): Promise<string> {
  made ??= make();
  return made;
}

async function make(): Promise<string> {
  const dir = await mkdtemp('/tmp/berth-test-image-');
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }));
  const rootfs = await busyboxRootfs(join(dir, 'rootfs'));
  const file = join(dir, 'busybox.tar');
  await promisify(execFile)('tar', [
    '--create',
    '--numeric-owner',
    '--owner=0',
    '--group=0',
    `--file=${file}`,
    '-C',
    rootfs,
    '.',
  ]);
  return file;
}
