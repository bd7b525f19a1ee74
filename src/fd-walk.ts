/**
 * Paths inside a directory that somebody else filled. Every step opens one name below an open directory, through
 * /proc/self/fd, and never follows a symbolic link: no link inside the directory leads out of it, whatever it says and
 * whenever it is changed. (CVE-2021-25741 and its kin; plain paths are checked before they are used, descriptors are
 * what they are.)
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { RuntimeError, systemCode } from './errors.ts';

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** The path of `name` in the open directory `fd`; its last component is not followed by calls that do not follow. */
export function at(fd: number, name: string): string {
  return `/proc/self/fd/${fd}/${name}`;
}

/** An open directory that closes itself. */
export class OpenDirectory implements Disposable {
  readonly fd: number;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Opens a directory by a path that Berth made itself. */
  static open(path: string): OpenDirectory {
    return new OpenDirectory(openSync(path, DIRECTORY));
  }

  /** The directory `name` in this one; undefined when there is no such name. @throws ENOTDIR for anything else */
  child(name: string): OpenDirectory | undefined {
    const fd = openDirectoryAt(this.fd, name);
    return fd === undefined ? undefined : new OpenDirectory(fd);
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }
}

/** Opens the directory `name` below `fd`; undefined when there is no such name. @throws ENOTDIR for anything else */
export function openDirectoryAt(fd: number, name: string): number | undefined {
  try {
    return openSync(at(fd, name), DIRECTORY);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Text of the regular file at `path` ("etc/passwd") below `root`; undefined when it does not exist. Never waits for a
 * FIFO and never reads more than `maxBytes`.
 * @throws {RuntimeError} FAILED_PRECONDITION when it is a link, a FIFO, a device, too large, or below a link
 */
export function readTextBelow(root: OpenDirectory, path: string, maxBytes: number): string | undefined {
  const refuse = (reason: string): RuntimeError => new RuntimeError('FAILED_PRECONDITION', `/${path} ${reason}`);
  const components = path.split('/');
  const name = components.pop() ?? '';
  using parents = new DisposableStack();
  let fd: number;
  try {
    let directory = root;
    for (const component of components) {
      const next = directory.child(component);
      if (next === undefined) return undefined;
      directory = parents.use(next);
    }
    fd = openSync(at(directory.fd, name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw refuse(`in the image is not a regular file below real directories (${systemCode(error) ?? 'unknown'})`);
  }
  parents.defer(() => closeSync(fd));
  const stat = fstatSync(fd);
  if (!stat.isFile()) throw refuse('in the image is not a regular file');
  if (stat.size > maxBytes) throw refuse(`in the image is larger than ${maxBytes} bytes`);
  return readAtMost(fd, stat.size);
}

function readAtMost(fd: number, maxBytes: number): string {
  const buffer = Buffer.alloc(maxBytes);
  let length = 0;
  while (length < maxBytes) {
    const bytes = readSync(fd, buffer, length, maxBytes - length, null);
    if (bytes === 0) break;
    length += bytes;
  }
  return buffer.toString('utf8', 0, length);
}
