/**
 * Ranges and range sets: which addresses there are to give, and which comes next. Pure arithmetic; who holds what is
 * asked of the caller. The words are host-local's:
 *
 *   ranges    [ set, set ]        a container gets one address of each set
 *   set       [ range, range ]    of one family; when the first range is full the next one serves
 *   range     { subnet, rangeStart, rangeEnd, gateway, exclude }
 *
 * Never given: the network's own address, IPv4's address for broadcasts, gateways, and what is excluded.
 */
import { invalid, type RuntimeError } from '../errors.ts';
import {
  type Address,
  type Family,
  formatAddress,
  hostBits,
  type Interval,
  overlap,
  parseAddress,
  parseSubnet,
  type Subnet,
  without,
} from './address.ts';

/** A range as a configuration writes it. */
export interface RangeRequest {
  /** "10.87.30.0/24", without bits of a host. */
  readonly subnet: string;
  /** First and last address to give; those of the whole subnet unless given. */
  readonly rangeStart?: string | undefined;
  readonly rangeEnd?: string | undefined;
  /** The first address of the subnet unless given. */
  readonly gateway?: string | undefined;
  /** Addresses and subnets that are never given. */
  readonly exclude?: readonly string[] | undefined;
}

/** A range, checked. */
export interface AddressRange extends Interval {
  readonly subnet: Subnet;
  readonly gateway: bigint;
}

/** A range set, checked. */
export interface RangeSet {
  readonly family: Family;
  readonly ranges: readonly AddressRange[];
  /** What can be given, in order of preference. */
  readonly free: readonly Interval[];
}

/**
 * Checks range sets.
 * @param exclude holds for all of them
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field ("ipam.ranges[0][1].rangeEnd") and the reason
 */
export function parseRangeSets(sets: readonly (readonly RangeRequest[])[], exclude: readonly string[]): RangeSet[] {
  const everywhere = parseExclusions(exclude, 'ipam.exclude');
  const parsed = sets.map((ranges, index) => parseSet(ranges, everywhere, `ipam.ranges[${index}]`));
  for (const [index, set] of parsed.entries()) {
    const rival = parsed.slice(0, index).find((other) => setsOverlap(other, set));
    if (rival !== undefined) {
      throw invalid(`ipam.ranges[${index}]`, `overlaps ${describeSet(rival)}`);
    }
  }
  return parsed;
}

/** How many addresses a set can give in all. */
export function capacity(set: RangeSet): bigint {
  return set.free.reduce((sum, { first, last }) => sum + last - first + 1n, 0n);
}

/** True when the set can give this very address. */
export function gives(set: RangeSet, { family, value }: Address): boolean {
  return family === set.family && set.free.some((interval) => contains(interval, value));
}

/** The range of a set an address lies in, whether it can be given or not. */
export function rangeWith(set: RangeSet, { family, value }: Address): AddressRange | undefined {
  return family === set.family ? set.ranges.find((range) => contains(range, value)) : undefined;
}

/** Why an address that lies in a range of the set is not given. */
export function whyNever(set: RangeSet, value: bigint): string {
  if (set.ranges.some(({ gateway }) => gateway === value)) return 'is the gateway';
  const own = set.ranges.some(({ subnet }) => subnet.first === value || subnet.last === value);
  return own ? "is the subnet's own" : 'is excluded';
}

/**
 * The next free address, round robin: the search begins behind `after` and comes back to the first one.
 * Takes as many steps as there are taken addresses, at most.
 */
export function nextFree(
  set: RangeSet,
  isTaken: (value: bigint) => boolean,
  after: bigint | undefined,
): bigint | undefined {
  const start = after === undefined ? -1 : set.free.findIndex((interval) => contains(interval, after));
  const current = set.free[start];
  const first = current === undefined || after === undefined ? [] : [{ first: after + 1n, last: current.last }];
  const wrapped = current === undefined || after === undefined ? [] : [{ first: current.first, last: after }];
  const intervals = [...first, ...set.free.slice(start + 1), ...set.free.slice(0, Math.max(start, 0)), ...wrapped];
  for (const interval of intervals) {
    for (let value = interval.first; value <= interval.last; value += 1n) {
      if (!isTaken(value)) return value;
    }
  }
  return undefined;
}

/** "10.87.30.1-10.87.30.254, 10.87.31.10-10.87.31.20" */
export function describeSet(set: RangeSet): string {
  const text = (value: bigint): string => formatAddress({ family: set.family, value });
  return set.ranges.map(({ first, last }) => `${text(first)}-${text(last)}`).join(', ');
}

function parseSet(requests: readonly RangeRequest[], everywhere: readonly Exclusion[], field: string): RangeSet {
  const parsed = requests.map((request, index) => parseRange(request, `${field}[${index}]`));
  const [head] = parsed;
  if (head === undefined) throw invalid(field, 'holds no range');
  const { family } = head.range.subnet;
  for (const [index, { range }] of parsed.entries()) {
    if (range.subnet.family !== family) throw invalid(`${field}[${index}]`, 'IPv4 and IPv6 do not mix in one set');
    if (parsed.slice(0, index).some((other) => overlap(other.range, range))) {
      throw invalid(`${field}[${index}]`, 'overlaps another range of its set');
    }
  }
  const ranges = parsed.map(({ range }) => range);
  const reserved = ranges.flatMap(({ subnet, gateway }) => [
    one(gateway),
    one(subnet.first),
    ...(family === 4 ? [one(subnet.last)] : []),
  ]);
  const excluded = [...everywhere, ...parsed.flatMap(({ exclusions }) => exclusions)].filter(
    (exclusion) => exclusion.family === family,
  );
  return { family, ranges, free: without(ranges, [...reserved, ...excluded]) };
}

interface Exclusion extends Interval {
  readonly family: Family;
}

interface ParsedRange {
  readonly range: AddressRange;
  readonly exclusions: readonly Exclusion[];
}

function parseRange(request: RangeRequest, field: string): ParsedRange {
  const subnet = parseSubnet(request.subnet);
  if (subnet === undefined) throw bad(`${field}.subnet`, request.subnet, 'is no subnet such as 10.1.0.0/16');
  const network = `${formatAddress({ family: subnet.family, value: subnet.first })}/${subnet.prefix}`;
  if (parseAddress(request.subnet.split('/')[0] ?? '')?.value !== subnet.first) {
    throw bad(`${field}.subnet`, request.subnet, `has bits of a host: the network is ${network}`);
  }
  if (hostBits(subnet) < 2) throw bad(`${field}.subnet`, request.subnet, 'is too small to give addresses from');
  const inSubnet = (name: string, text: string | undefined, otherwise: bigint): bigint =>
    text === undefined ? otherwise : valueIn(subnet, network, `${field}.${name}`, text);
  const first = inSubnet('rangeStart', request.rangeStart, subnet.first + 1n);
  const last = inSubnet('rangeEnd', request.rangeEnd, subnet.family === 4 ? subnet.last - 1n : subnet.last);
  if (last < first) throw invalid(`${field}.rangeEnd`, 'comes before rangeStart');
  const gateway = inSubnet('gateway', request.gateway, subnet.first + 1n);
  const exclusions = parseExclusions(request.exclude ?? [], `${field}.exclude`);
  return { range: { subnet, first, last, gateway }, exclusions };
}

function valueIn(subnet: Subnet, network: string, field: string, text: string): bigint {
  const address = parseAddress(text);
  if (address === undefined) throw bad(field, text, 'is no IP address');
  if (address.family !== subnet.family || !contains(subnet, address.value)) {
    throw bad(field, text, `is not in ${network}`);
  }
  return address.value;
}

function parseExclusions(texts: readonly string[], field: string): readonly Exclusion[] {
  return texts.map((text) => {
    const subnet = parseSubnet(text);
    if (subnet !== undefined) return subnet;
    const address = parseAddress(text);
    if (address === undefined) throw bad(field, text, 'is neither an address nor a subnet');
    return { family: address.family, ...one(address.value) };
  });
}

function setsOverlap(one: RangeSet, other: RangeSet): boolean {
  return one.family === other.family && one.ranges.some((range) => other.ranges.some((rival) => overlap(range, rival)));
}

function contains({ first, last }: Interval, value: bigint): boolean {
  return first <= value && value <= last;
}

function one(value: bigint): Interval {
  return { first: value, last: value };
}

function bad(field: string, text: string, reason: string): RuntimeError {
  return invalid(field, `${JSON.stringify(text.slice(0, 80))} ${reason}`);
}
