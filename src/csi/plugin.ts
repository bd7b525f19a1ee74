/**
 * A CSI plugin: who it is, what it offers, and calls to it. A plugin may have a socket for each of its parts; each socket
 * is asked for itself (`meetSocket`), and what they offer together is the plugin (plugin-assembly.ts). What is told here
 * is fixed; when a socket comes back after a restart it is asked again, since a new release may offer other things.
 */
import { type Code, RuntimeError } from '../errors.ts';
import type { CsiClient } from './csi-client.ts';
import type { PluginRole } from './plugin-registration.ts';
import {
  type ControllerCapability,
  CsiError,
  checkMap,
  checkPluginName,
  checkText,
  type GroupControllerCapability,
  LIMITS,
  type NodeCapability,
  type PluginCapabilities,
  type PluginService,
  type Request,
  type Response,
  type Rpc,
  type StreamRpc,
  type StringMap,
} from './protocol.ts';

/** A service of a plugin that can be reached for itself. */
export type PluginPart = 'controller' | 'groupController' | 'node';

/** This machine as a plugin knows it (CSI NodeGetInfo). */
export interface PluginNode {
  readonly nodeId: string;
  /** Where this machine is, in the plugin's own labels. */
  readonly topology?: StringMap;
  /** Most volumes of the plugin that may be published here; absent when the plugin sets no limit. */
  readonly maxVolumesPerNode?: number;
}

/** A plugin that answered and is ready. */
export interface Plugin extends Partial<PluginNode> {
  /** What the plugin calls itself: "local.csi.berth". */
  readonly name: string;
  readonly vendorVersion: string;
  /** Facts the vendor wants told (CSI GetPluginInfo). */
  readonly manifest: StringMap;
  readonly capabilities: PluginCapabilities;
  /** Where its parts listen. */
  readonly sockets: readonly string[];

  /**
   * Calls the socket that serves the call.
   * @throws {CsiError} as {@link CsiClient.call}; UNIMPLEMENTED when no socket serves it, UNAVAILABLE when the one that
   * does is away
   */
  call<R extends Rpc>(rpc: R, request: Request<R>, signal: AbortSignal): Promise<Response<R>>;

  /** The same for a call that is answered by a stream. @throws {CsiError} as {@link CsiClient.stream} */
  stream<R extends StreamRpc>(rpc: R, request: Request<R>, signal: AbortSignal): AsyncIterable<Response<R>>;
}

/** What one socket said about itself. */
export interface MetSocket {
  readonly name: string;
  readonly vendorVersion: string;
  readonly manifest: StringMap;
  /** What it serves, not what it says that its plugin has. */
  readonly parts: ReadonlySet<PluginPart>;
  readonly capabilities: PluginCapabilities;
  /** Absent when it does not serve NodeGetInfo. */
  readonly node?: PluginNode;
}

/**
 * Asks a socket who is there: GetPluginInfo, Probe, then the capabilities of what it serves; of its role only, when it
 * has one. Undefined while the plugin is starting.
 * @throws {CsiError} when it does not answer, or not as it must
 */
export async function meetSocket(
  client: CsiClient,
  role: PluginRole | undefined,
  signal: AbortSignal,
): Promise<MetSocket | undefined> {
  const info = await client.call('GetPluginInfo', {}, signal);
  const name = lawful('GetPluginInfo', client.socketPath, () => checkPluginName('name', info.name));
  client.named(name);
  const vendorVersion = lawful('GetPluginInfo', name, () => checkText('vendor_version', info.vendorVersion));
  const manifest = lawful('GetPluginInfo', name, () => checkMap('manifest', info.manifest));
  if (!(await client.probe(signal))) return undefined;
  const answer = await client.call('GetPluginCapabilities', {}, signal);
  const plugin = new Set(answer.capabilities.flatMap(({ service }) => known<PluginService>(service?.type)));
  const expansion = new Set(answer.capabilities.flatMap(({ volumeExpansion }) => known(volumeExpansion?.type)));
  const has = (service: PluginService): boolean => role !== 'node' && plugin.has(service);
  const [controller, group, node, nodeInfo] = await Promise.all([
    has('CONTROLLER_SERVICE') ? controllerCapabilities(client, signal) : undefined,
    has('GROUP_CONTROLLER_SERVICE') ? groupCapabilities(client, signal) : undefined,
    role === 'controller' ? undefined : nodeCapabilities(client, signal),
    role === 'controller' ? undefined : readNode(client, name, plugin, signal),
  ]);
  const parts = new Set<PluginPart>();
  if (controller !== undefined) parts.add('controller');
  if (group !== undefined) parts.add('groupController');
  if (node !== undefined || nodeInfo !== undefined) parts.add('node');
  if (parts.size === 0) {
    throw new CsiError(
      'UNIMPLEMENTED',
      name,
      'NodeGetCapabilities',
      `it does not serve ${role ?? 'Controller or Node'}`,
    );
  }
  const capabilities = {
    expansion,
    plugin,
    controller: controller ?? new Set<never>(),
    node: node ?? new Set<never>(),
    groupController: group ?? new Set<never>(),
  };
  return { name, vendorVersion, manifest, parts, capabilities, ...(nodeInfo === undefined ? {} : { node: nodeInfo }) };
}

/** A socket may speak of a controller that listens elsewhere: then this one serves nothing of it. */
async function controllerCapabilities(
  client: CsiClient,
  signal: AbortSignal,
): Promise<ReadonlySet<ControllerCapability> | undefined> {
  const answer = await unlessUnimplemented(client.call('ControllerGetCapabilities', {}, signal));
  return answer && new Set(answer.capabilities.flatMap(({ rpc }) => known<ControllerCapability>(rpc?.type)));
}

async function groupCapabilities(
  client: CsiClient,
  signal: AbortSignal,
): Promise<ReadonlySet<GroupControllerCapability> | undefined> {
  const answer = await unlessUnimplemented(client.call('GroupControllerGetCapabilities', {}, signal));
  return answer && new Set(answer.capabilities.flatMap(({ rpc }) => known<GroupControllerCapability>(rpc?.type)));
}

async function nodeCapabilities(
  client: CsiClient,
  signal: AbortSignal,
): Promise<ReadonlySet<NodeCapability> | undefined> {
  const answer = await unlessUnimplemented(client.call('NodeGetCapabilities', {}, signal));
  return answer && new Set(answer.capabilities.flatMap(({ rpc }) => known<NodeCapability>(rpc?.type)));
}

/** Only plugins that attach volumes to nodes, or care where nodes are, need to know this one. */
async function readNode(
  client: CsiClient,
  name: string,
  plugin: ReadonlySet<PluginService>,
  signal: AbortSignal,
): Promise<PluginNode | undefined> {
  const answer = await unlessUnimplemented(client.call('NodeGetInfo', {}, signal));
  if (answer === undefined) return undefined;
  const nodeId = lawful('NodeGetInfo', name, () => checkText('node_id', answer.nodeId, LIMITS.nodeId));
  const most = Number(answer.maxVolumesPerNode);
  if (most < 0) throw new CsiError('INTERNAL', name, 'NodeGetInfo', `max_volumes_per_node is negative: ${most}`);
  const segments = plugin.has('VOLUME_ACCESSIBILITY_CONSTRAINTS') ? answer.accessibleTopology?.segments : undefined;
  return {
    nodeId,
    ...(segments === undefined
      ? {}
      : { topology: lawful('NodeGetInfo', name, () => checkMap('accessible_topology', segments)) }),
    // Zero leaves the number to the orchestrator (CSI NodeGetInfo).
    ...(most === 0 ? {} : { maxVolumesPerNode: most }),
  };
}

/** Enum values newer than this code arrive as numbers and are left out, as is the one that says nothing. */
function known<T extends string>(value: T | undefined): T[] {
  return typeof value === 'string' && value !== 'UNKNOWN' ? [value] : [];
}

async function unlessUnimplemented<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof CsiError && error.code === 'UNIMPLEMENTED') return undefined;
    throw error;
  }
}

/**
 * Runs a check on what a plugin answered. A bad answer is the plugin's fault, not the caller's.
 * @throws {CsiError} with `code`, naming plugin, call and field
 */
export function lawful<T>(rpc: Rpc, plugin: string, check: () => T, code: Code = 'INTERNAL'): T {
  try {
    return check();
  } catch (error) {
    const reason = RuntimeError.from(error, 'bad answer').message;
    throw new CsiError(code, plugin, rpc, `its answer breaks the protocol: ${reason}`, { cause: error });
  }
}

/** Capabilities as text for people: "controller:CREATE_DELETE_VOLUME", sorted. */
export function capabilityNames({ plugin, controller, node, groupController }: PluginCapabilities): string[] {
  const prefixed = (scope: string, names: ReadonlySet<string>): string[] =>
    [...names].map((name) => `${scope}:${name}`);
  return [
    ...prefixed('plugin', plugin),
    ...prefixed('controller', controller),
    ...prefixed('node', node),
    ...prefixed('groupController', groupController),
  ].sort();
}
