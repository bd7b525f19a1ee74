/**
 * Paths of the host, walked step by step on descriptors: each component is opened by name below the one before, with
 * O_PATH and without following links, and links are followed by this code. What the caller gets is the inode it has
 * checked, whatever anybody renames meanwhile (CVE-2021-25741).
 */
import { closeSync, constants, fstatSync, openSync, readlinkSync, type Stats, statfsSync } from 'node:fs';
import { invalid, RuntimeError, systemCode } from '../../errors.ts';

/** O_PATH of Linux, which Node does not name. */
const O_PATH = 0o10000000;
const WALK = O_PATH | constants.O_NOFOLLOW;
/** Links followed before it is called a loop (kernel: 40). */
const MAX_LINKS = 40;
/** File system type of /proc (linux/magic.h): its links lead to open files and to other namespaces. */
const PROC_SUPER_MAGIC = 0x9fa0;

/** An inode of the host held by an O_PATH descriptor. */
export class PinnedPath {
  readonly fd: number;
  /** Where it was when it was opened, without links. */
  readonly realPath: string;
  readonly stats: Stats;

  constructor(fd: number) {
    this.fd = fd;
    this.realPath = readlinkSync(`/proc/self/fd/${fd}`);
    this.stats = fstatSync(fd);
  }

  /** A path by which any process of this user namespace reaches this very inode while it is held. */
  get magicPath(): string {
    return `/proc/${process.pid}/fd/${this.fd}`;
  }

  close(): void {
    closeSync(this.fd);
  }
}

/**
 * Walks to an absolute path of the host in normal form. `field` is what errors name.
 * @throws {RuntimeError} NOT_FOUND when a component is missing; FAILED_PRECONDITION for a loop of links;
 * INVALID_ARGUMENT for a way through a link in /proc
 */
export function pinPath(field: string, path: string): PinnedPath {
  const open: number[] = [openSync('/', WALK | constants.O_DIRECTORY)];
  try {
    let left = parts(path);
    for (let links = 0; left.length > 0; ) {
      const [name = '', ...rest] = left;
      left = rest;
      if (name === '..') {
        if (open.length > 1) closeSync(open.pop() ?? -1);
        continue;
      }
      const parent = `/proc/self/fd/${open.at(-1)}`;
      const fd = openSync(`${parent}/${name}`, WALK);
      open.push(fd);
      if (!fstatSync(fd).isSymbolicLink()) continue;
      if (statfsSync(parent).type === PROC_SUPER_MAGIC)
        throw invalid(field, `host path ${path} goes through a link in /proc`);
      links += 1;
      if (links > MAX_LINKS)
        throw new RuntimeError('FAILED_PRECONDITION', `${field}: host path ${path} is a loop of links`);
      const target = readlinkSync(`${parent}/${name}`);
      for (const held of open.splice(target.startsWith('/') ? 1 : open.length - 1)) closeSync(held);
      left = [...parts(target), ...left];
    }
    const pinned = new PinnedPath(open.at(-1) ?? -1);
    open.pop();
    return pinned;
  } catch (error) {
    const code = systemCode(error);
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw RuntimeError.from(error, `${field}: open host path ${path}`);
    throw new RuntimeError('NOT_FOUND', `${field}: host path ${path} does not exist`, { cause: error });
  } finally {
    for (const fd of open) closeSync(fd);
  }
}

function parts(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}
