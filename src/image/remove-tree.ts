/**
 * Removes a tree that a container or an archive filled: no link in it is followed, nothing mounted below it is entered.
 * Two shapes of tree resist a plain removal and have their own answer: paths deeper than the kernel takes in one piece
 * (rm walks by descriptor), and files made immutable by a container that was given the right (chattr).
 */
import { rm } from 'node:fs/promises';
import { RuntimeError } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import { mountsBelow } from '../mountinfo.ts';

const TIMEOUT_MS = 10 * 60_000;

/**
 * Removes `path` with all it holds; succeeds when it is gone already.
 * @throws {RuntimeError} UNAVAILABLE when something is mounted in it; otherwise why it stays
 */
export async function removeTree(path: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const [mount] = mountsBelow(path);
  if (mount !== undefined)
    throw new RuntimeError('UNAVAILABLE', `remove ${path}: ${mount.mountPoint} is still mounted`);
  try {
    await rm(path, { recursive: true, force: true });
  } catch {
    // Whatever it was, rm meets it again, or gets past it.
    await removeByForce(path, signal);
  }
}

async function removeByForce(path: string, signal: AbortSignal): Promise<void> {
  const options = { timeoutMs: TIMEOUT_MS };
  const remove = (): Promise<string> => hostCommand('rm', ['-rf', '--one-file-system', '--', path], signal, options);
  try {
    await remove();
    return;
  } catch {
    signal.throwIfAborted();
  }
  try {
    await hostCommand('chattr', ['-R', '-f', '-i', '-a', '--', path], signal, options);
  } catch {
    // It fails for links and special files though it has done its work: the second removal tells.
    signal.throwIfAborted();
  }
  await remove();
}
