/**
 * From a request to the attachments it takes: which networks, under which interface names, with which capability
 * arguments. Everything that can be refused is refused here, before anything is recorded or done. Has no effects.
 */
import { isIP } from 'node:net';
import { invalid, RuntimeError } from '../errors.ts';
import type { ContainerSpec, Naming, PortMapping } from '../runtime/container.ts';
import { hasCapability, type ResolvedNetwork } from './network.ts';
import type { NetworkConfigs } from './network-config.ts';
import { checkNetworkOptions, optionsFor } from './network-options.ts';
import type { NetworkRecord, RecordedAttachment } from './network-record.ts';
import type { JsonObject } from './protocol.ts';

const PORT_MAPPINGS = 'portMappings';
const PROTOCOLS: ReadonlySet<string> = new Set(['tcp', 'udp', 'sctp']);

/** What a run of a container wants of the network. */
export type NetworkPlan = Pick<NetworkRecord, 'mode' | 'attachments'>;

/**
 * The plan for a request. Port mappings go to the first network that can serve them: given to two, the rules of the
 * second would never see a packet.
 * @param cgroupPath "/berth/ID", for plugins with the capability of that name
 * @throws {RuntimeError} INVALID_ARGUMENT, NOT_FOUND or FAILED_PRECONDITION naming the field
 */
export function planNetworks(spec: ContainerSpec, configs: NetworkConfigs, cgroupPath?: string): NetworkPlan {
  const { network: wanted, ports, networkOptions = [] } = spec;
  if (wanted === 'none' || wanted === 'host') {
    if (networkOptions.length > 0) throw invalid('network-arg', `there is no network to tell it to with "${wanted}"`);
    if (ports.length > 0) throw invalid('publish', `port mappings need a network, not "${wanted}"`);
    return { mode: wanted, attachments: [] };
  }
  const twice = wanted.find((name, index) => wanted.indexOf(name) < index);
  if (twice !== undefined) throw invalid('network', `${JSON.stringify(twice)} is named twice`);
  const networks = wanted.map((name) => configs.load(name));
  const server = networks.findIndex((network) => hasCapability(network, PORT_MAPPINGS));
  if (ports.length > 0 && server < 0) {
    const text = `no plugin of ${wanted.join(', ') || 'no network'} declares the capability ${PORT_MAPPINGS}`;
    throw invalid('publish', `${text}: add portmap to the chain`);
  }
  checkNetworkOptions(networkOptions, networks);
  const mappings = ports.map(portMapping);
  const names = namesFor(spec.naming);
  const attachments = networks.map((network, index): RecordedAttachment => {
    const given = optionsFor(network, networkOptions);
    const capabilityArgs = {
      ...names,
      ...given.capabilityArgs,
      ...ownCapabilities(network, cgroupPath),
      ...(index === server && mappings.length > 0 && { [PORT_MAPPINGS]: mappings }),
    };
    return {
      ...{ network, interfaceName: `eth${index}`, args: given.args, capabilityArgs, state: 'planned' },
      ...labelsOf(spec),
    };
  });
  return { mode: 'networks', attachments };
}

/** What plugins that ask for it are told about the container. */
export function ownCapabilities(network: ResolvedNetwork, cgroupPath: string | undefined): JsonObject {
  return cgroupPath !== undefined && hasCapability(network, 'cgroupPath') ? { cgroupPath } : {};
}

/** Labels of a container as an attachment has them. */
export function labelsOf({ labels }: Pick<ContainerSpec, 'labels'>): Pick<RecordedAttachment, 'labels'> {
  const list = Object.entries(labels).map(([key, value]) => ({ key, value }));
  return list.length === 0 ? {} : { labels: list };
}

/** What the request says about names, for plugins that serve names (CNI conventions, "aliases" and "dns"). */
function namesFor(naming: Naming | undefined): JsonObject {
  if (naming === undefined) return {};
  const { aliases, dnsServers: servers, dnsSearch: searches, dnsOptions: options } = naming;
  const dns = [...servers, ...searches, ...options].length > 0;
  return { ...(aliases.length > 0 && { aliases }), ...(dns && { dns: { servers, searches, options } }) };
}

/** A mapping in the words of the capability (CNI conventions, "portMappings"). */
interface CapabilityPort {
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: string;
  readonly hostIP?: string;
}

function portMapping({ hostPort, containerPort, protocol, hostIp }: PortMapping): CapabilityPort {
  if (!PROTOCOLS.has(protocol)) throw invalid('publish', `${JSON.stringify(protocol)} is not tcp, udp or sctp`);
  if (hostIp === undefined) return { hostPort, containerPort, protocol };
  if (isIP(hostIp) === 0) throw invalid('publish', `${JSON.stringify(hostIp)} is no IP address`);
  return { hostPort, containerPort, protocol, hostIP: hostIp };
}

/**
 * Refuses ports of the host that another container holds: its rules come first, ours would never see a packet.
 * @param taken records of other containers, by container id
 * @throws {RuntimeError} FAILED_PRECONDITION naming port and holder
 */
export function refuseTakenPorts(plan: NetworkPlan, taken: Iterable<readonly [string, NetworkPlan]>): void {
  const wanted = plan.attachments.flatMap(portsOf);
  if (wanted.length === 0) return;
  for (const [id, other] of taken) {
    for (const held of other.attachments.flatMap(portsOf)) {
      const rival = wanted.find((port) => collide(port, held));
      if (rival === undefined) continue;
      const what = `host port ${rival.hostPort}/${rival.protocol}`;
      throw new RuntimeError('FAILED_PRECONDITION', `publish: ${what} is held by container ${id}`);
    }
  }
}

function collide(one: CapabilityPort, other: CapabilityPort): boolean {
  if (one.hostPort !== other.hostPort || one.protocol !== other.protocol) return false;
  const everywhere = isUnspecified(one.hostIP) || isUnspecified(other.hostIP);
  return everywhere || one.hostIP === other.hostIP;
}

function isUnspecified(address: string | undefined): boolean {
  return address === undefined || address === '0.0.0.0' || address === '::';
}

function portsOf({ capabilityArgs }: RecordedAttachment): readonly CapabilityPort[] {
  const ports = capabilityArgs[PORT_MAPPINGS];
  return Array.isArray(ports) ? ports.filter(isCapabilityPort) : [];
}

function isCapabilityPort(value: unknown): value is CapabilityPort {
  return typeof value === 'object' && value !== null && 'hostPort' in value && 'protocol' in value;
}
