/**
 * What the isolators want of a process, as the config.json of an OCI bundle (OCI runtime spec 1.0.2). Pure. What no
 * isolator speaks about is hardened: no capabilities, Berth's seccomp filter, no_new_privs, no device, masked and
 * read-only kernel paths, private mounts. Nothing of a user's labels becomes an annotation, since runtimes take orders
 * from those (CVE-2024-3154).
 */
import { RuntimeError } from '../errors.ts';
import type { Resources } from './container.ts';
import type { Contribution, Device, Mount } from './isolator.ts';
import { PRIVATE_NAMESPACES } from './isolators/namespaces.ts';
import { MASKED_PATHS, READONLY_PATHS } from './isolators/paths.ts';
import { defaultSeccompProfile } from './isolators/seccomp-default-profile.ts';
import { resolveSeccompProfile } from './isolators/seccomp-profile.ts';

/** An OCI configuration; its shape is the runtime spec's, so it is left to JSON. */
export type OciSpec = Readonly<Record<string, unknown>>;

const OCI_VERSION = '1.0.2';
/** Length of a CPU period; the quota is a share of it (kernel default, as in docker). */
const CPU_PERIOD_MICROS = 100_000;
const SHM_BYTES = 64 * 1024 * 1024;

/** Mounts every container has. /dev is fresh, so an image's own /dev cannot interfere (CVE-2026-41579). */
const STANDARD_MOUNTS: readonly Mount[] = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  {
    destination: '/dev/shm',
    type: 'tmpfs',
    source: 'shm',
    options: ['nosuid', 'noexec', 'nodev', 'mode=1777', `size=${SHM_BYTES}`],
  },
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  {
    destination: '/sys/fs/cgroup',
    type: 'cgroup',
    source: 'cgroup',
    options: ['nosuid', 'noexec', 'nodev', 'relatime', 'ro'],
  },
];

/**
 * The configuration of one container. `contribution` is the merged one of all isolators.
 * @throws {RuntimeError} FAILED_PRECONDITION when no isolator gave a root file system or a command
 */
export function ociSpec(id: string, contribution: Contribution): OciSpec {
  const { rootfs, process } = contribution;
  if (rootfs === undefined) throw missing(id, 'root file system');
  if (process?.args === undefined || process.args.length === 0) throw missing(id, 'command');
  return {
    ociVersion: OCI_VERSION,
    root: { path: rootfs, readonly: contribution.readOnlyRootfs === true },
    hostname: contribution.hostname ?? id.slice(0, 12),
    process: {
      terminal: false,
      user: process.user ?? { uid: 0, gid: 0, additionalGids: [] },
      args: process.args,
      env: environment(process.env ?? []),
      cwd: process.cwd ?? '/',
      capabilities: capabilitySets(contribution.capabilities ?? []),
      noNewPrivileges: contribution.noNewPrivileges !== false,
      ...(contribution.rlimits === undefined ? {} : { rlimits: lastOfEach(contribution.rlimits) }),
      ...(contribution.oomScoreAdj === undefined ? {} : { oomScoreAdj: contribution.oomScoreAdj }),
    },
    mounts: mounts(contribution.mounts ?? []),
    linux: linux(contribution),
  };
}

function linux(contribution: Contribution): Record<string, unknown> {
  const devices = contribution.devices ?? [];
  const seccomp =
    contribution.seccomp ??
    resolveSeccompProfile(defaultSeccompProfile(), { capabilities: contribution.capabilities ?? [] });
  return {
    ...(contribution.cgroupsPath === undefined ? {} : { cgroupsPath: contribution.cgroupsPath }),
    namespaces: namespaces(contribution.namespaces),
    devices: devices.map(({ access: _, ...device }) => device),
    resources: {
      devices: deviceRules(contribution),
      ...limits(contribution.resources ?? {}),
    },
    rootfsPropagation: contribution.mountPropagation === 'shared' ? 'rshared' : 'private',
    ...(seccomp === 'unconfined' ? {} : { seccomp }),
    ...(contribution.sysctl === undefined ? {} : { sysctl: contribution.sysctl }),
    maskedPaths: spokenOf(contribution.maskedPaths) ?? MASKED_PATHS,
    readonlyPaths: spokenOf(contribution.readonlyPaths) ?? READONLY_PATHS,
  };
}

/** An empty list is what merging leaves of lists that no isolator gave. */
function spokenOf(list: readonly string[] | undefined): readonly string[] | undefined {
  return list !== undefined && list.length > 0 ? list : undefined;
}

/** Namespaces the isolators name, and a private one of every kind they forgot. The network is theirs alone. */
function namespaces(wanted: Contribution['namespaces'] = []): unknown[] {
  const named = new Set(wanted.map((namespace) => namespace.type));
  return [...wanted, ...PRIVATE_NAMESPACES.filter((type) => !named.has(type)).map((type) => ({ type }))];
}

/**
 * Standard mounts, then the others, parents before children; one at a standard place replaces the standard one, and a
 * bind mount there those below it, too.
 */
function mounts(wanted: readonly Mount[]): Mount[] {
  const taken = new Set(wanted.map((mount) => mount.destination));
  const bound = wanted.filter(({ type }) => type === 'bind').map(({ destination }) => `${destination}/`);
  const standard = STANDARD_MOUNTS.filter(
    ({ destination }) => !taken.has(destination) && !bound.some((dir) => destination.startsWith(dir)),
  );
  const ordered = wanted.toSorted((one, other) => depth(one.destination) - depth(other.destination));
  return [...standard, ...ordered];
}

function depth(path: string): number {
  return path.split('/').filter((part) => part !== '').length;
}

/** All are forbidden but those named. */
function deviceRules({ allDevices, devices = [] }: Contribution): Record<string, unknown>[] {
  if (allDevices === true) return [{ allow: true, type: 'a', access: 'rwm' }];
  return [{ allow: false, access: 'rwm' }, ...devices.map(deviceRule)];
}

function deviceRule({ type, major, minor, access }: Device): Record<string, unknown> {
  return { allow: true, type, major, minor, access };
}

function limits({ memoryBytes, cpuMillis, pidsLimit }: Resources): Record<string, unknown> {
  return {
    ...(memoryBytes === undefined ? {} : { memory: { limit: memoryBytes } }),
    ...(cpuMillis === undefined
      ? {}
      : { cpu: { quota: Math.round((cpuMillis * CPU_PERIOD_MICROS) / 1000), period: CPU_PERIOD_MICROS } }),
    ...(pidsLimit === undefined ? {} : { pids: { limit: pidsLimit } }),
  };
}

/** Inheritable and ambient stay empty: with them a capability survives where nobody expects it (CVE-2022-24769). */
function capabilitySets(names: readonly string[]): Record<string, readonly string[]> {
  return { bounding: names, effective: names, permitted: names, inheritable: [], ambient: [] };
}

/** Later entries win; each key appears once, at its first place. */
function environment(entries: readonly string[]): string[] {
  return [...new Map(entries.map((entry) => [entry.split('=', 1)[0] ?? entry, entry])).values()];
}

function lastOfEach<T extends { readonly type: string }>(entries: readonly T[]): T[] {
  return [...new Map(entries.map((entry) => [entry.type, entry])).values()];
}

function missing(id: string, what: string): RuntimeError {
  return new RuntimeError('FAILED_PRECONDITION', `container ${id}: no isolator contributed a ${what}`);
}
