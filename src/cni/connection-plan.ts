/**
 * From a request to connect a running container to the attachment it takes. Everything that can be refused is refused
 * here, before anything is recorded or done. Has no effects.
 */
import { isIP } from 'node:net';
import { isHostName } from '../dns-words.ts';
import { invalid, RuntimeError } from '../errors.ts';
import type { NetworkOption } from '../runtime/container.ts';
import { checkInterfaceName } from './attachment.ts';
import { hasCapability, type ResolvedNetwork } from './network.ts';
import { checkNetworkOptions, optionsFor, withIgnoreUnknown } from './network-options.ts';
import { labelsOf, ownCapabilities } from './network-plan.ts';
import type { NetworkRecord, RecordedAttachment } from './network-record.ts';
import { statusOf } from './network-status.ts';
import { cidr, type JsonObject, printable } from './protocol.ts';

/** What people may ask for beside the network. */
export interface ConnectOptions {
  /** The next free ethN when absent. */
  readonly interfaceName?: string | undefined;
  /** "10.86.0.5" or "10.86.0.5/16" */
  readonly ips: readonly string[];
  /** "02:00:00:00:00:05" */
  readonly mac?: string | undefined;
  readonly aliases: readonly string[];
  /** What plugins are told beside that; their networks are this one. */
  readonly more?: readonly NetworkOption[] | undefined;
}

/** The container as its plugins are told about it. */
export interface ConnectedContainer {
  readonly labels: Readonly<Record<string, string>>;
  /** "/berth/ID" */
  readonly cgroupPath?: string | undefined;
}

/** Six bytes, the first of them even: not a group of stations. */
const MAC = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i;
const MAX_ENTRIES = 32;

/**
 * The attachment to add to a record. An address or hardware address goes to plugins as the capability where one declares
 * it, else in CNI_ARGS, which every IPAM plugin of the reference set reads; names always go as the capability.
 * @throws {RuntimeError} INVALID_ARGUMENT or FAILED_PRECONDITION naming the field
 */
export function planConnection(
  record: NetworkRecord,
  network: ResolvedNetwork,
  options: ConnectOptions,
  container: ConnectedContainer = { labels: {} },
): RecordedAttachment {
  const taken = new Set(record.attachments.map((entry) => entry.interfaceName));
  if (record.attachments.some((entry) => entry.network.name === network.name)) {
    throw new RuntimeError('FAILED_PRECONDITION', `network: the container is attached to ${network.name} already`);
  }
  const interfaceName = options.interfaceName ?? nextName(taken);
  checkInterfaceName(interfaceName);
  if (taken.has(interfaceName) || interfaceName === 'lo') {
    throw new RuntimeError('FAILED_PRECONDITION', `interface: ${interfaceName} is taken`);
  }
  checkOptions(options);
  const asked = [...address(network, options.ips), ...hardware(network, options.mac)];
  const more = options.more ?? [];
  checkNetworkOptions(more, [network]);
  const given = optionsFor(network, more);
  const args = [...given.args, ...asked.flatMap((part) => part.args)];
  return {
    network,
    interfaceName,
    args: withIgnoreUnknown(args),
    capabilityArgs: Object.assign(
      {},
      ...asked.map((part) => part.capabilityArgs),
      options.aliases.length === 0 ? {} : { aliases: [...options.aliases] },
      given.capabilityArgs,
      ownCapabilities(network, container.cgroupPath),
    ),
    ...labelsOf(container),
    state: 'planned',
  };
}

interface Asked {
  readonly args: readonly (readonly [string, string])[];
  readonly capabilityArgs: JsonObject;
}

function address(network: ResolvedNetwork, ips: readonly string[]): Asked[] {
  if (ips.length === 0) return [];
  if (hasCapability(network, 'ips')) return [{ args: [], capabilityArgs: { ips: [...ips] } }];
  const [ip = '', ...more] = ips;
  if (more.length > 0) throw invalid('ip', `more than one address needs a plugin with the capability ips`);
  return [{ args: [['IP', ip.split('/')[0] ?? ip]], capabilityArgs: {} }];
}

function hardware(network: ResolvedNetwork, mac: string | undefined): Asked[] {
  if (mac === undefined) return [];
  if (hasCapability(network, 'mac')) return [{ args: [], capabilityArgs: { mac } }];
  return [{ args: [['MAC', mac]], capabilityArgs: {} }];
}

function nextName(taken: ReadonlySet<string>): string {
  for (let index = 0; ; index += 1) if (!taken.has(`eth${index}`)) return `eth${index}`;
}

function checkOptions({ ips, mac, aliases }: ConnectOptions): void {
  for (const [field, words] of [
    ['ip', ips],
    ['alias', aliases],
  ] as const) {
    if (words.length > MAX_ENTRIES) throw invalid(field, `more than ${MAX_ENTRIES}`);
  }
  const badIp = ips.find((ip) => isIP(ip) === 0 && !cidr.safeParse(ip).success);
  if (badIp !== undefined) throw invalid('ip', `${quoted(badIp)} is no IP address`);
  if (mac !== undefined && !MAC.test(mac)) {
    throw invalid('mac', `${quoted(mac)} is no address of a station such as "02:00:00:00:00:05"`);
  }
  const badAlias = aliases.find((alias) => !isHostName(alias));
  if (badAlias !== undefined)
    throw invalid('alias', `${quoted(badAlias)} is not allowed: use letters, digits, "-", "_" and "."`);
  const local = aliases.find((alias) => alias.toLowerCase() === 'localhost');
  if (local !== undefined) throw invalid('alias', `"${local}" is everybody's own name`);
}

/**
 * The plugins gave what was asked for: IPAM plugins may pass over CNI_ARGS.
 * @throws {RuntimeError} FAILED_PRECONDITION naming the field
 */
export function verifyConnection(record: NetworkRecord, interfaceName: string, options: ConnectOptions): void {
  const status = statusOf(record).find((known) => known.interfaceName === interfaceName);
  const given = status?.addresses ?? [];
  const missing = options.ips.find((ip) => !given.some((held) => held === ip || held.split('/')[0] === ip));
  if (missing !== undefined) {
    const text = `ip: the network gave ${given.join(', ') || 'no address'}, not ${missing}: its plugins do not take wishes`;
    throw new RuntimeError('FAILED_PRECONDITION', text);
  }
  if (options.mac !== undefined && status?.mac?.toLowerCase() !== options.mac.toLowerCase()) {
    throw new RuntimeError('FAILED_PRECONDITION', `mac: the network gave ${status?.mac ?? 'none'}, not ${options.mac}`);
  }
}

function quoted(text: string): string {
  return JSON.stringify(printable(text).slice(0, 100));
}
