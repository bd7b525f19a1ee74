/**
 * A root file system for tests: one static busybox under every name it answers to, the directories a container needs,
 * and two accounts. About 2 MB; the caller's temporary directory owns it.
 */
import { execFile } from 'node:child_process';
import { chmod, cp, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

/** The static busybox of the host (Debian package busybox-static). */
export const BUSYBOX = '/bin/busybox';

const DIRECTORIES = [
  'bin',
  'dev',
  'etc',
  'home',
  'proc',
  'root',
  'run',
  'sbin',
  'sys',
  'tmp',
  'usr/bin',
  'usr/sbin',
  'var',
] as const;

/** Makes the tree at `dir` (created when missing, readable by everybody) and returns `dir`. */
export async function busyboxRootfs(dir: string): Promise<string> {
  for (const name of DIRECTORIES) await mkdir(join(dir, name), { recursive: true });
  await chmod(dir, 0o755);
  await chmod(join(dir, 'tmp'), 0o1777);
  await cp(BUSYBOX, join(dir, 'bin/busybox'));
  await chmod(join(dir, 'bin/busybox'), 0o755);
  for (const applet of await applets()) {
    if (applet !== 'busybox') await symlink('/bin/busybox', join(dir, 'bin', applet));
  }
  await writeFile(
    join(dir, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/sh\n',
  );
  await writeFile(join(dir, 'etc/group'), 'root:x:0:\nnogroup:x:65534:\n');
  return dir;
}

async function applets(): Promise<string[]> {
  const { stdout } = await promisify(execFile)(BUSYBOX, ['--list']);
  return stdout.split('\n').filter((name) => name !== '');
}
