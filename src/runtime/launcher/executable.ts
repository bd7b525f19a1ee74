/**
 * Whether the command of a container can be executed, found out in its file system before anything is spawned: error
 * texts differ from runtime to runtime, and some report a bad program only by the exit code 1 of a started container.
 * What cannot be seen from outside (a program in a volume of a kind unknown here) is left to the runtime.
 */
import { closeSync, openSync, readdirSync, readSync } from 'node:fs';
import { posix } from 'node:path';
import { invalid, systemCode } from '../../errors.ts';
import type { Contribution } from '../isolator.ts';
import { ExecutableError } from '../launcher.ts';
import { ContainerPaths, isWithin, type Resolved } from './container-path.ts';

const ELF_MAGIC = Buffer.from('\x7fELF', 'latin1');
/** The kernel reads so much of a script's first line (BINPRM_BUF_SIZE). */
const HEADER_BYTES = 256;
/** Interpreters that are scripts themselves, as far as the kernel follows them. */
const MAX_INTERPRETERS = 4;
const FORBIDDEN_DIRECTORIES: readonly string[] = ['/proc', '/sys', '/dev'];

/**
 * Refuses what is known to fail or to be an attack once links are followed.
 * @throws {ExecutableError} when the command is missing (127) or cannot be executed (126)
 * @throws {RuntimeError} INVALID_ARGUMENT when the working directory leads into a pseudo file system (CVE-2024-21626)
 */
export function checkProcess(contribution: Contribution): void {
  const paths = new ContainerPaths(contribution);
  checkWorkingDirectory(contribution.process?.cwd ?? '/', paths);
  const fault = executableFault(contribution, paths);
  if (fault !== undefined) throw fault;
}

function checkWorkingDirectory(cwd: string, paths: ContainerPaths): void {
  const { path, kind } = paths.resolve(cwd);
  if (kind === 'astray') throw invalid('workdir', `${cwd} leads round in circles or up from what does not exist`);
  const root = FORBIDDEN_DIRECTORIES.find((directory) => isWithin(path, directory));
  if (root !== undefined) throw invalid('workdir', `${cwd} leads into ${root}, which is no place to work in`);
}

/** Why the command cannot be executed; undefined when it can, or when that cannot be seen from outside. */
function executableFault(contribution: Contribution, paths: ContainerPaths): ExecutableError | undefined {
  const [command] = contribution.process?.args ?? [];
  if (command === undefined || command === '') return undefined;
  const candidates = candidatePaths(command, contribution.process);
  if (candidates === undefined) return undefined;
  let denied: ExecutableError | undefined;
  for (const candidate of candidates) {
    const found = paths.resolve(candidate);
    if (found.kind === 'hidden') return undefined;
    if (found.kind !== 'found') continue;
    const reason = permissionFault(found, contribution.process?.user ?? { uid: 0, gid: 0, additionalGids: [] });
    if (reason === undefined) return formatFault(command, found, paths);
    denied ??= new ExecutableError(126, `command ${JSON.stringify(command)}: ${found.path} ${reason}`);
  }
  return denied ?? new ExecutableError(127, `command ${JSON.stringify(command)}: not found in the container`);
}

/** Absolute paths a command may mean; undefined when there is no PATH to search. */
function candidatePaths(command: string, process: Contribution['process']): string[] | undefined {
  const cwd = process?.cwd ?? '/';
  if (command.includes('/')) return [posix.resolve(cwd, command)];
  const search = process?.env?.findLast((entry) => entry.startsWith('PATH='))?.slice('PATH='.length);
  if (search === undefined || search === '') return undefined;
  return search.split(':').map((directory) => posix.resolve(cwd, directory === '' ? '.' : directory, command));
}

type Found = Extract<Resolved, { kind: 'found' }>;
type User = NonNullable<NonNullable<Contribution['process']>['user']>;

function permissionFault({ stats }: Found, { uid, gid, additionalGids }: User): string | undefined {
  if (stats.isDirectory()) return 'is a directory';
  if (!stats.isFile()) return 'is no regular file';
  const isGroup = stats.gid === gid || additionalGids.includes(stats.gid);
  // Root may execute what anybody may execute; others go by the first class that is theirs.
  const bits = uid === 0 ? 0o111 : stats.uid === uid ? 0o100 : isGroup ? 0o010 : 0o001;
  return (stats.mode & bits) === 0 ? 'may not be executed by this user' : undefined;
}

/** Follows scripts to the program that runs them. */
function formatFault(command: string, program: Found, paths: ContainerPaths): ExecutableError | undefined {
  let current = program;
  for (let depth = 0; depth < MAX_INTERPRETERS; depth += 1) {
    const header = readHeader(current.hostPath);
    if (header.subarray(0, ELF_MAGIC.length).equals(ELF_MAGIC)) return undefined;
    const interpreter = interpreterOf(header);
    if (interpreter === undefined) {
      if (hasForeignFormats()) return undefined;
      const reason = 'is neither a program of this machine nor a script with a "#!" line';
      return new ExecutableError(126, `command ${JSON.stringify(command)}: ${current.path} ${reason}`);
    }
    const next = paths.resolve(interpreter);
    if (next.kind === 'hidden') return undefined;
    if (next.kind !== 'found') {
      const reason = `its interpreter ${interpreter} is not in the container`;
      return new ExecutableError(127, `command ${JSON.stringify(command)}: ${reason}`);
    }
    current = next;
  }
  return undefined;
}

function readHeader(path: string): Buffer {
  const fd = openSync(path, 'r');
  try {
    const buffer = Buffer.alloc(HEADER_BYTES);
    return buffer.subarray(0, readSync(fd, buffer, 0, HEADER_BYTES, 0));
  } finally {
    closeSync(fd);
  }
}

/** The interpreter a script names; undefined for anything that is no script. */
function interpreterOf(header: Buffer): string | undefined {
  return /^#![ \t]*(\/[^\s\0]*)/.exec(header.toString('latin1'))?.[1];
}

/** True when the kernel was taught formats beside its own (binfmt_misc): then nobody here can tell. */
function hasForeignFormats(): boolean {
  try {
    return readdirSync('/proc/sys/fs/binfmt_misc').some((name) => name !== 'register' && name !== 'status');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}
