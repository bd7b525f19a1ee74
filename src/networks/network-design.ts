/**
 * From a request for a network to its configuration list. Everything that can be refused is refused here, before
 * anything is written. Has no effects.
 *
 *   bridge    a bridge of the host, masquerading, port mappings; --internal: the bridge alone, no way out
 *   ptp       a pair of interfaces for each container
 *   macvlan   containers on the link of an interface of the host, with hardware addresses of their own
 *   ipvlan    the same with the hardware address of the interface
 */
import { checkInterfaceName } from '../cni/attachment.ts';
import { CNI_NAME, type JsonObject, printable } from '../cni/protocol.ts';
import { invalid } from '../errors.ts';
import { type Family, type Interval, parseAddress, type Subnet } from '../ipam/address.ts';
import {
  address,
  formatSubnet,
  freeSubnet,
  freeSubnet6,
  meets,
  refuseTaken,
  subnetOf,
  type TakenSubnet,
  usable,
} from './subnet-choice.ts';

export const DRIVERS = ['bridge', 'ptp', 'macvlan', 'ipvlan'] as const;
export type Driver = (typeof DRIVERS)[number];

/** What people ask for. */
export interface NetworkRequest {
  readonly name: string;
  /** "bridge" when empty. */
  readonly driver: string;
  /** At most one of each family; a free one is chosen when there is none. */
  readonly subnets: readonly string[];
  readonly gateways: readonly string[];
  readonly ipRanges: readonly string[];
  /** Choose an IPv6 subnet too. */
  readonly ipv6: boolean;
  readonly internal: boolean;
  readonly mtu?: number | undefined;
  /** Interface of the host for macvlan and ipvlan. */
  readonly parent?: string | undefined;
}

/** What the host has that a design must fit. */
export interface Surroundings {
  /** Subnets that subnets are chosen from. */
  readonly pools: readonly Subnet[];
  readonly networks: readonly TakenSubnet[];
  readonly routes: readonly TakenSubnet[];
  /** Directory for host-local's leases. */
  readonly leaseDir: string;
  /** Name of the bridge. */
  readonly bridge: string;
}

/** A request whose words are all good. */
interface Design extends NetworkRequest {
  readonly driver: Driver;
}

const RESERVED: ReadonlySet<string> = new Set(['none', 'host']);
const MIN_MTU = { 4: 68, 6: 1280 } as const;
const MAX_MTU = 65_535;

/**
 * The configuration list of the network.
 * @throws {RuntimeError} INVALID_ARGUMENT, FAILED_PRECONDITION or RESOURCE_EXHAUSTED naming the field
 */
export function designNetwork(request: NetworkRequest, around: Surroundings): JsonObject {
  const design = checked(request);
  const subnets = chooseSubnets(design, around);
  if (design.mtu !== undefined) checkMtu(design.mtu, subnets);
  return {
    cniVersion: '1.0.0',
    name: design.name,
    'io.berth/owned': true,
    // A directory that happens to have the network's name adds nothing to it.
    loadOnlyInlinedPlugins: true,
    plugins: chain(design, ipam(design, subnets, around), around.bridge),
  };
}

/** @throws {RuntimeError} INVALID_ARGUMENT unless it is a plain name */
export function checkNetworkName(name: string): void {
  if (!CNI_NAME.test(name)) throw invalid('name', `${quoted(name)} must match ${CNI_NAME.source}`);
  if (RESERVED.has(name))
    throw invalid('name', `"${name}" means something else: --network ${name} asks for no network of this kind`);
}

function checked(request: NetworkRequest): Design {
  checkNetworkName(request.name);
  const driver = DRIVERS.find((known) => known === (request.driver === '' ? 'bridge' : request.driver));
  if (driver === undefined) throw invalid('driver', `${quoted(request.driver)} is not ${DRIVERS.join(', ')}`);
  const lies = driver === 'macvlan' || driver === 'ipvlan';
  if (lies && request.parent === undefined)
    throw invalid('parent', `${driver} lies on an interface of the host: name it`);
  if (!lies && request.parent !== undefined) throw invalid('parent', `${driver} lies on no interface of the host`);
  if (request.parent !== undefined) checkInterfaceName(request.parent);
  return { ...request, driver };
}

function checkMtu(mtu: number, subnets: readonly Subnet[]): void {
  const least = Math.max(...subnets.map(({ family }) => MIN_MTU[family]));
  if (!Number.isInteger(mtu) || mtu < least || mtu > MAX_MTU)
    throw invalid('mtu', `${mtu} is outside ${least} to ${MAX_MTU}`);
}

function chooseSubnets(design: Design, { pools, networks, routes }: Surroundings): readonly Subnet[] {
  const given = design.subnets.map((text) => subnetOf('subnet', text));
  for (const family of [4, 6] as const) {
    if (given.filter((subnet) => subnet.family === family).length > 1) {
      throw invalid('subnet', `more than one for IPv${family}`);
    }
  }
  // On a link of the host the host's route to it is the very subnet.
  const taken = design.parent === undefined ? [...networks, ...routes] : networks;
  for (const subnet of given) refuseTaken('subnet', subnet, taken);
  const has6 = given.some(({ family }) => family === 6);
  const chosen = given.length > 0 ? given : [freeSubnet(pools, [...networks, ...routes])];
  return design.ipv6 && !has6 ? [...chosen, freeSubnet6([...networks, ...routes])] : chosen;
}

function ipam(design: Design, subnets: readonly Subnet[], { leaseDir }: Surroundings): JsonObject {
  const gateways = assigned('gateway', design.gateways, subnets, gatewayOf);
  const ranges = assigned('ip-range', design.ipRanges, subnets, rangeOf);
  const routes = subnets.map(({ family }) => ({ dst: family === 4 ? '0.0.0.0/0' : '::/0' }));
  return {
    type: 'host-local',
    dataDir: leaseDir,
    ranges: subnets.map((subnet) => {
      const own = { subnet: formatSubnet(subnet), gateway: address(subnet.family, usable(subnet).first) };
      return [{ ...own, ...gateways.get(subnet), ...ranges.get(subnet) }];
    }),
    ...(design.internal ? {} : { routes }),
  };
}

/** What each text means for the subnet it lies in. */
function assigned(
  field: string,
  texts: readonly string[],
  subnets: readonly Subnet[],
  read: (text: string, subnet: Subnet) => JsonObject | undefined,
): ReadonlyMap<Subnet, JsonObject> {
  const found = new Map<Subnet, JsonObject>();
  for (const text of texts) {
    const subnet = subnets.find((candidate) => read(text, candidate) !== undefined);
    const meaning = subnet === undefined ? undefined : read(text, subnet);
    if (subnet === undefined || meaning === undefined) {
      throw invalid(
        field,
        `${quoted(text)} lies in no subnet of the network (${subnets.map(formatSubnet).join(', ')})`,
      );
    }
    if (found.has(subnet)) throw invalid(field, `more than one for ${formatSubnet(subnet)}`);
    found.set(subnet, meaning);
  }
  return found;
}

function gatewayOf(text: string, subnet: Subnet): JsonObject | undefined {
  const gateway = parseAddress(text);
  const { first, last } = usable(subnet);
  if (gateway?.family !== subnet.family || gateway.value < first || gateway.value > last) return undefined;
  return { gateway: address(subnet.family, gateway.value) };
}

function rangeOf(text: string, subnet: Subnet): JsonObject | undefined {
  const range = text.includes('/') ? subnetOfRange(text) : undefined;
  if (range === undefined || !meets(range, subnet) || range.prefix < subnet.prefix) return undefined;
  const ends = usable(subnet);
  if (range.last < ends.first || range.first > ends.last) return undefined;
  const [first, last] = [clamped(range.first, ends), clamped(range.last, ends)];
  return { rangeStart: address(subnet.family, first), rangeEnd: address(subnet.family, last) };
}

function clamped(value: bigint, { first, last }: Interval): bigint {
  if (value < first) return first;
  return value > last ? last : value;
}

/** As a subnet, but it may be small: no gateway need be in it. */
function subnetOfRange(text: string): Subnet | undefined {
  const [start = '', length = ''] = text.split('/');
  const first = parseAddress(start);
  if (first === undefined || !/^\d{1,3}$/.test(length)) return undefined;
  const bits = familyBits(first.family) - Number(length);
  if (bits < 0) return undefined;
  const size = 1n << BigInt(bits);
  if (first.value % size !== 0n) return undefined;
  return { family: first.family, prefix: Number(length), first: first.value, last: first.value + size - 1n };
}

function familyBits(family: Family): number {
  return family === 4 ? 32 : 128;
}

function chain(design: Design, ipamOf: JsonObject, bridge: string): readonly JsonObject[] {
  const { driver, internal, parent, mtu } = design;
  const shared = { ...(mtu === undefined ? {} : { mtu }), ipam: ipamOf };
  const outside = [{ type: 'portmap', capabilities: { portMappings: true } }, { type: 'firewall' }];
  switch (driver) {
    case 'bridge':
      if (internal) return [{ type: 'bridge', bridge, isGateway: false, ipMasq: false, ...shared }];
      return [{ type: 'bridge', bridge, isGateway: true, ipMasq: true, hairpinMode: true, ...shared }, ...outside];
    case 'ptp':
      return internal
        ? [{ type: 'ptp', ipMasq: false, ...shared }]
        : [{ type: 'ptp', ipMasq: true, ...shared }, ...outside];
    case 'macvlan':
      return [{ type: 'macvlan', master: parent, mode: 'bridge', ...shared }];
    case 'ipvlan':
      return [{ type: 'ipvlan', master: parent, mode: 'l2', ...shared }];
  }
}

function quoted(text: string): string {
  return JSON.stringify(printable(text).slice(0, 100));
}
