/**
 * The directory a process starts in, made when the image lacks it. The path is resolved as the container will resolve
 * it: links of the image are followed, but inside its root, one name at a time. A path that leads into /proc, /sys or
 * /dev by whatever links is refused: what lies there is the kernel's, and descriptors of the runtime are among it
 * (CVE-2024-21626).
 */
import { fchmodSync, lstatSync, mkdirSync, readlinkSync } from 'node:fs';
import { invalid, RuntimeError } from '../errors.ts';
import { at, type OpenDirectory } from '../fd-walk.ts';

/** As the kernel has it (MAXSYMLINKS). */
const MAX_LINKS = 40;
const PSEUDO_ROOTS: ReadonlySet<string> = new Set(['proc', 'sys', 'dev']);

/**
 * Makes `path` (absolute) below `root` where it is missing, as root's with mode 0755.
 * @throws {RuntimeError} INVALID_ARGUMENT when it leads into a pseudo file system, FAILED_PRECONDITION when something
 * that is no directory is in the way
 */
export function makeWorkingDirectory(root: OpenDirectory, path: string): void {
  const refuse = (reason: string): RuntimeError => invalid('workdir', `${JSON.stringify(path)} ${reason}`);
  using opened = new DisposableStack();
  /** Directories from the root to where the walk stands. */
  let stack: OpenDirectory[] = [];
  const pending = componentsOf(path);
  let links = 0;
  for (let name = pending.shift(); name !== undefined; name = pending.shift()) {
    if (name === '..') {
      stack.pop();
      continue;
    }
    if (stack.length === 0 && PSEUDO_ROOTS.has(name)) throw refuse(`leads into /${name}, which is no place to work in`);
    const directory = stack.at(-1) ?? root;
    const place = at(directory.fd, name);
    const stat = lstatSync(place, { throwIfNoEntry: false });
    if (stat?.isSymbolicLink()) {
      links += 1;
      if (links > MAX_LINKS) throw refuse('has too many symbolic links');
      const target = readlinkSync(place);
      if (target.startsWith('/')) stack = [];
      pending.unshift(...componentsOf(target));
      continue;
    }
    if (stat !== undefined && !stat.isDirectory()) {
      throw new RuntimeError(
        'FAILED_PRECONDITION',
        `workdir: ${JSON.stringify(path)}: ${name} is no directory in the image`,
      );
    }
    if (stat === undefined) mkdirSync(place, 0o755);
    const child = directory.child(name);
    if (child === undefined) throw refuse('was removed while it was looked at');
    stack.push(opened.use(child));
    // The process's umask had its say.
    if (stat === undefined) fchmodSync(child.fd, 0o755);
  }
}

function componentsOf(path: string): string[] {
  return path.split('/').filter((name) => name !== '' && name !== '.');
}
