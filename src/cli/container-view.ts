/** Containers as the command line shows them: objects for `--format json`, columns for tables. */
import type { Container__Output } from '../api/generated/berth/v1/Container.ts';
import type { ContainerSpec__Output } from '../api/generated/berth/v1/ContainerSpec.ts';
import type { NetworkAttachment__Output } from '../api/generated/berth/v1/NetworkAttachment.ts';
import type { PortMapping__Output } from '../api/generated/berth/v1/PortMapping.ts';
import { networkOptionObject } from './network-option-flags.ts';
import { formatDuration } from './size.ts';
import type { Column } from './table.ts';

const SHORT_ID = 12;

/** A container in a list: what programs look for first. */
export function containerObject(container: Container__Output): Record<string, unknown> {
  const { spec, exit } = container;
  return {
    id: container.id,
    name: container.name,
    state: stateName(container),
    pid: container.pid === undefined ? null : Number(container.pid),
    image: spec?.image ?? '',
    command: spec?.command ?? [],
    createdAt: container.createdAt,
    startedAt: container.startedAt ?? null,
    exit: exit === null ? null : { code: exit.code, oomKilled: exit.oomKilled, exitedAt: exit.exitedAt },
    launchError: container.launchError ?? null,
    networks: container.networks.map(attachmentObject),
    volumes: container.volumes.map(({ volume, driver, target, readOnly }) => ({ volume, driver, target, readOnly })),
    ports: (spec?.ports ?? []).map(portObject),
    labels: labelsOf(spec?.labels ?? []),
    cleanupFailures: container.cleanupFailures,
  };
}

/** A container with the whole request it was made of. */
export function containerDetails(container: Container__Output): Record<string, unknown> {
  const { spec } = container;
  return { ...containerObject(container), spec: spec === null ? null : specObject(spec) };
}

/** An address on a network. */
export function attachmentObject(attachment: NetworkAttachment__Output): Record<string, unknown> {
  const { network, interfaceName, addresses, gateways, mac } = attachment;
  return { network, interface: interfaceName, addresses, gateways, mac: mac ?? null };
}

/** Labels as an object, whatever their keys are. */
export function labelsOf(labels: readonly { readonly key: string; readonly value: string }[]): Record<string, string> {
  return Object.fromEntries(labels.map(({ key, value }) => [key, value]));
}

/** "running" of CONTAINER_STATE_RUNNING. */
export function stateName({ state }: Pick<Container__Output, 'state'>): string {
  return String(state).replace('CONTAINER_STATE_', '').toLowerCase();
}

/** The columns of `ps`. `nowMs` is what ages are counted from. */
export function containerColumns(nowMs: number, full: boolean): Column<Container__Output>[] {
  return [
    { heading: 'CONTAINER ID', cell: ({ id }) => (full ? id : id.slice(0, SHORT_ID)) },
    { heading: 'NAME', cell: ({ name }) => name },
    { heading: 'IMAGE', cell: ({ spec }) => spec?.image ?? '' },
    { heading: 'COMMAND', cell: ({ spec }) => commandText(spec, full) },
    { heading: 'STATUS', cell: (container) => statusText(container, nowMs) },
    { heading: 'ADDRESSES', cell: addressText },
    { heading: 'PORTS', cell: ({ spec }) => (spec?.ports ?? []).map(portText).join(', ') },
  ];
}

function specObject(spec: ContainerSpec__Output): Record<string, unknown> {
  const { resources } = spec;
  return {
    name: spec.name,
    image: spec.image,
    command: spec.command,
    entrypoint: spec.entrypoint?.values ?? null,
    env: spec.env,
    workingDir: spec.workingDir ?? null,
    user: spec.user ?? null,
    hostname: spec.hostname ?? null,
    labels: labelsOf(spec.labels),
    resources: {
      memoryBytes: numberOrNull(resources?.memoryBytes),
      cpuMillis: numberOrNull(resources?.cpuMillis),
      pidsLimit: numberOrNull(resources?.pidsLimit),
    },
    readOnlyRootfs: spec.readOnlyRootfs,
    capAdd: spec.capAdd,
    capDrop: spec.capDrop,
    seccompProfile: spec.seccompProfile ?? null,
    networks: spec.networks,
    networkAliases: spec.networkAliases,
    dnsServers: spec.dnsServers,
    dnsSearch: spec.dnsSearch,
    dnsOptions: spec.dnsOptions,
    extraHosts: spec.extraHosts.map(({ name, address }) => ({ name, address })),
    networkOptions: spec.networkOptions.map(networkOptionObject),
    ports: spec.ports.map(portObject),
    mounts: spec.mounts.map(({ volume, hostPath, target, readOnly }) => ({
      ...(volume === undefined ? { hostPath } : { volume }),
      target,
      readOnly,
    })),
    devices: spec.devices.map(({ volume, path, readOnly }) => ({ volume, path, readOnly })),
    autoRemove: spec.autoRemove,
  };
}

function numberOrNull(text: string | undefined): number | null {
  return text === undefined ? null : Number(text);
}

function portObject({ hostIp, hostPort, containerPort, protocol }: PortMapping__Output): Record<string, unknown> {
  return { hostIp: hostIp ?? null, hostPort, containerPort, protocol: protocolName(protocol) };
}

function portText({ hostIp, hostPort, containerPort, protocol }: PortMapping__Output): string {
  const address = hostIp === undefined ? '' : `${hostIp.includes(':') ? `[${hostIp}]` : hostIp}:`;
  return `${address}${hostPort}->${containerPort}/${protocolName(protocol)}`;
}

function protocolName(protocol: PortMapping__Output['protocol']): string {
  return String(protocol).replace('PROTOCOL_', '').toLowerCase();
}

function commandText(spec: ContainerSpec__Output | null, full: boolean): string {
  const text = [...(spec?.entrypoint?.values ?? []), ...(spec?.command ?? [])].join(' ');
  return full || text.length <= 30 ? text : `${text.slice(0, 29)}…`;
}

function addressText({ networks }: Container__Output): string {
  return networks.map(({ network, addresses }) => `${network}:${addresses.join(',')}`).join(' ');
}

function statusText(container: Container__Output, nowMs: number): string {
  const state = stateName(container);
  const trouble = container.cleanupFailures.length > 0 ? ' (cleanup is being retried)' : '';
  const ago = (at: string): string => formatDuration(nowMs - Date.parse(at));
  if (state === 'running' && container.startedAt !== undefined) return `running for ${ago(container.startedAt)}`;
  if (state === 'exited' && container.launchError !== undefined) return 'failed to start';
  if (state === 'exited' && container.exit !== null) {
    const { code, oomKilled, exitedAt } = container.exit;
    return `exited (${code}${oomKilled ? ', out of memory' : ''}) ${ago(exitedAt)} ago`;
  }
  return `${state}${trouble}`;
}
