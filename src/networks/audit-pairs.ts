/**
 * The host's ends of a ptp network's pairs beside the records, with their routes. A pair of nobody is told by an address
 * of the network that is routed over it; where another network has addresses of the same subnet nobody can tell.
 */
import type { ResolvedNetwork } from '../cni/network.ts';
import { overlap, parseAddress, type Subnet } from '../ipam/address.ts';
import type { RunProgram } from '../run-program.ts';
import type { Owner, Owners, Suspect } from './audit-finding.ts';
import { type HostLink, hostEnds, removeLink, removeRoute, routeTo } from './host-links.ts';
import { subnetsOf } from './network-subnets.ts';

/** True when a network has pairs that stand alone. */
export function hasPairs({ plugins }: ResolvedNetwork): boolean {
  return plugins.some(({ type }) => type === 'ptp');
}

/** Pairs and routes without an owner, and owners whose pair or route is missing. */
export function auditPairs(
  owners: Owners,
  others: readonly ResolvedNetwork[],
  { links, run }: { readonly links: readonly HostLink[]; readonly run: RunProgram | undefined },
): Suspect[] {
  if (!hasPairs(owners.network)) return [];
  const added = owners.owners.filter(({ entry, stale }) => entry.state === 'added' && !stale);
  const absent = added.flatMap((owner) => lost(owner, links, run));
  const subnets = subnetsOf(owners.network);
  if (!owners.certain || others.some((other) => meet(subnetsOf(other), subnets))) return absent;
  return [...absent, ...strays(owners, { links, subnets, run })];
}

/** What an attachment lacks: its end of the pair, or the way to one of its addresses. */
function lost(owner: Owner, links: readonly HostLink[], run: RunProgram | undefined): Suspect[] {
  const { containerId, entry } = owner;
  const about = { network: entry.network.name, containerId, missing: true } as const;
  return hostEnds(entry.result).flatMap((end): Suspect[] => {
    const link = links.find(({ name }) => name === end);
    if (link === undefined) {
      const detail = 'is gone: disconnect and connect the container, or start it again';
      return [{ ...about, kind: 'interface', name: end, detail }];
    }
    return waysOf(owner)
      .filter(({ address, gateway }) => !link.routes.includes(address) || !link.addresses.includes(gateway))
      .map((way) => ({
        ...about,
        ...{ kind: 'route', name: way.address, detail: `the host has no way to it over ${end}` },
        repair: (signal) => routeTo(end, way, owner, { run, signal }),
      }));
  });
}

/** Addresses of an attachment with their gateways, which are the host's addresses. */
function waysOf({ entry, addresses }: Owner): { readonly address: string; readonly gateway: string }[] {
  return addresses.flatMap((cidr) => {
    const gateway = entry.result?.ips?.find((ip) => ip.address === cidr)?.gateway;
    return gateway ? [{ address: cidr.split('/')[0] ?? '', gateway }] : [];
  });
}

interface Host {
  readonly links: readonly HostLink[];
  readonly subnets: readonly Subnet[];
  readonly run: RunProgram | undefined;
}

/** Ends of nobody, and routes over ends of somebody to addresses of nobody. */
function strays({ network, owners, elsewhere }: Owners, { links, subnets, run }: Host): Suspect[] {
  const known = new Set(owners.flatMap(({ entry }) => hostEnds(entry.result)));
  const held = new Set(owners.flatMap(({ addresses }) => addresses.map((cidr) => cidr.split('/')[0] ?? '')));
  const shared = elsewhere.size > 0;
  const about = { network: network.name, containerId: '', missing: false } as const;
  return links.flatMap(({ name, master, routes }): Suspect[] => {
    const here = routes.filter((address) => lies(address, subnets));
    if (master !== '' || here.length === 0) return [];
    if (!known.has(name)) {
      const detail = `leads to ${here.join(', ')}, and no attachment has it`;
      const suspect = { ...about, kind: 'interface', name, detail } as const;
      return shared ? [suspect] : [{ ...suspect, repair: (signal) => removeLink(name, { run, signal }) }];
    }
    return here
      .filter((address) => !held.has(address))
      .map((address) => ({
        ...about,
        ...{ kind: 'route', name: address, detail: `leads over ${name} to an address that no attachment has` },
        repair: (signal) => removeRoute(name, address, { run, signal }),
      }));
  });
}

function lies(text: string, subnets: readonly Subnet[]): boolean {
  const address = parseAddress(text);
  if (address === undefined) return false;
  const { family, value } = address;
  return subnets.some((subnet) => subnet.family === family && subnet.first <= value && value <= subnet.last);
}

function meet(ours: readonly Subnet[], theirs: readonly Subnet[]): boolean {
  return ours.some((one) => theirs.some((other) => one.family === other.family && overlap(one, other)));
}
