/**
 * What a plugin asks of the allocator: its environment and the configuration it got on stdin (CNI 1.1.0 §4), with
 * host-local's keys. Everything is checked here, before anything is given or taken. Keys nobody knows are passed over.
 */
import type { z } from 'zod';
import { generationOf, isKnownVersion } from '../cni/cni-version.ts';
import { CNI_NAME, type CniRoute, printable } from '../cni/protocol.ts';
import { type Address, parseAddressOrCidr } from './address.ts';
import {
  type GiveBackConfig,
  giveBackSchema,
  type IpamConfig,
  ipamConfigSchema,
  type WrittenRange,
} from './ipam-config.ts';
import { IPAM_CODES, IpamError } from './ipam-error.ts';
import { parseRangeSets, type RangeRequest, type RangeSet } from './range.ts';

const COMMANDS = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS'] as const;

/** A week. */
export const DEFAULT_STICKY_SECONDS = 604_800;

export type IpamCommand = (typeof COMMANDS)[number];

/** A call as it came in: variables by name, and the text of stdin. */
export interface IpamCall {
  readonly variables: ReadonlyMap<string, string>;
  readonly stdin: string;
}

/** Who holds an address: one interface of one container. */
export interface LeaseOwner {
  readonly containerId: string;
  readonly interfaceName: string;
}

/** A call, checked. */
export interface IpamRequest {
  readonly command: IpamCommand;
  readonly cniVersion: string;
  readonly network: string;
  /** Absent for GC and STATUS. */
  readonly owner?: LeaseOwner;
  /** Whose address is kept for the next time: a pod's name where there is one, else the container. */
  readonly workload: string;
  /** Keep addresses for the workload that had them. */
  readonly sticky: boolean;
  /** How long, from when it is given back. */
  readonly stickySeconds: number;
  readonly sets: readonly RangeSet[];
  /** Addresses that are wanted, each at most once. */
  readonly wanted: readonly Address[];
  readonly routes: readonly CniRoute[];
  /** Path of a resolv.conf whose settings go into the result. */
  readonly resolvConfPath?: string;
  /** Result of ADD, for CHECK: read by the version of the configuration. */
  readonly prevResult?: unknown;
  /** For GC: everybody who keeps what they have; absent when the caller did not say. */
  readonly valid?: readonly LeaseOwner[];
}

/**
 * Reads a call.
 * @throws {IpamError} code 1, 4, 6 or 7, naming the variable or the field
 * @throws {RuntimeError} INVALID_ARGUMENT for ranges that make no sense
 */
export function readIpamRequest({ variables, stdin }: IpamCall): IpamRequest {
  const command = commandOf(variables.get('CNI_COMMAND') ?? '');
  const value = decoded(stdin);
  const { name, ...lists } = checked(giveBackSchema, value);
  if (!CNI_NAME.test(name)) throw badConfig('name', `${quoted(name)} must match ${CNI_NAME.source}`);
  const owner = command === 'GC' || command === 'STATUS' ? undefined : ownerOf(variables);
  const valid = command === 'GC' ? validOf(lists) : undefined;
  const who = {
    command,
    network: name,
    ...(owner === undefined ? {} : { owner }),
    ...(valid === undefined ? {} : { valid }),
  };
  // What ADD refused must not keep DEL from giving back: neither needs more than names.
  if (command === 'DEL' || command === 'GC') return { ...who, ...NOTHING };
  return { ...who, ...wishesOf(checked(ipamConfigSchema, value), variables.get('CNI_ARGS') ?? '', owner) };
}

type Wishes = Omit<IpamRequest, 'command' | 'network' | 'owner' | 'valid'>;

const NOTHING: Wishes = {
  cniVersion: '1.1.0',
  workload: '',
  sticky: false,
  stickySeconds: DEFAULT_STICKY_SECONDS,
  sets: [],
  wanted: [],
  routes: [],
};

function wishesOf(config: IpamConfig, cniArgs: string, owner: LeaseOwner | undefined): Wishes {
  const cniVersion = config.cniVersion == null || config.cniVersion === '' ? '0.1.0' : config.cniVersion;
  if (!isKnownVersion(cniVersion)) {
    throw new IpamError(IPAM_CODES.version, `cniVersion: ${quoted(cniVersion)} is not supported`);
  }
  const args = argumentsOf(cniArgs);
  const resolvConfPath = config.ipam.resolvConf ?? '';
  return {
    cniVersion,
    workload: workloadOf(args, owner),
    sticky: config.ipam.sticky === true,
    stickySeconds: config.ipam.stickySeconds ?? DEFAULT_STICKY_SECONDS,
    sets: setsOf(config, cniVersion),
    wanted: wantedOf(config, args),
    routes: config.ipam.routes ?? [],
    ...(resolvConfPath === '' ? {} : { resolvConfPath }),
    ...(config.prevResult == null ? {} : { prevResult: config.prevResult }),
  };
}

function commandOf(text: string): IpamCommand {
  const command = COMMANDS.find((known) => known === text);
  if (command === undefined) throw badVariable('CNI_COMMAND', `${quoted(text)} is unknown`);
  return command;
}

function decoded(stdin: string): unknown {
  try {
    return JSON.parse(stdin);
  } catch (error) {
    throw new IpamError(IPAM_CODES.undecodable, 'configuration: stdin holds no single JSON object', { cause: error });
  }
}

function checked<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw badConfig(issue?.path.join('.') || 'configuration', issue?.message ?? 'not understood');
}

function ownerOf(variables: ReadonlyMap<string, string>): LeaseOwner {
  const containerId = variables.get('CNI_CONTAINERID') ?? '';
  const interfaceName = variables.get('CNI_IFNAME') ?? '';
  if (!CNI_NAME.test(containerId)) {
    throw badVariable('CNI_CONTAINERID', `${quoted(containerId)} must match ${CNI_NAME.source}`);
  }
  if (!isInterfaceName(interfaceName)) throw badVariable('CNI_IFNAME', `${quoted(interfaceName)} is no interface name`);
  return { containerId, interfaceName };
}

function isInterfaceName(name: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  const bad = name === '.' || name === '..' || /[/:\s\u0000-\u001f\u007f]/.test(name);
  return !bad && name !== '' && Buffer.byteLength(name) <= 15;
}

/** CNI_ARGS as pairs; "IgnoreUnknown" and keys nobody knows are passed over. */
function argumentsOf(text: string): readonly (readonly [key: string, value: string])[] {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(text)) throw badVariable('CNI_ARGS', 'holds a control character');
  const pairs = text.split(';').filter((pair) => pair !== '');
  return pairs.map((pair) => {
    const [key = '', value, ...rest] = pair.split('=');
    if (key === '' || value === undefined || rest.length > 0) {
      throw badVariable('CNI_ARGS', `${quoted(pair)} is no pair KEY=VALUE`);
    }
    return [key, value] as const;
  });
}

/** host-local's order: ranges of the runtime first, then the one of the old form, then the list. */
function setsOf({ ipam, runtimeConfig }: IpamConfig, cniVersion: string): readonly RangeSet[] {
  const { subnet } = ipam;
  const old = subnet == null || subnet === '' ? [] : [[{ ...ipam, subnet, exclude: null }]];
  const requested = [...(runtimeConfig?.ipRanges ?? []), ...old, ...(ipam.ranges ?? [])];
  if (requested.length === 0) throw badConfig('ipam.ranges', 'holds no range');
  const sets = parseRangeSets(
    requested.map((set) => set.map(rangeRequest)),
    ipam.exclude ?? [],
  );
  const second = sets.find((set, index) => sets.findIndex(({ family }) => family === set.family) < index);
  if (second !== undefined && generationOf(cniVersion) === 'old') {
    throw badConfig('ipam.ranges', `version ${cniVersion} has room for one IPv${second.family} address only`);
  }
  return sets;
}

function rangeRequest({ subnet, rangeStart, rangeEnd, gateway, exclude }: WrittenRange): RangeRequest {
  const given = (text: string | null | undefined): string | undefined =>
    text == null || text === '' ? undefined : text;
  return {
    subnet,
    rangeStart: given(rangeStart),
    rangeEnd: given(rangeEnd),
    gateway: given(gateway),
    exclude: exclude ?? [],
  };
}

/** Who knows the newer ways to ask ignores the old one (CNI conventions, "CNI_ARGS"). */
function wantedOf(
  { runtimeConfig, args }: IpamConfig,
  old: readonly (readonly [string, string])[],
): readonly Address[] {
  const modern = [
    ...(runtimeConfig?.ips ?? []).map((text) => ['runtimeConfig.ips', text] as const),
    ...(args?.cni?.ips ?? []).map((text) => ['args.cni.ips', text] as const),
  ];
  if (modern.length > 0) {
    const wanted = modern.map(
      ([field, text]) => parseAddressOrCidr(text) ?? badConfig(field, `${quoted(text)} is no address`),
    );
    return distinct(wanted.map(orThrow));
  }
  const ips = old.filter(([key]) => key === 'IP').map(([, text]) => text);
  return distinct(
    ips.map((text) => orThrow(parseAddressOrCidr(text) ?? badVariable('CNI_ARGS', `IP ${quoted(text)} is no address`))),
  );
}

function orThrow(found: Address | IpamError): Address {
  if (found instanceof IpamError) throw found;
  return found;
}

function distinct(addresses: readonly Address[]): readonly Address[] {
  return addresses.filter(
    ({ family, value }, index) =>
      addresses.findIndex((other) => other.family === family && other.value === value) === index,
  );
}

function workloadOf(args: readonly (readonly [string, string])[], owner: LeaseOwner | undefined): string {
  const of = (key: string): string | undefined => args.find(([name]) => name === key)?.[1];
  const pod = of('K8S_POD_NAME');
  if (pod !== undefined && pod !== '') return `pod ${of('K8S_POD_NAMESPACE') ?? ''}/${pod}`;
  return owner?.containerId ?? '';
}

function validOf(config: Omit<GiveBackConfig, 'name'>): readonly LeaseOwner[] | undefined {
  const spec = config['cni.dev/valid-attachments'];
  const valid = spec === undefined ? config['cni.dev/attachments'] : spec;
  // Go writes null for an empty list.
  if (valid === null) return [];
  return valid?.map(({ containerID, ifname }) => ({ containerId: containerID, interfaceName: ifname }));
}

function badVariable(name: string, reason: string): IpamError {
  return new IpamError(IPAM_CODES.environment, `${name}: ${reason}`);
}

function badConfig(field: string, reason: string): IpamError {
  return new IpamError(IPAM_CODES.config, `${field}: ${reason}`);
}

function quoted(text: string): string {
  return JSON.stringify(printable(text).slice(0, 100));
}
