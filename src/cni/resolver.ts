/**
 * Text of a container's resolv.conf: what its networks say, else what the host uses. Everything that comes from a
 * plugin or a file is checked word by word, since a line feed in one of them would be a line of the file. Pure, but for
 * reading the host's own file.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { isResolverOption, isSearchDomain, MAX_NAMESERVERS } from '../dns-words.ts';
import { RuntimeError, systemCode } from '../errors.ts';
import type { Naming } from '../runtime/container.ts';
import { type CniDns, printable } from './protocol.ts';

/** Settings of a resolver (resolv.conf(5)). */
export interface Dns {
  readonly nameservers: readonly string[];
  readonly search: readonly string[];
  readonly options: readonly string[];
}

/** The host's own file, and the one of systemd-resolved that names real servers where the first has its stub only. */
const HOST_FILES = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf'] as const;
const MAX_WORDS = 32;

const NONE: Dns = { nameservers: [], search: [], options: [] };

/** What a request says, in place of what networks and host say; empty lists say nothing. */
export type OwnDns = Pick<Naming, 'dnsServers' | 'dnsSearch' | 'dnsOptions'>;

/**
 * The settings a container gets: servers, search domains and options each from the request, else from the networks, in
 * their order and each value once. When neither names a server, the host's are taken, less those on a loopback address,
 * which are not to be reached from a namespace, and what else is missing comes from the host as well.
 * @throws {RuntimeError} INVALID_ARGUMENT when a network's settings hold anything but addresses and names
 */
export function mergeDns(networks: readonly CniDns[], host: Dns | undefined, own?: OwnDns): Dns {
  const given = networks.map(checkedDns);
  const first = (asked: readonly string[] | undefined, key: keyof Dns): readonly string[] =>
    asked === undefined || asked.length === 0 ? distinct(given.flatMap((dns) => dns[key])) : distinct(asked);
  const merged: Dns = {
    nameservers: first(own?.dnsServers, 'nameservers').slice(0, MAX_NAMESERVERS),
    // Without a line, not with a dot in it: some resolvers take the dot for a name.
    search: first(own?.dnsSearch, 'search').filter((domain) => domain !== '.'),
    options: first(own?.dnsOptions, 'options'),
  };
  if (merged.nameservers.length > 0 || host === undefined) return merged;
  const nowhere = own?.dnsSearch.includes('.') === true;
  return {
    nameservers: host.nameservers.filter((server) => !isLoopback(server)).slice(0, MAX_NAMESERVERS),
    search: merged.search.length > 0 || nowhere ? merged.search : host.search,
    options: merged.options.length > 0 ? merged.options : host.options,
  };
}

/** The lines of a resolv.conf; `empty` when there are none. */
export function resolvConf(dns: Dns, empty = '# no network of this container names a server\n'): string {
  const lines = [
    ...dns.nameservers.map((server) => `nameserver ${server}`),
    ...(dns.search.length === 0 ? [] : [`search ${dns.search.join(' ')}`]),
    ...(dns.options.length === 0 ? [] : [`options ${dns.options.join(' ')}`]),
  ];
  return lines.length === 0 ? empty : `${lines.join('\n')}\n`;
}

/** What the host resolves with now. */
export function hostDns(files: readonly string[] = HOST_FILES): Dns {
  const found = files.map((file) => parseResolvConf(textOf(file)));
  return found.find((dns) => dns.nameservers.some((server) => !isLoopback(server))) ?? found[0] ?? NONE;
}

/** Reads a resolv.conf; words that make no sense are left out, as a resolver would. */
export function parseResolvConf(text: string): Dns {
  const lines = text.split('\n').map((line) => line.trim().split(/\s+/));
  const of = (...keys: string[]) => lines.filter(([key]) => keys.includes(key ?? '')).map(([, ...words]) => words);
  const search = of('search', 'domain').at(-1) ?? [];
  return {
    nameservers: of('nameserver').flatMap(([server = '']) => (isIP(server) === 0 ? [] : [server])),
    search: search.filter(isSearchDomain),
    options: of('options').flat().filter(isResolverOption),
  };
}

function checkedDns(dns: CniDns): Dns {
  const domain = dns.domain == null || dns.domain === '' ? [] : [dns.domain];
  return {
    nameservers: checked('nameserver', dns.nameservers ?? [], (server) => isIP(server) !== 0),
    search: checked('search domain', [...domain, ...(dns.search ?? [])], isSearchDomain),
    options: checked('option', dns.options ?? [], isResolverOption),
  };
}

function checked(what: string, words: readonly string[], fits: (word: string) => boolean): readonly string[] {
  if (words.length > MAX_WORDS) throw new RuntimeError('INVALID_ARGUMENT', `dns: more than ${MAX_WORDS} ${what}s`);
  const bad = words.find((word) => !fits(word));
  if (bad !== undefined) {
    throw new RuntimeError('INVALID_ARGUMENT', `dns: ${JSON.stringify(printable(bad).slice(0, 80))} is no ${what}`);
  }
  return words;
}

function isLoopback(server: string): boolean {
  return server.startsWith('127.') || server === '::1' || server === '0.0.0.0' || server === '::';
}

function distinct(words: readonly string[]): string[] {
  return [...new Set(words)];
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return '';
    throw RuntimeError.from(error, `read ${file}`);
  }
}
