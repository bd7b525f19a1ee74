/**
 * A request for a container, from the wire to the runtime's own words. Here only the shape changes: what a field may
 * hold is checked by the runtime (src/runtime/spec-validation.ts).
 */
import { invalid } from '../errors.ts';
import type {
  ContainerSpec,
  DeviceRequest,
  MountRequest,
  Naming,
  PortMapping,
  Resources,
} from '../runtime/container.ts';
import { optionalInteger } from './field.ts';
import type { ContainerSpec__Output } from './generated/berth/v1/ContainerSpec.ts';
import type { Device__Output } from './generated/berth/v1/Device.ts';
import type { Label__Output } from './generated/berth/v1/Label.ts';
import type { Mount__Output } from './generated/berth/v1/Mount.ts';
import type { PortMapping__Output } from './generated/berth/v1/PortMapping.ts';
import type { Resources__Output } from './generated/berth/v1/Resources.ts';
import { networkOptionOf } from './network-option.ts';
import { checkImageRef, checkRef } from './object-ref.ts';

/**
 * The request in the runtime's words. `defaultNetwork` is asked only when the request names no network.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field
 */
export function containerSpecOf(spec: ContainerSpec__Output | null, defaultNetwork: () => string): ContainerSpec {
  if (spec === null) throw invalid('spec', 'is missing');
  return {
    name: spec.name === '' ? '' : checkRef('name', spec.name),
    image: checkImageRef('image', spec.image),
    command: spec.command,
    entrypoint: spec.entrypoint?.values,
    env: spec.env,
    workingDir: spec.workingDir,
    user: spec.user,
    hostname: spec.hostname,
    labels: Object.fromEntries(spec.labels.map(labelOf)),
    resources: resourcesOf(spec.resources),
    readOnlyRootfs: spec.readOnlyRootfs,
    capAdd: spec.capAdd,
    capDrop: spec.capDrop,
    seccompProfile: spec.seccompProfile,
    network: networkOf(spec.networks, spec.ports.length > 0, defaultNetwork),
    naming: namingOf(spec),
    networkOptions: spec.networkOptions.length === 0 ? undefined : spec.networkOptions.map(networkOptionOf),
    ports: spec.ports.map(portOf),
    mounts: spec.mounts.map(mountOf),
    devices: spec.devices.map(deviceOf),
    autoRemove: spec.autoRemove,
  };
}

function labelOf({ key, value }: Label__Output): [string, string] {
  return [key, value];
}

function networkOf(
  names: readonly string[],
  hasPorts: boolean,
  defaultNetwork: () => string,
): ContainerSpec['network'] {
  const [first] = names;
  if (first === undefined) return [defaultNetwork()];
  if (names.length > 1) return names;
  if (first !== 'none' && first !== 'host') return [checkRef('network', first)];
  if (hasPorts && first === 'host') throw invalid('publish', "on the host's network every port is published already");
  return first;
}

/** Undefined when the request says nothing about names. */
function namingOf(spec: ContainerSpec__Output): Naming | undefined {
  const { networkAliases: aliases, dnsServers, dnsSearch, dnsOptions } = spec;
  const extraHosts = spec.extraHosts.map(({ name, address }) => ({ name, address }));
  const naming = { aliases, dnsServers, dnsSearch, dnsOptions, extraHosts };
  return Object.values(naming).every((list) => list.length === 0) ? undefined : naming;
}

function resourcesOf(resources: Resources__Output | null): Resources {
  return {
    memoryBytes: optionalInteger('memory', resources?.memoryBytes),
    cpuMillis: optionalInteger('cpus', resources?.cpuMillis),
    pidsLimit: optionalInteger('pids-limit', resources?.pidsLimit),
  };
}

const PROTOCOLS: Readonly<Record<string, PortMapping['protocol']>> = {
  PROTOCOL_UNSPECIFIED: 'tcp',
  PROTOCOL_TCP: 'tcp',
  PROTOCOL_UDP: 'udp',
  PROTOCOL_SCTP: 'sctp',
};

function portOf(port: PortMapping__Output): PortMapping {
  // An enum value that this version does not know arrives as a number.
  const protocol = PROTOCOLS[String(port.protocol)];
  if (protocol === undefined) throw invalid('publish', `protocol ${String(port.protocol)} is unknown`);
  const { hostPort, containerPort, hostIp } = port;
  return { hostPort, containerPort, protocol, hostIp };
}

function mountOf({ volume, hostPath, target, readOnly }: Mount__Output): MountRequest {
  if (volume !== undefined) return { kind: 'volume', volume, target, readOnly };
  if (hostPath !== undefined) return { kind: 'bind', source: hostPath, target, readOnly };
  throw invalid('volume', `the mount at ${JSON.stringify(target.slice(0, 80))} has neither a volume nor a host path`);
}

function deviceOf({ volume, path, readOnly }: Device__Output): DeviceRequest {
  return { volume, path, readOnly };
}
