/**
 * Removes a tree that a container or an archive filled: no link in it is followed, nothing mounted below it is entered.
 * A few entries are removed at once, from open directories; the program rm does the rest. Node's fs.promises.rm is of no
 * use: it asks a name that it may not unlink for its entries, and in a directory that a container made immutable such a
 * name can be a link to a directory of the host.
 */
import { lstatSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { RuntimeError } from './errors.ts';
import { at, OpenDirectory } from './fd-walk.ts';
import { hostCommand } from './host-command.ts';
import { mountsBelow } from './mountinfo.ts';

const TIMEOUT_MS = 10 * 60_000;
/** Entries that are removed here and now. Most containers leave a handful behind; a program would cost more. */
const SMALL_TREE_ENTRIES = 64;

/**
 * Removes `path` with all it holds; succeeds when it is gone already.
 * @throws {RuntimeError} UNAVAILABLE when something is mounted in it; otherwise why it stays
 */
export async function removeTree(path: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const [mount] = mountsBelow(path);
  if (mount !== undefined)
    throw new RuntimeError('UNAVAILABLE', `remove ${path}: ${mount.mountPoint} is still mounted`);
  if (removeSmallTree(path)) return;
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

/** False when the tree is large or something in it resists: what is left is for rm. */
function removeSmallTree(path: string): boolean {
  let budget = SMALL_TREE_ENTRIES;
  const remove = (directory: OpenDirectory, name: string): boolean => {
    budget -= 1;
    if (budget < 0) return false;
    const place = at(directory.fd, name);
    const stat = lstatSync(place, { throwIfNoEntry: false });
    if (stat === undefined) return true;
    if (!stat.isDirectory()) {
      unlinkSync(place);
      return true;
    }
    using child = directory.child(name);
    if (child === undefined) return true;
    if (!readdirSync(at(child.fd, '.')).every((entry) => remove(child, entry))) return false;
    rmdirSync(place);
    return true;
  };
  try {
    using parent = OpenDirectory.open(dirname(path));
    return remove(parent, basename(path));
  } catch {
    // rm says what is wrong, or mends it.
    return false;
  }
}
