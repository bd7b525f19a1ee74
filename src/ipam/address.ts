/**
 * Addresses as numbers: text in, arithmetic on bigint, canonical text out. IPv4 and IPv6 are never mixed: an IPv4
 * address in IPv6 form ("::ffff:10.0.0.1") and an address with a zone ("fe80::1%eth0") are no addresses here.
 */
import { isIP } from 'node:net';
import { Address4, Address6 } from 'ip-address';

export type Family = 4 | 6;

/** One address. */
export interface Address {
  readonly family: Family;
  readonly value: bigint;
}

/** A network with its prefix length: "10.87.30.0/24". */
export interface Subnet {
  readonly family: Family;
  /** Bits of the prefix. */
  readonly prefix: number;
  /** The network's own address. */
  readonly first: bigint;
  /** The last address: in IPv4 the one for broadcasts. */
  readonly last: bigint;
}

/** Addresses from `first` to `last`, both included. */
export interface Interval {
  readonly first: bigint;
  readonly last: bigint;
}

const BITS: Readonly<Record<Family, number>> = { 4: 32, 6: 128 };

/** The address a text says; undefined when it says none. */
export function parseAddress(text: string): Address | undefined {
  switch (isIP(text)) {
    case 4:
      return { family: 4, value: new Address4(text).bigInt() };
    case 6:
      return parseAddress6(text);
    default:
      return undefined;
  }
}

function parseAddress6(text: string): Address | undefined {
  if (text.includes('%')) return undefined;
  const address = new Address6(text);
  return address.is4() || isMapped(address.bigInt()) ? undefined : { family: 6, value: address.bigInt() };
}

/** ::ffff:0:0/96 */
function isMapped(value: bigint): boolean {
  return value >> 32n === 0xffffn;
}

/** The address of "10.87.30.5" or "10.87.30.5/24"; undefined when it is neither. */
export function parseAddressOrCidr(text: string): Address | undefined {
  const slash = text.indexOf('/');
  if (slash < 0) return parseAddress(text);
  const address = parseAddress(text.slice(0, slash));
  return address !== undefined && prefixOf(text.slice(slash + 1), address.family) !== undefined ? address : undefined;
}

/** The canonical text of an address. */
export function formatAddress({ family, value }: Address): string {
  return family === 4 ? Address4.fromBigInt(value).correctForm() : Address6.fromBigInt(value).correctForm();
}

/** The subnet an address with a prefix length lies in; undefined when it is none. Bits of a host are cut off. */
export function parseSubnet(text: string): Subnet | undefined {
  const [host = '', length, ...rest] = text.split('/');
  const address = parseAddress(host);
  if (address === undefined || length === undefined || rest.length > 0) return undefined;
  const prefix = prefixOf(length, address.family);
  if (prefix === undefined) return undefined;
  const size = 1n << BigInt(BITS[address.family] - prefix);
  const first = (address.value / size) * size;
  return { family: address.family, prefix, first, last: first + size - 1n };
}

/** How many bits of a subnet are its hosts'. */
export function hostBits({ family, prefix }: Subnet): number {
  return BITS[family] - prefix;
}

function prefixOf(text: string, family: Family): number | undefined {
  return /^(0|[1-9][0-9]{0,2})$/.test(text) && Number(text) <= BITS[family] ? Number(text) : undefined;
}

/** True when two intervals share an address. */
export function overlap(one: Interval, other: Interval): boolean {
  return one.first <= other.last && other.first <= one.last;
}

/** What is left of intervals when others are taken out, in the order of the former. */
export function without(intervals: readonly Interval[], holes: readonly Interval[]): readonly Interval[] {
  return holes.reduce<readonly Interval[]>((left, hole) => left.flatMap((interval) => cut(interval, hole)), intervals);
}

function cut(interval: Interval, hole: Interval): readonly Interval[] {
  if (!overlap(interval, hole)) return [interval];
  const before = { first: interval.first, last: hole.first - 1n };
  const after = { first: hole.last + 1n, last: interval.last };
  return [before, after].filter(({ first, last }) => first <= last);
}
