/**
 * What stands in a container's /etc/hosts, /etc/hostname and /etc/resolv.conf. With the host's network these are the
 * host's own words; with no network the container knows itself and localhost; with networks it has the addresses and
 * the resolver settings that ADD gave. Host name and container name were validated with the request.
 */
import { readFileSync } from 'node:fs';
import { RuntimeError, systemCode } from '../errors.ts';
import type { ContainerRecord } from '../runtime/container.ts';
import type { ContainerFile } from './container-files.ts';
import type { NetworkRecord } from './network-record.ts';
import { statusOf } from './network-status.ts';
import { hostDns, mergeDns, resolvConf } from './resolver.ts';

/** Texts by file name; a missing one is not known yet. */
export type FileTexts = Readonly<Partial<Record<ContainerFile, string>>>;

const LOOPBACK_LINES: readonly string[] = [
  '127.0.0.1\tlocalhost',
  '::1\tlocalhost ip6-localhost ip6-loopback',
  'ff02::1\tip6-allnodes',
  'ff02::2\tip6-allrouters',
];
/** A loopback address of one's own: the host name resolves also where there is no network (as in Debian). */
const OWN_LOOPBACK = '127.0.1.1';

/** The host name a container sees: the one asked for, else the first 12 digits of its id. */
export function hostnameOf(container: ContainerRecord): string {
  return container.spec.hostname ?? container.id.slice(0, 12);
}

/** What is known before any network is attached. */
export function initialTexts(container: ContainerRecord): FileTexts {
  const hostname = `${hostnameOf(container)}\n`;
  const own = hostsLine(OWN_LOOPBACK, container);
  switch (container.spec.network) {
    case 'host':
      return {
        hostname,
        hosts: `${hostText('/etc/hosts').trimEnd()}\n${own}\n`,
        'resolv.conf': hostText('/etc/resolv.conf'),
      };
    case 'none':
      return { hostname, hosts: text([...LOOPBACK_LINES, own]), 'resolv.conf': '# this container has no network\n' };
    default:
      return { hostname };
  }
}

/**
 * What is known once every network is attached.
 * @throws {RuntimeError} INVALID_ARGUMENT when a result holds resolver settings that are none
 */
export function attachedTexts(container: ContainerRecord, record: NetworkRecord): FileTexts {
  const addresses = statusOf(record).flatMap((status) => status.addresses.map((cidr) => cidr.split('/')[0] ?? cidr));
  const dns = record.attachments.flatMap(({ result }) => (result?.dns == null ? [] : [result.dns]));
  // A container may have been taken off its last network while it runs.
  const own = addresses.length === 0 ? [OWN_LOOPBACK] : addresses;
  return {
    hosts: text([...LOOPBACK_LINES, ...own.map((address) => hostsLine(address, container))]),
    'resolv.conf': resolvConf(mergeDns(dns, hostDns())),
  };
}

function hostsLine(address: string, container: ContainerRecord): string {
  const names = new Set([hostnameOf(container), container.spec.name]);
  return `${address}\t${[...names].filter((name) => name !== '').join(' ')}`;
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
