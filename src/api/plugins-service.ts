/** The Plugins service: the CSI plugins of this host. */
import type { PluginEnrolment } from '../csi/plugin-enrolment.ts';
import type { PluginRegistry, PluginSummary } from '../csi/plugin-registry.ts';
import type { SupervisedPlugins } from '../csi/supervised-plugins.ts';
import type { PluginView } from '../csi/supervision-status.ts';
import { boundedInteger } from './field.ts';
import type { ListPluginsResponse } from './generated/berth/v1/ListPluginsResponse.ts';
import type { Parameter } from './generated/berth/v1/Parameter.ts';
import type { Plugin } from './generated/berth/v1/Plugin.ts';
import type { PluginLogChunk } from './generated/berth/v1/PluginLogChunk.ts';
import type { PluginLogsRequest__Output } from './generated/berth/v1/PluginLogsRequest.ts';
import type { PluginRequest__Output } from './generated/berth/v1/PluginRequest.ts';
import type { PluginSocket } from './generated/berth/v1/PluginSocket.ts';
import type { PluginSupervision } from './generated/berth/v1/PluginSupervision.ts';
import type { PluginsDefinition } from './generated/berth/v1/Plugins.ts';
import type { RegisterPluginRequest__Output } from './generated/berth/v1/RegisterPluginRequest.ts';
import type { UnregisterPluginRequest__Output } from './generated/berth/v1/UnregisterPluginRequest.ts';
import type { UnregisterPluginResponse } from './generated/berth/v1/UnregisterPluginResponse.ts';
import { checkHostPath, checkRef } from './object-ref.ts';
import type { Call, ServiceMethods } from './protocol.ts';

/** What the service asks of the plugins. */
export interface Plugins {
  readonly registry: Pick<PluginRegistry, 'list' | 'inspect' | 'probe'>;
  readonly enrolment: Pick<PluginEnrolment, 'register' | 'unregister'>;
  readonly supervised: Pick<SupervisedPlugins, 'viewOf' | 'socketOf' | 'logs'>;
}

/** Longest wait for the answers of a plugin's sockets. */
const PROBE_MS = 30_000;

export class PluginsService implements ServiceMethods<PluginsDefinition> {
  readonly #registry: Plugins['registry'];
  readonly #enrolment: Plugins['enrolment'];
  readonly #supervised: Plugins['supervised'];

  constructor({ registry, enrolment, supervised }: Plugins) {
    this.#supervised = supervised;
    this.#registry = registry;
    this.#enrolment = enrolment;
  }

  async list(): Promise<ListPluginsResponse> {
    return { plugins: this.#registry.list().map((row) => this.#message(row)) };
  }

  async inspect({ name }: PluginRequest__Output): Promise<Plugin> {
    return this.#message(this.#registry.inspect(this.#nameOrPath(name)));
  }

  async register(request: RegisterPluginRequest__Output, { signal }: Call): Promise<Plugin> {
    const { name, controllerSocket } = request;
    const asked = { socket: request.socket, name, controllerSocket };
    return this.#message(await this.#enrolment.register(asked, signal));
  }

  async unregister(
    { name, force }: UnregisterPluginRequest__Output,
    { signal }: Call,
  ): Promise<UnregisterPluginResponse> {
    await this.#enrolment.unregister(checkRef('name', name), force, signal);
    return {};
  }

  async probe({ name }: PluginRequest__Output, { signal }: Call): Promise<Plugin> {
    const patience = AbortSignal.any([signal, AbortSignal.timeout(PROBE_MS)]);
    return this.#message(await this.#registry.probe(this.#nameOrPath(name), patience));
  }

  async *logs(request: PluginLogsRequest__Output, { waitSignal }: Call): AsyncGenerator<PluginLogChunk> {
    const tailLines = boundedInteger('tail', request.tailLines, 0, Number.MAX_SAFE_INTEGER);
    const options = { follow: request.follow, tailLines };
    const log = this.#supervised.logs(checkRef('name', request.name), options, waitSignal);
    for await (const data of log) yield { data };
  }

  #message(row: PluginSummary): Plugin {
    return pluginMessage(this.#supervised.viewOf(row));
  }

  /** Where nobody has given a name, a path has to do, or the name of the file by which Berth starts the plugin. */
  #nameOrPath(text: string): string {
    if (text.startsWith('/')) return checkHostPath('name', text);
    const name = checkRef('name', text);
    const isKnown = this.#registry.list().some((row) => row.name === name);
    return isKnown ? name : (this.#supervised.socketOf(name) ?? name);
  }
}

const STATES = {
  ready: 'PLUGIN_STATE_READY',
  starting: 'PLUGIN_STATE_STARTING',
  unreachable: 'PLUGIN_STATE_UNREACHABLE',
  refused: 'PLUGIN_STATE_REFUSED',
  invalid: 'PLUGIN_STATE_INVALID',
} as const satisfies Record<PluginSummary['state'], string>;

function pluginMessage(plugin: PluginView): Plugin {
  const { name, socket, state, reason, sinceAt, vendorVersion, nodeId, maxVolumesPerNode } = plugin;
  return {
    name,
    state: STATES[state],
    reason: reason ?? '',
    socket,
    vendorVersion,
    capabilities: [...plugin.capabilities],
    ...(nodeId === undefined ? {} : { nodeId }),
    sinceAt,
    sockets: plugin.sockets.map(socketMessage),
    registrations: plugin.registrations.map(({ source, origin }) => ({ source, origin })),
    manifest: pairs(plugin.manifest),
    topology: pairs(plugin.topology ?? {}),
    ...(maxVolumesPerNode === undefined ? {} : { maxVolumesPerNode }),
    ...(plugin.supervision === undefined ? {} : { supervision: supervisionMessage(plugin.supervision) }),
    processes: plugin.processes.map(supervisionMessage),
  };
}

function supervisionMessage(status: NonNullable<PluginView['supervision']>): PluginSupervision {
  const { lastEnd, ...rest } = status;
  if (lastEnd === undefined) return rest;
  const { signalName, ...end } = lastEnd;
  return { ...rest, lastEnd: { ...end, ...(signalName === undefined ? {} : { signal: signalName }) } };
}

function socketMessage({ path, role, state, reason, serves, health }: PluginSummary['sockets'][number]): PluginSocket {
  const { sinceAt, lastProbeAt, lastSuccessAt, failuresInARow } = health;
  return {
    path,
    role: role ?? '',
    state: STATES[state],
    reason: reason ?? '',
    serves: [...serves],
    sinceAt,
    ...(lastProbeAt === undefined ? {} : { lastProbeAt }),
    ...(lastSuccessAt === undefined ? {} : { lastSuccessAt }),
    failuresInARow,
  };
}

function pairs(map: Readonly<Record<string, string>>): Parameter[] {
  return Object.entries(map).map(([key, value]) => ({ key, value }));
}
