/**
 * Copies of images and directories, by cp(1) in a child that dies with the driver: half a copy is worth nothing, and
 * whoever starts next removes it. Where the file system can (xfs, btrfs), an image's copy shares its blocks and is made
 * in one step at one moment (FICLONE); elsewhere it is read and written, without its holes.
 */
import { RuntimeError } from '../../errors.ts';
import { hostCommand } from '../../host-command.ts';
import { removeTree } from '../../remove-tree.ts';

/** Longest time one copy may take. */
export const COPY_TIMEOUT_MS: number = 10 * 60_000;

/** Copies an image over whatever is at `target`. True when the copy shares blocks with the source. */
export async function copyImage(source: string, target: string, signal: AbortSignal): Promise<boolean> {
  const clone = ['--reflink=always', '--', source, target];
  if (await copied(clone, signal)) return true;
  await mortalCommand('cp', ['--reflink=never', '--sparse=always', '--', source, target], signal);
  return false;
}

/** Copies a directory with all it holds, less what is mounted in it. What is at `target` goes. */
export async function copyTree(source: string, target: string, signal: AbortSignal): Promise<void> {
  await removeTree(target, signal);
  const options = ['--archive', '--reflink=auto', '--one-file-system', '--no-target-directory'];
  await mortalCommand('cp', [...options, '--', source, target], signal);
}

/** Brings a file, or all of the file system that a directory lies on, to the disk. */
export async function flushToDisk(path: string, kind: 'file' | 'file system', signal: AbortSignal): Promise<void> {
  await mortalCommand('sync', kind === 'file' ? [path] : ['--file-system', path], signal);
}

/**
 * Runs a program that the kernel kills when this process ends, even by SIGKILL; returns its stdout.
 * @throws {RuntimeError} FAILED_PRECONDITION when it is not installed
 */
export async function mortalCommand(file: string, args: readonly string[], signal: AbortSignal): Promise<string> {
  try {
    return await hostCommand('setpriv', ['--pdeathsig', 'KILL', file, ...args], signal, { timeoutMs: COPY_TIMEOUT_MS });
  } catch (error) {
    if (!(error instanceof RuntimeError) || error.code !== 'NOT_FOUND') throw error;
    // NOT_FOUND would say that a snapshot or a volume is missing.
    throw new RuntimeError('FAILED_PRECONDITION', error.message, { cause: error });
  }
}

/** False when cp failed, most likely since the file system cannot share blocks: a plain copy will tell. */
async function copied(args: readonly string[], signal: AbortSignal): Promise<boolean> {
  try {
    await mortalCommand('cp', args, signal);
    return true;
  } catch (error) {
    if (error instanceof RuntimeError && error.code === 'INTERNAL') return false;
    throw error;
  }
}
