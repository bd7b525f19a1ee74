/** Which subnets a network to be created gets: those asked for, checked, or free ones. Pure, but for random bytes. */
import { randomBytes } from 'node:crypto';
import { invalid, RuntimeError } from '../errors.ts';
import {
  type Family,
  formatAddress,
  hostBits,
  overlap,
  parseAddress,
  parseSubnet,
  type Subnet,
} from '../ipam/address.ts';

/** A subnet somebody has, with the name it is refused by: "network front", "a route of this host". */
export interface TakenSubnet {
  readonly subnet: Subnet;
  readonly holder: string;
}

/** Bits of a subnet that is chosen from a pool. */
const CHOSEN_PREFIX = 24;
const TRIES = 64;
/** Where no network can be: this host, multicast, addresses of one link. */
const UNUSABLE: readonly Subnet[] = [
  '0.0.0.0/8',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/3',
  '::/8',
  'fe80::/9',
  'ff00::/8',
]
  .map(parseSubnet)
  .filter((subnet) => subnet !== undefined);

/**
 * A subnet as people write it: the network's own address with its prefix length.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the reason
 */
export function subnetOf(field: string, text: string): Subnet {
  const subnet = parseSubnet(text);
  const shown = JSON.stringify(text.slice(0, 64));
  if (subnet === undefined) throw invalid(field, `${shown} is no subnet such as "10.90.1.0/24"`);
  if (parseAddress(text.split('/')[0] ?? '')?.value !== subnet.first) {
    throw invalid(field, `${shown} is an address inside ${formatSubnet(subnet)}: name the subnet`);
  }
  if (hostBits(subnet) < 2) throw invalid(field, `${shown} has no room for a gateway and a container`);
  if (UNUSABLE.some((other) => meets(subnet, other))) throw invalid(field, `${shown} is not for networks`);
  return subnet;
}

/** "10.90.1.0/24" */
export function formatSubnet({ family, first, prefix }: Subnet): string {
  return `${formatAddress({ family, value: first })}/${prefix}`;
}

/** True when two subnets share an address. */
export function meets(one: Subnet, other: Subnet): boolean {
  return one.family === other.family && overlap(one, other);
}

/** @throws {RuntimeError} FAILED_PRECONDITION naming who has it */
export function refuseTaken(field: string, subnet: Subnet, taken: readonly TakenSubnet[]): void {
  const rival = taken.find((other) => meets(subnet, other.subnet));
  if (rival === undefined) return;
  const text = `${field}: ${formatSubnet(subnet)} meets ${formatSubnet(rival.subnet)} of ${rival.holder}`;
  throw new RuntimeError('FAILED_PRECONDITION', text);
}

/**
 * The first free subnet of the pools; a pool smaller than a chosen subnet is one itself.
 * @throws {RuntimeError} RESOURCE_EXHAUSTED when there is none
 */
export function freeSubnet(pools: readonly Subnet[], taken: readonly TakenSubnet[]): Subnet {
  for (const pool of pools) {
    const prefix = Math.max(pool.prefix, CHOSEN_PREFIX);
    const size = 1n << BigInt(hostBits(pool) - (prefix - pool.prefix));
    for (let first = pool.first; first <= pool.last; first += size) {
      const subnet: Subnet = { family: pool.family, prefix, first, last: first + size - 1n };
      if (!taken.some((other) => meets(subnet, other.subnet))) return subnet;
    }
  }
  const text = `subnet: none is free in ${pools.map(formatSubnet).join(', ') || 'no pool'}: name one by --subnet`;
  throw new RuntimeError('RESOURCE_EXHAUSTED', text);
}

/** A free subnet of local addresses: 40 random bits after fd00::/8 (RFC 4193), so that networks of two hosts differ. */
export function freeSubnet6(taken: readonly TakenSubnet[]): Subnet {
  for (let tries = 0; tries < TRIES; tries += 1) {
    const id = randomBytes(5).toString('hex');
    const subnet = parseSubnet(`fd${id.slice(0, 2)}:${id.slice(2, 6)}:${id.slice(6, 10)}::/64`);
    if (subnet !== undefined && !taken.some((other) => meets(subnet, other.subnet))) return subnet;
  }
  throw new RuntimeError('RESOURCE_EXHAUSTED', 'subnet: no IPv6 subnet is free: name one by --subnet');
}

/** The first and last address that something may have: IPv4 keeps both ends, IPv6 the first. */
export function usable({ family, first, last }: Subnet): { readonly first: bigint; readonly last: bigint } {
  return { first: first + 1n, last: family === 4 ? last - 1n : last };
}

export function address(family: Family, value: bigint): string {
  return formatAddress({ family, value });
}
