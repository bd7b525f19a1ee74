/** Plugins as lists show them: one row for each plugin, and one for each socket or file that is no part of one. */

import { capabilityNames, type PluginNode } from './plugin.ts';
import type { Assembly } from './plugin-assembly.ts';
import type { PluginConnection, PluginHealth, PluginState } from './plugin-connection.ts';
import type { PluginRegistration, PluginRole, RegistrationSource } from './plugin-registration.ts';
import type { Misfit } from './plugin-sockets.ts';
import type { StringMap } from './protocol.ts';

/** A socket and how it is. */
export interface SocketSummary {
  readonly path: string;
  readonly role?: PluginRole;
  readonly state: PluginState;
  readonly reason?: string;
  /** "controller", "groupController", "node": what it serves; empty while it was not met. */
  readonly serves: readonly string[];
  readonly health: PluginHealth;
}

/** A plugin as lists show it. */
export interface PluginSummary extends Partial<PluginNode> {
  /** Empty while it is not known. */
  readonly name: string;
  /** Its first socket, or the file that cannot be used. */
  readonly socket: string;
  /** "invalid": what registers it is not understood. */
  readonly state: PluginState | 'invalid';
  /** Why it is not ready, or not all of it. */
  readonly reason?: string;
  /** Since when it is in this state. */
  readonly sinceAt: string;
  readonly vendorVersion: string;
  readonly manifest: StringMap;
  /** "controller:CREATE_DELETE_VOLUME", "node:STAGE_UNSTAGE_VOLUME", "plugin:CONTROLLER_SERVICE", sorted. */
  readonly capabilities: readonly string[];
  readonly sockets: readonly SocketSummary[];
  readonly registrations: readonly { readonly source: RegistrationSource; readonly origin: string }[];
}

/** The row of a plugin, or of sockets that could not be put together. */
export function summaryOf(
  name: string,
  connections: readonly PluginConnection[],
  { plugin, state, lack }: Assembly,
  registrations: readonly PluginRegistration[],
): PluginSummary {
  const met = connections.find((connection) => connection.met?.parts.has('node'))?.met ?? connections[0]?.met;
  const capabilities = plugin?.capabilities ?? met?.capabilities;
  const { nodeId, topology, maxVolumesPerNode } = plugin ?? met?.node ?? {};
  const sinceAt = connections.map(({ health }) => health.sinceAt).sort();
  return {
    name,
    socket: connections[0]?.socketPath ?? '',
    state,
    ...(lack === undefined ? {} : { reason: lack }),
    sinceAt: sinceAt.at(-1) ?? '',
    vendorVersion: met?.vendorVersion ?? '',
    manifest: met?.manifest ?? {},
    capabilities: capabilities === undefined ? [] : capabilityNames(capabilities),
    ...(nodeId === undefined ? {} : { nodeId }),
    ...(topology === undefined ? {} : { topology }),
    ...(maxVolumesPerNode === undefined ? {} : { maxVolumesPerNode }),
    sockets: connections.map(socketSummary),
    registrations: registrations.map(({ source, origin }) => ({ source, origin })),
  };
}

/** The row of something that was meant to register a plugin. */
export function misfitSummary({ name, source, origin, reason, sinceAt }: Misfit): PluginSummary {
  const empty = { vendorVersion: '', manifest: {}, capabilities: [], sockets: [] };
  return {
    name: name ?? '',
    socket: origin,
    state: 'invalid',
    reason,
    sinceAt,
    ...empty,
    registrations: [{ source, origin }],
  };
}

function socketSummary({ socketPath, role, state, reason, met, health }: PluginConnection): SocketSummary {
  return {
    path: socketPath,
    ...(role === undefined ? {} : { role }),
    state,
    ...(reason === undefined ? {} : { reason }),
    serves: [...(met?.parts ?? [])].sort(),
    health,
  };
}

/** In byte order of the first socket. */
export function bySocket(a: PluginSummary, b: PluginSummary): number {
  return a.socket < b.socket ? -1 : a.socket > b.socket ? 1 : 0;
}
