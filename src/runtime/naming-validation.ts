/** Checks what a request says about names: whatever passes is one word of a line of hosts or resolv.conf (K20). */
import { isIP } from 'node:net';
import { isHostName, isResolverOption, isSearchDomain, MAX_NAMESERVERS } from '../dns-words.ts';
import { invalid } from '../errors.ts';
import { type ContainerSpec, HOST_GATEWAY, type Naming } from './container.ts';

const MAX_ALIASES = 32;
const MAX_SEARCH_DOMAINS = 32;
const MAX_OPTIONS = 32;
const MAX_EXTRA_HOSTS = 256;

/** @throws {RuntimeError} INVALID_ARGUMENT naming the flag and the reason */
export function checkNaming({ naming, network }: Pick<ContainerSpec, 'naming' | 'network'>): void {
  if (naming === undefined) return;
  checkWords('network-alias', naming.aliases, MAX_ALIASES, isHostName);
  if (naming.aliases.length > 0 && typeof network === 'string') {
    throw invalid('network-alias', `names belong to networks, there is none with "${network}"`);
  }
  const local = naming.aliases.find((alias) => alias.toLowerCase() === 'localhost');
  if (local !== undefined) throw invalid('network-alias', `"${local}" is everybody's own name`);
  checkDns(naming);
  checkExtraHosts(naming, network);
}

function checkDns({ dnsServers, dnsSearch, dnsOptions }: Naming): void {
  checkWords('dns', dnsServers, MAX_NAMESERVERS, (server) => isIP(server) !== 0 && !server.includes('%'));
  checkWords('dns-search', dnsSearch, MAX_SEARCH_DOMAINS, isSearchDomain);
  checkWords('dns-option', dnsOptions, MAX_OPTIONS, isResolverOption);
  if (dnsSearch.includes('.') && dnsSearch.length > 1) {
    throw invalid('dns-search', '"." means to search nowhere and goes with no other domain');
  }
}

function checkExtraHosts({ extraHosts }: Naming, network: ContainerSpec['network']): void {
  if (extraHosts.length > MAX_EXTRA_HOSTS) throw invalid('add-host', `more than ${MAX_EXTRA_HOSTS} names`);
  for (const { name, address } of extraHosts) {
    if (!isHostName(name)) throw invalid('add-host', `${quoted(name)} is no name of a host`);
    if (address === HOST_GATEWAY) {
      if (network === 'none') throw invalid('add-host', `"${HOST_GATEWAY}" needs a network, not "none"`);
    } else if (isIP(address) === 0 || address.includes('%')) {
      throw invalid('add-host', `${quoted(address)} is no IP address, nor "${HOST_GATEWAY}"`);
    }
  }
}

/** What a word is not, by its field. */
const WORDS: Readonly<Record<string, string>> = {
  dns: 'no IP address of a name server',
  'dns-search': 'no domain such as "lan.example"',
  'dns-option': 'no resolver option such as "ndots:2"',
  'network-alias': 'no name of a host: use letters, digits, "-", "_" and "."',
};

function checkWords(field: string, words: readonly string[], most: number, fits: (word: string) => boolean): void {
  if (words.length > most) throw invalid(field, `${words.length} of them, at most ${most} are used`);
  const bad = words.find((word) => !fits(word));
  if (bad !== undefined) throw invalid(field, `${quoted(bad)} is ${WORDS[field] ?? 'not allowed'}`);
}

/** The text as JSON, cut short: safe for logs and terminals. */
function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
}
