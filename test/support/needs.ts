/**
 * What a test needs of the host. A test that lacks something is skipped and says what; with REQUIRE set (a list of
 * needs, or "all") lacking one of those is a failure, so that a machine that should run everything cannot pass by
 * skipping.
 *
 *   test('mounts the volume', async (t) => {
 *     if (!needs(t, 'root', 'loop')) return;
 *     ...
 *   });
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { hasCgroupV1, mountHugetlb } from './cgroup-fixture.ts';

/** Directories where distributions put CNI plugins. */
export const CNI_BIN_DIRS: readonly string[] = ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'];

/** CNI plugins that the tests use. */
const CNI_PLUGINS = ['bridge', 'host-local', 'portmap', 'firewall', 'loopback'] as const;
/** The rest of the reference plugins. */
const MORE_CNI_PLUGINS = [
  ...['ptp', 'macvlan', 'ipvlan', 'vlan', 'host-device', 'tuning', 'sbr', 'vrf', 'bandwidth', 'static', 'dhcp'],
] as const;

/** Each answers undefined when the host has it, else what is missing. */
const CHECKS = {
  root: () => (process.getuid?.() === 0 ? undefined : 'needs root'),
  crun: crunWorks,
  runc: () => program('runc'),
  conmon: () => program('conmon'),
  iptables: () => program('iptables') ?? program('iptables-save'),
  nft: () => program('nft'),
  ip: () => program('ip'),
  mount: () => program('mount'),
  losetup: () => program('losetup'),
  ext4: () => program('mkfs.ext4') ?? fileSystem('ext4'),
  xfs: () => program('mkfs.xfs') ?? fileSystem('xfs'),
  fsfreeze: () => program('fsfreeze'),
  curl: () => program('curl'),
  busybox: () => program('busybox'),
  nsenter: () => program('nsenter'),
  setpriv: () => program('setpriv'),
  unshare: () => program('unshare'),
  strace: () => program('strace'),
  tar: () => program('tar'),
  podman: () => program('podman'),
  ctr: () => program('ctr'),
  loop: () => (existsSync('/dev/loop-control') ? undefined : 'no loop devices (/dev/loop-control)'),
  overlayfs: () => fileSystem('overlay'),
  tmpfs: () => fileSystem('tmpfs'),
  netns: () => (existsSync('/proc/self/ns/net') ? undefined : 'the kernel has no network namespaces'),
  userns: () => (existsSync('/proc/self/ns/user') ? undefined : 'the kernel has no user namespaces'),
  cni: () => cniPlugins(CNI_PLUGINS),
  'cni-more': () => cniPlugins(MORE_CNI_PLUGINS),
  tc: () => program('tc'),
  macvlan: () => linkKind('link p0 name x0 type macvlan mode bridge'),
  ipvlan: () => linkKind('link p0 name x0 type ipvlan mode l2'),
  vlan: () => linkKind('link p0 name x0 type vlan id 5'),
  vrf: () => linkKind('x0 type vrf table 10'),
  ifb: () => linkKind('x0 type ifb'),
  'cgroup-v1': () => (hasCgroupV1() ? undefined : 'no cgroup v1 controllers are mounted'),
  'cgroup-v2': () => (existsSync('/sys/fs/cgroup/cgroup.controllers') ? undefined : 'cgroup is not unified (v2)'),
} as const satisfies Record<string, () => string | undefined>;

/** Something a test may need of the host. */
export type Need = keyof typeof CHECKS;

/** The part of a test's context that is used here. */
export interface Skippable {
  skip(message?: string): void;
}

/**
 * True when the host has all of these. Otherwise the test is marked as skipped with what is missing and the caller
 * returns at once.
 * @throws when something is missing that REQUIRE names
 */
export function needs(t: Skippable, ...names: readonly Need[]): boolean {
  const reason = missing(...names);
  if (reason === false) return true;
  t.skip(reason);
  return false;
}

/**
 * The same for a whole group: `describe('...', { skip: missing('root') }, ...)`. False when nothing is missing.
 * @throws when something is missing that REQUIRE names
 */
export function missing(...names: readonly Need[]): string | false {
  const lacks = names.flatMap((name) => {
    const reason = lackOf(name);
    return reason === undefined ? [] : [{ name, reason }];
  });
  if (lacks.length === 0) return false;
  const text = lacks.map(({ reason }) => reason).join('; ');
  const required = lacks.filter(({ name }) => isRequired(name)).map(({ name }) => name);
  if (required.length > 0) throw new Error(`required here (REQUIRE=${required.join(',')}) but missing: ${text}`);
  return text;
}

const answers: Map<Need, string | undefined> = new Map();

/** What the host lacks of one need, asked once per process. */
function lackOf(name: Need): string | undefined {
  if (!answers.has(name)) answers.set(name, CHECKS[name]());
  return answers.get(name);
}

function isRequired(name: Need): boolean {
  const list = (process.env['REQUIRE'] ?? '').split(/[\s,]+/);
  return list.includes('all') || list.includes(name);
}

/** Path of a program in PATH or the system's sbin directories. */
export function findProgram(name: string): string | undefined {
  const dirs = [...(process.env['PATH'] ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'];
  return dirs
    .filter((dir) => dir !== '')
    .map((dir) => join(dir, name))
    .find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function program(name: string): string | undefined {
  return findProgram(name) === undefined ? `${name} is not installed` : undefined;
}

/** crun takes part only where it accepts the cgroup layout, so the layout is mended first where that is possible. */
function crunWorks(): string | undefined {
  mountHugetlb();
  return program('crun');
}

function cniPlugins(names: readonly string[]): string | undefined {
  const absent = names.filter((name) => !CNI_BIN_DIRS.some((dir) => isExecutable(join(dir, name))));
  return absent.length === 0 ? undefined : `CNI plugins are not installed: ${absent.join(', ')}`;
}

/** A kind of interface, tried in a namespace that is gone at once. */
function linkKind(words: string): string | undefined {
  const script = 'ip link add p0 type veth peer name p1 && exec ip link add "$@"';
  const result = spawnSync('unshare', ['--net', 'sh', '-c', script, 'sh', ...words.split(' ')], { encoding: 'utf8' });
  if (result.status === 0) return undefined;
  const reason = result.error?.message ?? result.stderr.trim().replace(/\.$/, '');
  const type = /type (\w+)/.exec(words)?.[1] ?? '';
  const name = type === 'vlan' ? '8021q' : type;
  const module = loadable(name) ? '' : `; kernel ${kernelRelease()} has no module ${name}`;
  return `no interface of type ${type}: ${reason}${module}`;
}

/** A file system the kernel has or can load. */
function fileSystem(name: string): string | undefined {
  const known = readFileSync('/proc/filesystems', 'utf8').split(/\s+/);
  if (known.includes(name)) return undefined;
  return loadable(name) ? undefined : `the kernel has no ${name} file system`;
}

function kernelRelease(): string {
  return readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim();
}

function loadable(module: string): boolean {
  try {
    return readFileSync(`/lib/modules/${kernelRelease()}/modules.dep`, 'utf8').includes(`/${module}.ko`);
  } catch {
    return false;
  }
}
