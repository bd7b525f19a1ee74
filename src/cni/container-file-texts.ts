/**
 * What stands in a container's /etc/hosts, /etc/hostname and /etc/resolv.conf. With the host's network these are the
 * host's own words; with no network the container knows itself and localhost; with networks it has the addresses and
 * the resolver settings that ADD gave, and the names of its peers (network-names.ts). What the request says about names
 * comes before all of these. It was validated with the request.
 *
 *   hosts   localhost, own addresses, --add-host, peers
 */
import { readFileSync } from 'node:fs';
import { RuntimeError, systemCode } from '../errors.ts';
import { type ContainerRecord, HOST_GATEWAY, type Naming } from '../runtime/container.ts';
import type { ContainerFile } from './container-files.ts';
import type { NetworkRecord, RecordedNames } from './network-record.ts';
import { statusOf } from './network-status.ts';
import { hostDns, mergeDns, parseResolvConf, resolvConf } from './resolver.ts';

/** Texts by file name; a missing one is not known yet. */
export type FileTexts = Readonly<Partial<Record<ContainerFile, string>>>;

/** A container at one of its addresses, as others find it. Each stands in the files of many, so its line is made once. */
export interface Peer {
  readonly containerId: string;
  readonly address: string;
  readonly names: readonly string[];
  /** The names as they are compared: names of hosts have no case. */
  readonly keys: readonly string[];
  readonly line: string;
}

/** See {@link Peer}. */
export function peerOf(containerId: string, address: string, names: readonly string[]): Peer {
  return {
    containerId,
    address,
    names,
    keys: names.map((name) => name.toLowerCase()),
    line: hostsLine(address, names),
  };
}

const LOOPBACK_LINES: readonly string[] = [
  '127.0.0.1\tlocalhost',
  '::1\tlocalhost ip6-localhost ip6-loopback',
  'ff02::1\tip6-allnodes',
  'ff02::2\tip6-allrouters',
];
const LOOPBACK_NAMES: readonly string[] = LOOPBACK_LINES.flatMap((line) => line.split(/\s/).slice(1));
/** A loopback address of one's own: the host name resolves also where there is no network (as in Debian). */
const OWN_LOOPBACK = '127.0.1.1';
/** With the host's network the host is where the container is. */
const HOST_LOOPBACK = '127.0.0.1';

/** The host name a container sees: the one asked for, else the first 12 digits of its id. */
export function hostnameOf(container: ContainerRecord): string {
  return container.spec.hostname ?? container.id.slice(0, 12);
}

/** The names to record for a run. */
export function namesOf(container: ContainerRecord): RecordedNames {
  const { name, naming } = container.spec;
  return { hostname: hostnameOf(container), name, ...(naming === undefined ? {} : { naming }) };
}

/** What is known before any network is attached. */
export function initialTexts(container: ContainerRecord): FileTexts {
  const names = namesOf(container);
  const hostname = `${names.hostname}\n`;
  const own = hostsLine(OWN_LOOPBACK, ownNames(names));
  switch (container.spec.network) {
    case 'host':
      return {
        hostname,
        hosts: text([hostText('/etc/hosts').trimEnd(), own, ...extraLines(names, HOST_LOOPBACK)]),
        'resolv.conf': hostResolvConf(names.naming),
      };
    case 'none':
      return {
        hostname,
        hosts: text([...LOOPBACK_LINES, own, ...extraLines(names, undefined)]),
        'resolv.conf': resolvConf(mergeDns([], undefined, names.naming), '# this container has no network\n'),
      };
    default:
      return { hostname };
  }
}

/**
 * What is known once every network is attached.
 * @throws {RuntimeError} INVALID_ARGUMENT when a result holds resolver settings that are none, FAILED_PRECONDITION when
 * the host's gateway is asked for and no network has one
 */
export function attachedTexts(record: NetworkRecord, peers: readonly Peer[]): FileTexts {
  const naming = record.names?.naming;
  const wanted = naming?.extraHosts.find(({ address }) => address === HOST_GATEWAY);
  if (wanted !== undefined && gatewayOf(record) === undefined) {
    throw new RuntimeError(
      'FAILED_PRECONDITION',
      `add-host: no network of the container has a gateway to be ${wanted.name}`,
    );
  }
  const dns = record.attachments.flatMap(({ result }) => (result?.dns == null ? [] : [result.dns]));
  return { hosts: hostsText(record, peers), 'resolv.conf': resolvConf(mergeDns(dns, hostDns(), naming)) };
}

/** The hosts file of a container with networks. */
export function hostsText(record: NetworkRecord, peers: readonly Peer[]): string {
  const names = record.names ?? { hostname: '', name: '' };
  const addresses = statusOf(record).flatMap((status) => status.addresses.map((cidr) => cidr.split('/')[0] ?? cidr));
  // A container may have been taken off its last network while it runs.
  const own = addresses.length === 0 ? [OWN_LOOPBACK] : addresses;
  const all = [...new Set([...ownNames(names), ...(names.naming?.aliases ?? [])])];
  return text([
    ...LOOPBACK_LINES,
    ...own.map((address) => hostsLine(address, all)),
    ...extraLines(names, gatewayOf(record)),
    ...peerLines(names, peers),
  ]);
}

/** Peers under the names that mean nobody else here: what one is called cannot take the place of localhost. */
function peerLines(names: RecordedNames, peers: readonly Peer[]): readonly string[] {
  const given = names.naming?.extraHosts.map(({ name }) => name) ?? [];
  const taken = new Set([...LOOPBACK_NAMES, ...ownNames(names), ...given].map((name) => name.toLowerCase()));
  return peers.flatMap(({ address, names: called, keys, line }) => {
    if (!keys.some((key) => taken.has(key))) return line;
    const free = called.filter((_, index) => !taken.has(keys[index] ?? ''));
    return free.length === 0 ? [] : hostsLine(address, free);
  });
}

function extraLines({ naming }: RecordedNames, gateway: string | undefined): readonly string[] {
  return (naming?.extraHosts ?? []).flatMap(({ name, address }) => {
    const real = address === HOST_GATEWAY ? gateway : address;
    return real === undefined ? [] : [hostsLine(real, [name])];
  });
}

function gatewayOf(record: NetworkRecord): string | undefined {
  return statusOf(record).flatMap(({ gateways }) => gateways)[0];
}

function ownNames({ hostname, name }: RecordedNames): readonly string[] {
  return [...new Set([hostname, name])].filter((word) => word !== '');
}

/** The host's own file, as far as the request does not say otherwise. */
function hostResolvConf(naming: Naming | undefined): string {
  const own = hostText('/etc/resolv.conf');
  const silent = naming === undefined || [naming.dnsServers, naming.dnsSearch, naming.dnsOptions].every(isEmpty);
  if (silent) return own;
  const host = parseResolvConf(own);
  const { dnsServers, dnsSearch, dnsOptions } = naming;
  return resolvConf({
    nameservers: isEmpty(dnsServers) ? host.nameservers : dnsServers,
    search: isEmpty(dnsSearch) ? host.search : dnsSearch.filter((domain) => domain !== '.'),
    options: isEmpty(dnsOptions) ? host.options : dnsOptions,
  });
}

function isEmpty(list: readonly string[]): boolean {
  return list.length === 0;
}

function hostsLine(address: string, names: readonly string[]): string {
  return `${address}\t${names.join(' ')}`;
}

function text(lines: readonly string[]): string {
  return `${lines.join('\n')}\n`;
}

function hostText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return '';
    throw RuntimeError.from(error, `read ${path}`);
  }
}
