/**
 * The gate for container requests: every field is checked before anything is recorded or done. What passes here is
 * safe to use as an argument, a path below a container's root, a host name or a record. Facts only the host knows
 * (does the network exist?) are the isolators' to check.
 */
import { isIP } from 'node:net';
import { availableParallelism } from 'node:os';
import { posix } from 'node:path';
import { parseAccount } from '../account.ts';
import { invalid } from '../errors.ts';
import type { ContainerSpec, MountRequest, PortMapping, Resources } from './container.ts';
import { checkNaming } from './naming-validation.ts';

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
const ID = /^[0-9a-f]{32}$/;
const HOST_LABEL = /^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/;
const ENV_KEY = /^[^=\0]+$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

/** Kernel limit of one argument or environment string (MAX_ARG_STRLEN), its NUL included. */
const MAX_STRING_BYTES = 131_072;
/** Kernel limit of all of them is a quarter of the stack limit; this leaves room for the pointers. */
const MAX_STRINGS_BYTES = 1_536 * 1024;
const MAX_LABELS_BYTES = 256 * 1024;
/** Below this a container cannot even start its first process. */
const MIN_MEMORY_BYTES = 6 * 1024 * 1024;
const MIN_CPU_MILLIS = 10;
const MAX_PIDS = 4_194_304;
const MAX_NETWORKS = 16;
const MAX_MOUNTS = 256;
const MAX_PORTS = 1024;
/** Nodes every container has: a device request may not replace them. */
const STANDARD_DEVICES: ReadonlySet<string> = new Set(
  [
    'null',
    'zero',
    'full',
    'random',
    'urandom',
    'tty',
    'console',
    'ptmx',
    'fd',
    'stdin',
    'stdout',
    'stderr',
    'core',
  ].map((name) => `/dev/${name}`),
);
const PSEUDO_ROOTS = ['/proc', '/sys', '/dev'] as const;

/**
 * Checks every field and returns the request in its normal form (capability names in upper case without CAP_).
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field and the reason
 */
export function validateSpec(spec: ContainerSpec): ContainerSpec {
  checkName('name', spec.name);
  checkText('image', spec.image, 1024);
  checkStrings('command', spec.command);
  if (spec.entrypoint !== undefined) checkStrings('entrypoint', spec.entrypoint);
  checkEnv(spec.env);
  checkLabels(spec.labels);
  checkResources(spec.resources);
  checkNetwork(spec);
  checkPorts(spec.ports);
  checkNaming(spec);
  checkMounts(spec);
  return {
    ...spec,
    ...(spec.workingDir === undefined ? {} : { workingDir: checkWorkingDir(spec.workingDir) }),
    ...(spec.user === undefined ? {} : { user: checkUser(spec.user) }),
    ...(spec.hostname === undefined ? {} : { hostname: checkHostname(spec.hostname) }),
    ...(spec.seccompProfile === undefined ? {} : { seccompProfile: checkSeccompProfile(spec.seccompProfile) }),
    capAdd: spec.capAdd.map((name) => capability('cap-add', name)),
    capDrop: spec.capDrop.map((name) => capability('cap-drop', name)),
  };
}

/** A container name: what may stand in a table, a host name or a log line. */
export function checkName(field: string, name: string): void {
  if (!NAME.test(name)) throw invalid(field, `${quoted(name)} must match ${NAME.source}`);
  if (ID.test(name)) throw invalid(field, `${quoted(name)} looks like a container id`);
}

/** The working directory of a process in its normal form: never inside a pseudo file system (CVE-2024-21626). */
export function checkWorkingDir(path: string): string {
  const normal = checkPath('workdir', path);
  const root = PSEUDO_ROOTS.find((pseudo) => normal === pseudo || normal.startsWith(`${pseudo}/`));
  if (root !== undefined) throw invalid('workdir', `${quoted(path)} lies in ${root}, which is no place to work in`);
  return normal;
}

/** "uid[:gid]" or "name[:group]", numbers from 0 to 2^31 - 2 in plain decimal. */
export function checkUser(user: string): string {
  parseAccount('user', user);
  return user;
}

/** A host name as RFC 1123 has it, at most 64 bytes (the kernel's limit). */
export function checkHostname(hostname: string): string {
  const valid = hostname.length <= 64 && hostname.split('.').every((label) => HOST_LABEL.test(label));
  if (!valid) throw invalid('hostname', `${quoted(hostname)} must be dot-separated labels of letters, digits and "-"`);
  return hostname;
}

function checkSeccompProfile(profile: string): string {
  if (profile === 'unconfined') return profile;
  if (profile === '')
    throw invalid('seccomp', 'an empty profile would mean no filter: say "unconfined" if you mean it');
  return checkPath('seccomp', profile);
}

function capability(field: string, name: string): string {
  const short = name.toUpperCase().replace(/^CAP_/, '');
  if (!/^[A-Z][A-Z0-9_]{1,31}$/.test(short)) throw invalid(field, `${quoted(name)} is no capability name`);
  return short;
}

function checkStrings(field: string, list: readonly string[]): void {
  let totalBytes = 0;
  for (const text of list) {
    if (text.includes('\0')) throw invalid(field, 'a NUL byte cannot be passed to a program');
    const bytes = Buffer.byteLength(text) + 1;
    if (bytes > MAX_STRING_BYTES) throw invalid(field, `a string of ${bytes} bytes is longer than the kernel takes`);
    totalBytes += bytes;
  }
  if (totalBytes > MAX_STRINGS_BYTES) throw invalid(field, `${totalBytes} bytes are more than the kernel takes`);
}

function checkEnv(env: readonly string[]): void {
  checkStrings('env', env);
  for (const entry of env) {
    const split = entry.indexOf('=');
    const key = entry.slice(0, Math.max(split, 0));
    if (split < 1 || !ENV_KEY.test(key)) throw invalid('env', `${quoted(entry.slice(0, 64))} must be KEY=value`);
  }
}

function checkLabels(labels: Readonly<Record<string, string>>): void {
  let totalBytes = 0;
  for (const [key, value] of Object.entries(labels)) {
    if (key === '' || CONTROL.test(key))
      throw invalid('label', `key ${quoted(key)} is empty or has control characters`);
    if (value.includes('\0')) throw invalid('label', `the value of ${quoted(key)} has a NUL byte`);
    totalBytes += Buffer.byteLength(key) + Buffer.byteLength(value);
  }
  if (totalBytes > MAX_LABELS_BYTES) {
    throw invalid('label', `labels of ${totalBytes} bytes, at most ${MAX_LABELS_BYTES} are kept`);
  }
}

function checkResources(resources: Resources): void {
  const maxCpuMillis = availableParallelism() * 1000;
  checkRange('memory', resources.memoryBytes, MIN_MEMORY_BYTES, Number.MAX_SAFE_INTEGER, 'bytes');
  checkRange('cpus', resources.cpuMillis, MIN_CPU_MILLIS, maxCpuMillis, 'thousandths of a CPU');
  checkRange('pids-limit', resources.pidsLimit, 1, MAX_PIDS, 'processes');
}

function checkRange(field: string, value: number | undefined, min: number, max: number, unit: string): void {
  if (value === undefined) return;
  if (!Number.isSafeInteger(value) || value < min || value > max) {
    throw invalid(field, `${value} is outside ${min} to ${max} ${unit}`);
  }
}

function checkNetwork(spec: ContainerSpec): void {
  const { network, ports } = spec;
  if (network === 'none' || network === 'host') {
    if (ports.length > 0) throw invalid('publish', `port mappings need a network, not "${network}"`);
    return;
  }
  if (network.length === 0) throw invalid('network', 'the list is empty: say "none" for no network');
  if (network.length > MAX_NETWORKS) throw invalid('network', `more than ${MAX_NETWORKS} networks`);
  for (const name of network) {
    if (name === 'none' || name === 'host') throw invalid('network', `"${name}" goes with no other network`);
    if (!NAME.test(name)) throw invalid('network', `${quoted(name)} must match ${NAME.source}`);
  }
  const twice = network.find((name, index) => network.indexOf(name) < index);
  if (twice !== undefined) throw invalid('network', `${quoted(twice)} is named twice`);
}

function checkPorts(ports: readonly PortMapping[]): void {
  if (ports.length > MAX_PORTS) throw invalid('publish', `more than ${MAX_PORTS} port mappings`);
  const seen = new Set<string>();
  for (const port of ports) {
    checkRange('publish', port.hostPort, 1, 65_535, 'as a host port');
    checkRange('publish', port.containerPort, 1, 65_535, 'as a container port');
    if (port.hostIp !== undefined && isIP(port.hostIp) === 0) {
      throw invalid('publish', `${quoted(port.hostIp)} is no IP address`);
    }
    const key = `${port.hostIp ?? ''}|${port.hostPort}|${port.protocol}`;
    if (seen.has(key)) throw invalid('publish', `host port ${port.hostPort}/${port.protocol} is named twice`);
    seen.add(key);
  }
}

function checkMounts(spec: ContainerSpec): void {
  if (spec.mounts.length + spec.devices.length > MAX_MOUNTS) throw invalid('volume', `more than ${MAX_MOUNTS} mounts`);
  const seen = new Set<string>();
  for (const mount of spec.mounts) {
    checkMountSource(mount);
    const target = checkPath('volume', mount.target);
    if (target === '/') throw invalid('volume', 'a mount cannot replace the root "/"');
    if (target !== mount.target) throw invalid('volume', `${quoted(mount.target)} is not in normal form: ${target}`);
    // Below /dev there is room for mounts (/dev/shm), below the other two there is not.
    const covered = PSEUDO_ROOTS.find((dir) => target === dir || (dir !== '/dev' && target.startsWith(`${dir}/`)));
    if (covered !== undefined) throw invalid('volume', `a mount cannot cover ${covered}: ${quoted(target)}`);
    once(seen, 'volume', target);
  }
  for (const device of spec.devices) {
    if (!NAME.test(device.volume)) throw invalid('device', `volume ${quoted(device.volume)} must match ${NAME.source}`);
    const path = checkPath('device', device.path);
    if (!path.startsWith('/dev/') || path !== device.path || STANDARD_DEVICES.has(path)) {
      throw invalid('device', `${quoted(device.path)} must be a new name in /dev`);
    }
    once(seen, 'device', path);
  }
}

function checkMountSource(mount: MountRequest): void {
  if (mount.kind === 'bind') checkPath('volume', mount.source);
  else if (!NAME.test(mount.volume)) {
    throw invalid('volume', `volume ${quoted(mount.volume)} must match ${NAME.source}`);
  }
}

function once(seen: Set<string>, field: string, path: string): void {
  if (seen.has(path)) throw invalid(field, `${path} is named twice`);
  seen.add(path);
}

/** An absolute path without control characters, in its normal form. */
function checkPath(field: string, path: string): string {
  checkText(field, path, 4095);
  if (!path.startsWith('/')) throw invalid(field, `${quoted(path)} must be an absolute path`);
  const normal = posix.normalize(path);
  return normal.length > 1 ? normal.replace(/\/$/, '') : normal;
}

function checkText(field: string, text: string, maxBytes: number): void {
  if (text === '') throw invalid(field, 'is empty');
  if (CONTROL.test(text)) throw invalid(field, `${quoted(text)} has control characters`);
  if (Buffer.byteLength(text) > maxBytes) throw invalid(field, `is longer than ${maxBytes} bytes`);
}

/** The text as JSON, cut short: safe for logs and terminals. */
function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
}
