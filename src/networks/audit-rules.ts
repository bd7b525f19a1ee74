/**
 * The host's packet rules beside the records of one network. A rule tells whose it is by its comment (bridge, ptp,
 * portmap) or by the address of a container (firewall).
 */
import { hasCapability, type ResolvedNetwork, typeOf } from '../cni/network.ts';
import { type Address, parseAddressOrCidr, type Subnet } from '../ipam/address.ts';
import type { RunProgram } from '../run-program.ts';
import { ELSEWHERE, type Owner, type Owners, type Suspect } from './audit-finding.ts';
import { type HostRule, ownChainName, removeRules } from './host-rules.ts';
import { masqueradeRules, missingLines } from './masquerade.ts';
import { subnetsOf } from './network-subnets.ts';

/** The chain of the firewall plugin. */
const FIREWALL_CHAIN = 'CNI-FORWARD';

/** Rules without an owner, and owners without their rules. What is missing has no `repair`: a reload brings it back. */
export function auditRules(owners: Owners, rules: readonly HostRule[], run: RunProgram | undefined): Suspect[] {
  const added = owners.owners.filter(({ entry, stale }) => entry.state === 'added' && !stale);
  return [
    ...marked(owners, rules, run),
    ...(owners.certain ? addressed(owners, rules, run) : []),
    ...added.flatMap((owner) => absent(owner, rules)),
  ];
}

/**
 * Rules that name a container on the network, by container, with those of the chains they belong to. A network of the
 * same name that another daemon has is told by its addresses.
 */
export function rulesNaming(network: ResolvedNetwork, rules: readonly HostRule[]): ReadonlyMap<string, HostRule[]> {
  const subnets = subnetsOf(network);
  const named = Map.groupBy(
    rules.filter((rule) => rule.network === network.name),
    ({ containerId }) => containerId,
  );
  const found = new Map<string, HostRule[]>();
  for (const [containerId, own] of named) {
    const chains = new Set(own.map(({ ownChain }) => ownChain).filter((chain) => chain !== ''));
    const all = rules.filter((rule) => own.includes(rule) || chains.has(rule.ownChain));
    const here = all.some((rule) => addressesIn(rule).some((address) => lies(address, subnets)));
    if (here || subnets.length === 0) found.set(containerId, all);
  }
  return found;
}

/** One finding for each container that rules name and no record. */
function marked(
  { network, ids, elsewhere }: Owners,
  rules: readonly HostRule[],
  run: RunProgram | undefined,
): Suspect[] {
  const strange = [...rulesNaming(network, rules)].filter(([containerId]) => !ids.has(containerId));
  return strange.map(([containerId, all]) => {
    const chains = new Set(all.map(({ ownChain }) => ownChain).filter((chain) => chain !== ''));
    const name = [...chains].join(' ') || (all[0]?.chain ?? '');
    const about = { kind: 'rule', name, network: network.name, containerId, missing: false } as const;
    if (elsewhere.has(containerId)) return { ...about, detail: ELSEWHERE };
    const detail = `${all.length} rules and chains name a container that is not attached`;
    return { ...about, detail, repair: (signal: AbortSignal) => removeRules(all, { run, signal }) };
  });
}

/** Rules of the firewall plugin for addresses of the network that nobody has. */
function addressed(
  { network, owners, elsewhere }: Owners,
  rules: readonly HostRule[],
  run: RunProgram | undefined,
): Suspect[] {
  const subnets = subnetsOf(network);
  const held = new Set(owners.flatMap(({ addresses }) => addresses.map((cidr) => cidr.split('/')[0] ?? '')));
  const strange = rules.flatMap((rule) => {
    const text = rule.chain === FIREWALL_CHAIN ? / -[sd] (\S+)\/(?:32|128) /.exec(rule.rule)?.[1] : undefined;
    const address = text === undefined ? undefined : parseAddressOrCidr(text);
    if (text === undefined || address === undefined || held.has(text)) return [];
    return lies(address, subnets) ? [{ text, rule }] : [];
  });
  return [...new Set(strange.map(({ text }) => text))].map((address) => {
    const all = strange.filter(({ text }) => text === address).map(({ rule }) => rule);
    const name = `${FIREWALL_CHAIN} ${address}`;
    const about = { kind: 'rule', name, network: network.name, containerId: '', missing: false } as const;
    const detail = `${all.length} rules for an address that no attachment has`;
    if (elsewhere.size > 0) return { ...about, detail: `${detail}; another daemon may use the network` };
    return { ...about, detail, repair: (signal: AbortSignal) => removeRules(all, { run, signal }) };
  });
}

/** Addresses and subnets that a rule names. */
function addressesIn({ rule }: HostRule): Address[] {
  return rule
    .split(' ')
    .flatMap((word) => parseAddressOrCidr(word) ?? parseAddressOrCidr(word.replace(/:\d+$/, '')) ?? []);
}

function lies({ family, value }: Address, subnets: readonly Subnet[]): boolean {
  return subnets.some((subnet) => subnet.family === family && subnet.first <= value && value <= subnet.last);
}

function absent(owner: Owner, rules: readonly HostRule[]): Suspect[] {
  const { containerId, entry, addresses } = owner;
  const about = { kind: 'rule', network: entry.network.name, containerId, missing: true } as const;
  const lacks = [
    ...(lacksMasquerade(owner, rules) ? ['masquerade'] : []),
    ...(lacksPorts(owner, rules) ? ['portmap'] : []),
    ...(addresses.some((address) => lacksFirewall(owner, address, rules)) ? ['firewall'] : []),
  ];
  return lacks.map((name) => ({ ...about, name, detail: 'rules are missing: berth network reload brings them back' }));
}

function lacksMasquerade({ containerId, entry, addresses }: Owner, rules: readonly HostRule[]): boolean {
  const wanted = masqueradeRules({ containerId, network: entry.network, addresses });
  return wanted.some((family) => missingLines(family, rules).length > 0);
}

function lacksPorts({ containerId, entry }: Owner, rules: readonly HostRule[]): boolean {
  const ports = entry.capabilityArgs['portMappings'];
  const wanted = Array.isArray(ports) && ports.length > 0 && hasCapability(entry.network, 'portMappings');
  if (!wanted || !entry.network.plugins.some((plugin) => typeOf(plugin) === 'portmap')) return false;
  const chain = ownChainName('CNI-DN-', entry.network.name, containerId);
  const inside = rules.some((rule) => rule.chain === chain && rule.rule !== '');
  const leads = rules.some((rule) => rule.ownChain === chain && rule.chain !== chain);
  return !inside || !leads;
}

function lacksFirewall({ entry }: Owner, cidr: string, rules: readonly HostRule[]): boolean {
  if (!entry.network.plugins.some((plugin) => typeOf(plugin) === 'firewall' && plugin['backend'] !== 'firewalld')) {
    return false;
  }
  const address = cidr.split('/')[0] ?? '';
  return !rules.some(({ chain, rule }) => chain === FIREWALL_CHAIN && rule.includes(` -s ${address}/`));
}
