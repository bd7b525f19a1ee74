/**
 * Program: group-ownership-process PATH GROUP POLICY. Gives a tree to a group (group-ownership.ts). Containers may be
 * writing in the tree: every step opens one name below an open directory, no link is followed, and what is changed is
 * what was opened. Other file systems mounted in the tree are not entered. The root is done last: a walk that was cut
 * short does not look finished.
 */
import { chmodSync, chownSync, closeSync, fstatSync, lchownSync, lstatSync, openSync, readdirSync } from 'node:fs';
import { systemCode } from './errors.ts';
import { at, OpenDirectory } from './fd-walk.ts';

/** open(2): a handle on the place itself, which neither opens a device nor waits for a FIFO. */
const O_PATH = 0o10000000;
const O_NOFOLLOW = 0o400000;
const SETGID = 0o2000;
const GROUP_READ_WRITE = 0o060;
const GROUP_SEARCH = 0o010;

function modeFor(mode: number, directory: boolean): number {
  const search = directory || (mode & 0o111) !== 0 ? GROUP_SEARCH : 0;
  return (mode & 0o7777) | GROUP_READ_WRITE | search | (directory ? SETGID : 0);
}

/** Changing the owner of a file clears its set-user-ID bits, so the mode comes after. */
function give(place: string, { uid, mode }: { uid: number; mode: number }, group: number, directory: boolean): void {
  chownSync(place, uid, group);
  chmodSync(place, modeFor(mode, directory));
}

function walk(directory: OpenDirectory, group: number, device: number): void {
  for (const name of readdirSync(at(directory.fd, '.'))) {
    const place = at(directory.fd, name);
    const seen = lstatSync(place, { throwIfNoEntry: false });
    if (seen === undefined || seen.dev !== device) continue;
    if (seen.isSymbolicLink()) lchownSync(place, seen.uid, group);
    else if (seen.isDirectory()) {
      using child = directory.child(name);
      if (child === undefined) continue;
      walk(child, group, device);
      give(`/proc/self/fd/${child.fd}`, fstatSync(child.fd), group, true);
    } else giveFile(place, group);
  }
}

function giveFile(place: string, group: number): void {
  const fd = openPlace(place);
  if (fd === undefined) return;
  try {
    const found = fstatSync(fd);
    if (found.isSymbolicLink() || found.isDirectory()) return;
    give(`/proc/self/fd/${fd}`, found, group, false);
  } finally {
    closeSync(fd);
  }
}

/** Undefined when it has gone meanwhile. */
function openPlace(place: string): number | undefined {
  try {
    return openSync(place, O_PATH | O_NOFOLLOW);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

const [path = '', groupText = '', policy = ''] = process.argv.slice(2);
const group = Number(groupText);
using root = OpenDirectory.open(path);
const found = fstatSync(root.fd);
const fits = found.gid === group && (found.mode & 0o7777) === modeFor(found.mode, true);
if (policy !== 'root-mismatch' || !fits) {
  walk(root, group, found.dev);
  give(`/proc/self/fd/${root.fd}`, found, group, true);
}
