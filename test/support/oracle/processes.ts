/** Processes, zombies, namespaces that processes hold, and cgroups of a scope. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../../../src/errors.ts';
import { readMounts } from '../../../src/mountinfo.ts';
import { isInside, list, mentions, read, readLink, type Scope } from './scope.ts';

interface ProcessInfo {
  readonly pid: number;
  readonly parent: number;
  readonly state: string;
  readonly name: string;
  readonly commandLine: string;
  readonly ours: boolean;
}

/** "conmon 1234: conmon --cid ..." for each live process that names our directories or ids or sits in our cgroup. */
export function processes(scope: Scope): string[] {
  const seen = new Map<string, number>();
  return all(scope)
    .filter((info) => info.ours && info.state !== 'Z')
    .map(({ name, pid, commandLine }) => {
      if (scope.restartable?.(commandLine) !== true) return `${name} ${pid}: ${commandLine}`;
      const count = (seen.get(commandLine) ?? 0) + 1;
      seen.set(commandLine, count);
      return count === 1 ? `${name}: ${commandLine}` : `${name} (${count}): ${commandLine}`;
    });
}

/** Dead processes that nobody reaped: of our cgroups, or children of ours. */
export function zombies(scope: Scope): string[] {
  const found = all(scope);
  const ours = new Set(found.filter((info) => info.ours).map((info) => info.pid));
  return found
    .filter((info) => info.state === 'Z' && (info.ours || ours.has(info.parent)))
    .map((info) => `${info.name} ${info.pid}, child of ${info.parent}`);
}

/** Network namespaces that our processes hold, beside the host's. */
export function namespaces(scope: Scope): string[] {
  const host = readLink('/proc/self/ns/net');
  return all(scope)
    .filter((info) => info.ours)
    .map((info) => readLink(`/proc/${info.pid}/ns/net`))
    .filter((namespace) => namespace !== '' && namespace !== host);
}

function all(scope: Scope): ProcessInfo[] {
  return list('/proc')
    .filter((name) => /^[0-9]+$/.test(name) && Number(name) !== process.pid)
    .flatMap((name) => {
      const stat = read(`/proc/${name}/stat`);
      if (stat === '') return [];
      const [state = '', parent = ''] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const commandLine = read(`/proc/${name}/cmdline`).replaceAll('\0', ' ').trim();
      return [
        {
          pid: Number(name),
          parent: Number(parent),
          state,
          name: stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')')),
          commandLine,
          ours: isOurs(scope, name, commandLine),
        },
      ];
    });
}

function isOurs(scope: Scope, pid: string, commandLine: string): boolean {
  if (mentions(scope, commandLine)) return true;
  const inCgroup = read(`/proc/${pid}/cgroup`)
    .split('\n')
    .some((line) => line.split(':').slice(2).join(':').split('/').includes(scope.cgroupParent));
  return inCgroup || isInside(scope, readLink(`/proc/${pid}/root`));
}

/**
 * Directories below our parent in every hierarchy, v1 and v2, and those anywhere that bear one of our ids. A directory
 * of /sys/fs/cgroup with nothing mounted on it counts too: some runtimes leave plain directories there.
 */
export function cgroups(scope: Scope): string[] {
  const elsewhere = readMounts()
    .filter((entry) => entry.fsType === 'cgroup' || entry.fsType === 'cgroup2')
    .map((entry) => entry.mountPoint)
    .filter((path) => path !== CGROUP_ROOT && !path.startsWith(`${CGROUP_ROOT}/`));
  return [CGROUP_ROOT, ...elsewhere].flatMap((root) => cgroupsBelow(scope, root, false));
}

const CGROUP_ROOT = '/sys/fs/cgroup';

function cgroupsBelow(scope: Scope, dir: string, insideParent: boolean): string[] {
  return subdirectories(dir).flatMap((name) => {
    const path = join(dir, name);
    const ours = insideParent || [...scope.ids].some((id) => name.includes(id));
    const below = cgroupsBelow(scope, path, insideParent || name === scope.cgroupParent);
    return ours ? [path, ...below] : below;
  });
}

function subdirectories(dir: string): string[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch (error) {
    // It went away since its parent was listed, or such a hierarchy is not mounted.
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}
