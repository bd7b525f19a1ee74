/**
 * The masquerading rules that bridge and ptp make for a container with `ipMasq`, rule for rule as they make them, so that
 * their DEL finds them. Their ADD cannot be run again for an interface that is there; these rules can be made again
 * without it. nft-masquerade.ts has those of nftables. Pure.
 */
import type { ResolvedNetwork } from '../cni/network.ts';
import { type Family, parseAddressOrCidr, parseSubnet } from '../ipam/address.ts';
import { type HostRule, ownChainName } from './host-rules.ts';
import { formatSubnet } from './subnet-choice.ts';

/** What a container has on a network. */
export interface RuleOwner {
  readonly containerId: string;
  readonly network: ResolvedNetwork;
  /** "10.86.0.5/16" */
  readonly addresses: readonly string[];
}

const MAKERS: ReadonlySet<unknown> = new Set(['bridge', 'ptp']);
const MULTICAST: Readonly<Record<Family, string>> = { 4: '224.0.0.0/4', 6: 'ff00::/8' };

/** What a plugin of the chain masquerades with; undefined when none does. */
export function masqueradeBackend({ plugins }: ResolvedNetwork): 'iptables' | 'nftables' | undefined {
  const maker = plugins.find((plugin) => MAKERS.has(plugin['type']) && plugin['ipMasq'] === true);
  if (maker === undefined) return undefined;
  return maker['ipMasqBackend'] === 'nftables' ? 'nftables' : 'iptables';
}

/** Rules of one family: those in the attachment's own chain, in their order, and those that lead there. */
export interface MasqueradeRules {
  readonly family: Family;
  readonly chain: string;
  readonly inside: readonly string[];
  readonly outside: readonly string[];
}

/** The rules an attachment has, one entry for each family it has an address of. */
export function masqueradeRules({ containerId, network, addresses }: RuleOwner): MasqueradeRules[] {
  if (masqueradeBackend(network) !== 'iptables') return [];
  const chain = ownChainName('CNI-', network.name, containerId);
  const comment = `-m comment --comment "name: \\"${network.name}\\" id: \\"${containerId}\\""`;
  const families: readonly Family[] = [4, 6];
  return families.flatMap((family) => {
    const own = addresses.filter((address) => parseAddressOrCidr(address)?.family === family);
    if (own.length === 0) return [];
    const inside = own.flatMap((address) => {
      const subnet = parseSubnet(address);
      return subnet === undefined
        ? []
        : [
            `-A ${chain} -d ${formatSubnet(subnet)} ${comment} -j ACCEPT`,
            `-A ${chain} ! -d ${MULTICAST[family]} ${comment} -j MASQUERADE`,
          ];
    });
    const host = (address: string): string => `${address.split('/')[0] ?? ''}/${family === 4 ? 32 : 128}`;
    const outside = own.map((address) => `-A POSTROUTING -s ${host(address)} ${comment} -j ${chain}`);
    return [{ family, chain, inside: [...new Set(inside)], outside }];
  });
}

/** Lines that make what is missing; empty when all is there. */
export function missingLines(wanted: MasqueradeRules, present: readonly HostRule[]): string[] {
  const { family, chain, inside, outside } = wanted;
  const nat = present.filter((rule) => rule.table === 'nat' && rule.family === family);
  const there = nat.filter((rule) => rule.chain === chain && rule.rule !== '').map(({ rule }) => rule);
  const whole = there.length === inside.length && there.every((rule, index) => rule === inside[index]);
  const absent = outside.filter((line) => !nat.some(({ rule }) => rule === line));
  // A chain that is declared is emptied: its rules have an order.
  return [...(whole ? [] : [`:${chain} - [0:0]`, ...inside]), ...absent];
}
