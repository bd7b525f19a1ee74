/**
 * Removes a tree that a container or an archive filled: no link in it is followed, nothing mounted below it is entered.
 * The program rm does it, by descriptors: Node's fs.promises.rm asks a name that it may not unlink for its entries, and
 * in a directory that a container made immutable such a name can be a link to a directory of the host.
 */
import { RuntimeError } from './errors.ts';
import { hostCommand } from './host-command.ts';
import { mountsBelow } from './mountinfo.ts';

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
  const options = { timeoutMs: TIMEOUT_MS };
  const remove = (): Promise<string> => hostCommand('rm', ['-rf', '--one-file-system', '--', path], signal, options);
  try {
    await remove();
    return;
  } catch {
    // Most likely files that a container with the right to do so made immutable.
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
