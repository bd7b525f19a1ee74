/**
 * Whom a process of a container runs as: the account asked for, looked up in the image's own /etc/passwd and /etc/group.
 * Those files are the image's word: they are read without following links, only when they are regular and small, and a
 * number needs no file at all.
 */
import { type Account, parseAccountId } from '../account.ts';
import { RuntimeError } from '../errors.ts';
import { type OpenDirectory, readTextBelow } from '../fd-walk.ts';

/** A user with everything a process needs of it. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** The primary group comes first: a process that has it only as its gid could drop it (CVE-2022-36109). */
  readonly additionalGids: readonly number[];
  /** Home directory; "/" when nobody says. */
  readonly home: string;
}

const PASSWD = 'etc/passwd';
const GROUP = 'etc/group';
const MAX_FILE_BYTES = 1024 * 1024;
/** Kernel limit of supplementary groups (NGROUPS_MAX). */
const MAX_GROUPS = 65_536;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

interface PasswdLine {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

interface GroupLine {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/**
 * Looks an account up below the root of a container. A number that no line has is taken as it is, with group 0.
 * @throws {RuntimeError} FAILED_PRECONDITION when a name is not there, or the file that should hold it is unfit
 */
export function resolveUser(root: OpenDirectory, account: Account): ResolvedUser {
  const known = findUser(root, account.user);
  const uid = known?.uid ?? account.user;
  if (typeof uid === 'string') throw unknown('user', uid, PASSWD);
  const home = known?.home ?? '/';
  if (account.group !== undefined) {
    const gid = findGroup(root, account.group);
    return { uid, gid, additionalGids: [gid], home };
  }
  const gid = known?.gid ?? 0;
  const memberOf = known === undefined ? [] : groupsOf(root, known.name, typeof account.user === 'number');
  const additionalGids = [...new Set([gid, ...memberOf])].slice(0, MAX_GROUPS);
  return { uid, gid, additionalGids, home };
}

function findUser(root: OpenDirectory, user: number | string): PasswdLine | undefined {
  const lines = linesOf(root, PASSWD, typeof user === 'number').flatMap(passwdLine);
  return lines.find((line) => (typeof user === 'number' ? line.uid === user : line.name === user));
}

function findGroup(root: OpenDirectory, group: number | string): number {
  if (typeof group === 'number') return group;
  const line = linesOf(root, GROUP, false)
    .flatMap(groupLine)
    .find(({ name }) => name === group);
  if (line === undefined) throw unknown('group', group, GROUP);
  return line.gid;
}

function groupsOf(root: OpenDirectory, user: string, optional: boolean): number[] {
  return linesOf(root, GROUP, optional)
    .flatMap(groupLine)
    .filter(({ members }) => members.includes(user))
    .map(({ gid }) => gid);
}

/** `optional`: without the file things go on, so an unfit one counts as none. */
function linesOf(root: OpenDirectory, path: string, optional: boolean): string[] {
  try {
    return (readTextBelow(root, path, MAX_FILE_BYTES) ?? '').split('\n');
  } catch (error) {
    if (optional && error instanceof RuntimeError && error.code === 'FAILED_PRECONDITION') return [];
    throw error;
  }
}

function passwdLine(line: string): PasswdLine[] {
  const [name, , uidText, gidText, , home] = line.split(':');
  const uid = parseAccountId(uidText ?? '');
  const gid = parseAccountId(gidText ?? '');
  if (name === undefined || name === '' || uid === undefined || gid === undefined) return [];
  const fit = home?.startsWith('/') === true && !CONTROL.test(home);
  return [{ name, uid, gid, home: fit ? home : '/' }];
}

function groupLine(line: string): GroupLine[] {
  const [name, , gidText, members] = line.split(':');
  const gid = parseAccountId(gidText ?? '');
  if (name === undefined || name === '' || gid === undefined) return [];
  return [{ name, gid, members: (members ?? '').split(',') }];
}

function unknown(kind: string, name: string, file: string): RuntimeError {
  return new RuntimeError(
    'FAILED_PRECONDITION',
    `user: the image's /${file} has no ${kind} ${JSON.stringify(name)}: use a number, or a name it has`,
  );
}
