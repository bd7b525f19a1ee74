/** A container, its exit and its usage, from the runtime's words to the wire. */
import type {
  ContainerRecord,
  ContainerSpec,
  ContainerState,
  Exit,
  MountRequest,
  Naming,
} from '../runtime/container.ts';
import type { ContainerView } from '../runtime/containerizer.ts';
import type { NetworkStatus, Usage } from '../runtime/isolator.ts';
import type { Container } from './generated/berth/v1/Container.ts';
import type { ContainerSpec as SpecMessage } from './generated/berth/v1/ContainerSpec.ts';
import type { Exit as ExitMessage } from './generated/berth/v1/Exit.ts';
import type { Mount } from './generated/berth/v1/Mount.ts';
import type { NetworkAttachment } from './generated/berth/v1/NetworkAttachment.ts';
import type { Usage as UsageMessage } from './generated/berth/v1/Usage.ts';
import { networkOptionMessage } from './network-option.ts';

const STATES = {
  created: 'CONTAINER_STATE_CREATED',
  starting: 'CONTAINER_STATE_STARTING',
  running: 'CONTAINER_STATE_RUNNING',
  stopping: 'CONTAINER_STATE_STOPPING',
  exited: 'CONTAINER_STATE_EXITED',
  removing: 'CONTAINER_STATE_REMOVING',
} as const satisfies Record<ContainerState, string>;

const PROTOCOLS = { tcp: 'PROTOCOL_TCP', udp: 'PROTOCOL_UDP', sctp: 'PROTOCOL_SCTP' } as const;

/** A container with its networks and volumes. */
export function containerMessage({ record, state, status }: ContainerView): Container {
  const run = record.run;
  const pid = livePid(record);
  return {
    id: record.id,
    name: record.spec.name,
    state: STATES[state],
    spec: specMessage(record.spec),
    createdAt: record.createdAt,
    ...(run?.startedAt === undefined ? {} : { startedAt: run.startedAt }),
    ...(pid === undefined ? {} : { pid: String(pid) }),
    ...(run?.exit === undefined ? {} : { exit: exitMessage(run.exit) }),
    ...(run?.launchError === undefined ? {} : { launchError: run.launchError }),
    networks: (status.networks ?? []).map(attachmentMessage),
    volumes: (status.volumes ?? []).map((volume) => ({ ...volume })),
    cleanupFailures: record.cleanupFailures.map((failure) => ({ ...failure })),
  };
}

function livePid({ run }: ContainerRecord): number | undefined {
  return run?.exit === undefined && run?.releasedAt === undefined ? run?.init?.pid : undefined;
}

/** How a run ended. */
export function exitMessage({ code, oomKilled, exitedAt }: Exit): ExitMessage {
  return { code, oomKilled, exitedAt };
}

/** What a running container uses. */
export function usageMessage(usage: Usage): UsageMessage {
  return {
    ...(usage.memoryBytes === undefined ? {} : { memoryBytes: String(usage.memoryBytes) }),
    ...(usage.memoryLimitBytes === undefined ? {} : { memoryLimitBytes: String(usage.memoryLimitBytes) }),
    ...(usage.cpuUsageNanos === undefined ? {} : { cpuUsageNanos: String(usage.cpuUsageNanos) }),
    ...(usage.pids === undefined ? {} : { pids: String(usage.pids) }),
  };
}

/** An attachment as lists and inspect show it. */
export function attachmentMessage(attachment: NetworkStatus): NetworkAttachment {
  const { network, interfaceName, addresses, gateways, mac } = attachment;
  const message = { network, interfaceName, addresses: [...addresses], gateways: [...gateways] };
  return mac === undefined ? message : { ...message, mac };
}

function specMessage(spec: ContainerSpec): SpecMessage {
  const { workingDir, user, hostname, seccompProfile } = spec;
  return {
    name: spec.name,
    image: spec.image,
    command: [...spec.command],
    ...(spec.entrypoint === undefined ? {} : { entrypoint: { values: [...spec.entrypoint] } }),
    env: [...spec.env],
    ...(workingDir === undefined ? {} : { workingDir }),
    ...(user === undefined ? {} : { user }),
    ...(hostname === undefined ? {} : { hostname }),
    labels: Object.entries(spec.labels).map(([key, value]) => ({ key, value })),
    resources: resourcesMessage(spec),
    readOnlyRootfs: spec.readOnlyRootfs,
    capAdd: [...spec.capAdd],
    capDrop: [...spec.capDrop],
    ...(seccompProfile === undefined ? {} : { seccompProfile }),
    networks: typeof spec.network === 'string' ? [spec.network] : [...spec.network],
    ...namingMessage(spec.naming),
    networkOptions: (spec.networkOptions ?? []).map(networkOptionMessage),
    ports: spec.ports.map(({ hostPort, containerPort, protocol, hostIp }) => ({
      hostPort,
      containerPort,
      protocol: PROTOCOLS[protocol],
      ...(hostIp === undefined ? {} : { hostIp }),
    })),
    mounts: spec.mounts.map(mountMessage),
    devices: spec.devices.map(({ volume, path, readOnly }) => ({ volume, path, readOnly })),
    autoRemove: spec.autoRemove,
  };
}

function namingMessage(naming: Naming | undefined): Partial<SpecMessage> {
  if (naming === undefined) return {};
  return {
    networkAliases: [...naming.aliases],
    dnsServers: [...naming.dnsServers],
    dnsSearch: [...naming.dnsSearch],
    dnsOptions: [...naming.dnsOptions],
    extraHosts: naming.extraHosts.map(({ name, address }) => ({ name, address })),
  };
}

function resourcesMessage({ resources }: ContainerSpec): NonNullable<SpecMessage['resources']> {
  const { memoryBytes, cpuMillis, pidsLimit } = resources;
  return {
    ...(memoryBytes === undefined ? {} : { memoryBytes: String(memoryBytes) }),
    ...(cpuMillis === undefined ? {} : { cpuMillis: String(cpuMillis) }),
    ...(pidsLimit === undefined ? {} : { pidsLimit: String(pidsLimit) }),
  };
}

function mountMessage(mount: MountRequest): Mount {
  const { target, readOnly } = mount;
  return mount.kind === 'volume'
    ? { volume: mount.volume, target, readOnly }
    : { hostPath: mount.source, target, readOnly };
}
