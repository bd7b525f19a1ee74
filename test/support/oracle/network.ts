/** Namespaces, interfaces, firewall rules and address leases of a scope. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { BlockList, isIP } from 'node:net';
import { join } from 'node:path';
import { systemCode } from '../../../src/errors.ts';
import { readMounts } from '../../../src/mountinfo.ts';
import { isInside, list, read, readLink, type Scope } from './scope.ts';

/** Files of named namespaces, mounted or not, and every nsfs mount below our directories. */
export function netnsFiles(scope: Scope): string[] {
  const mounted = readMounts().filter((entry) => entry.fsType === 'nsfs' && isInside(scope, entry.mountPoint));
  const named = scope.dirs.flatMap((dir) => list(join(dir, 'netns')).map((name) => join(dir, 'netns', name)));
  const shared = list('/run/netns').filter((name) => [...scope.ids].some((id) => name.includes(id)));
  return [...mounted.map((entry) => entry.mountPoint), ...named, ...shared.map((name) => join('/run/netns', name))];
}

/** Host ends of veth pairs, and anything else that hangs on our bridges. */
export function interfaces(scope: Scope): string[] {
  return list('/sys/class/net').flatMap((name) => {
    const bridge = readLink(`/sys/class/net/${name}/master`).split('/').at(-1) ?? '';
    return scope.bridges.includes(bridge) ? [`${name} on ${bridge}`] : [];
  });
}

/** A chain of one attachment; names of chains that all attachments share have no hash. */
const HASHED_CHAIN = /\bCNI-(?:[DS]N-)?[0-9a-f]{20,}\b/g;

const TABLES = [
  ['iptables-save', 'nat'],
  ['iptables-save', 'filter'],
  ['ip6tables-save', 'nat'],
  ['ip6tables-save', 'filter'],
] as const;

/**
 * Rules and chains that hold one of our ids or subnets, chain names that plugins make from network and id, and
 * everything in a chain of that kind to which such a rule belongs.
 */
export function rules(scope: Scope): string[] {
  const ours = ruleMatcher(scope);
  return TABLES.flatMap(([program, table]) => {
    const lines = rulesOf(program, table)
      .split('\n')
      .filter((line) => /^(-A|:)/.test(line));
    const chains = new Set(lines.filter(ours).flatMap((line) => line.match(HASHED_CHAIN) ?? []));
    return lines
      .filter((line) => ours(line) || line.match(HASHED_CHAIN)?.some((chain) => chains.has(chain)) === true)
      .map((line) => `${program.startsWith('ip6') ? 'ip6' : 'ip'} ${table} ${line.replace(/ \[\d+:\d+\]$/, '')}`);
  });
}

/** Text of one table; empty where the program is not installed or the kernel has no IPv6, so that no rule can be there. */
function rulesOf(program: string, table: string): string {
  if (program.startsWith('ip6') && list('/proc/sys/net/ipv6').length === 0) return '';
  const result = spawnSync(program, ['-t', table], { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
  if (systemCode(result.error) === 'ENOENT') return '';
  if (result.error !== undefined || result.status !== 0) {
    throw new Error(`${program} -t ${table} failed, rules cannot be counted: ${result.stderr}`, {
      cause: result.error,
    });
  }
  return result.stdout;
}

function ruleMatcher(scope: Scope): (line: string) => boolean {
  const inSubnet = subnetMatcher(scope.subnets);
  const chains = [...scope.ids].flatMap((id) => scope.networks.flatMap((network) => chainNames(network, id)));
  return (line) => {
    if ([...scope.ids].some((id) => line.includes(id))) return true;
    const words = line.replace(/^:/, '').split(/[\s"]+/);
    return words.some((word) => chains.includes(word) || inSubnet(word));
  };
}

/** Names of the chains that the reference plugins make: bridge masquerading ("CNI-") and portmap ("CNI-DN-"). */
function chainNames(network: string, id: string): string[] {
  const hash = createHash('sha512').update(`${network}${id}`).digest('hex');
  return ['CNI-', 'CNI-DN-', 'CNI-SN-'].map((prefix) => `${prefix}${hash}`.slice(0, 28));
}

function subnetMatcher(subnets: readonly string[]): (word: string) => boolean {
  const blocks = new BlockList();
  for (const subnet of subnets) {
    const [address = '', bits = ''] = subnet.split('/');
    blocks.addSubnet(address, Number(bits), isIP(address) === 6 ? 'ipv6' : 'ipv4');
  }
  return (word) => {
    const address = word.split(/[/]|:(?=\d+$)/)[0] ?? '';
    const version = isIP(address);
    return version !== 0 && blocks.check(address, version === 6 ? 'ipv6' : 'ipv4');
  };
}

/** Reserved addresses: host-local keeps one file for each, beside its lock and its last reservation. */
export function leases(scope: Scope): string[] {
  return scope.leaseDirs.flatMap((dir) => {
    if (list(dir).length === 0) return [];
    return readdirSync(dir, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile() && isIP(entry.name.replaceAll('_', ':')) !== 0)
      .map((entry) => join(entry.parentPath, entry.name))
      .map((path) => `${path} of ${read(path).split(/\s+/).join(' ')}`);
  });
}
