/**
 * A CSI plugin that was met: who it is, what it offers, and calls to it. What is told here is fixed for one connection;
 * when the plugin comes back after a restart it is asked again, since a new release may offer other things.
 */
import { type Code, RuntimeError } from '../errors.ts';
import type { CsiClient } from './csi-client.ts';
import {
  type ControllerCapability,
  CsiError,
  checkMap,
  checkPluginName,
  checkText,
  LIMITS,
  type NodeCapability,
  type PluginCapabilities,
  type PluginService,
  type Request,
  type Response,
  type Rpc,
  type StringMap,
} from './protocol.ts';

/** A plugin that answered and is ready. */
export interface Plugin {
  /** What the plugin calls itself: "local.csi.berth". */
  readonly name: string;
  readonly socketPath: string;
  readonly vendorVersion: string;
  readonly capabilities: PluginCapabilities;
  /** This machine as the plugin knows it; absent when the plugin has no need of it. */
  readonly nodeId?: string;
  /** Where this machine is, in the plugin's own labels. */
  readonly topology?: StringMap;

  /** @throws {CsiError} as {@link CsiClient.call} */
  call<R extends Rpc>(rpc: R, request: Request<R>, signal: AbortSignal): Promise<Response<R>>;
}

/**
 * Asks a socket who is there: GetPluginInfo, Probe, then the capabilities. Undefined while the plugin is starting.
 * @throws {CsiError} when it does not answer, or not as it must
 */
export async function meetPlugin(client: CsiClient, signal: AbortSignal): Promise<Plugin | undefined> {
  const info = await client.call('GetPluginInfo', {}, signal);
  const name = lawful('GetPluginInfo', info.name, () => checkPluginName('name', info.name));
  client.named(name);
  if (!(await client.probe(signal))) return undefined;
  const capabilities = await readCapabilities(client, signal);
  const node = await readNode(client, name, capabilities, signal);
  return {
    name,
    socketPath: client.socketPath,
    vendorVersion: info.vendorVersion,
    capabilities,
    ...node,
    call: (rpc, request, callSignal) => client.call(rpc, request, callSignal),
  };
}

async function readCapabilities(client: CsiClient, signal: AbortSignal): Promise<PluginCapabilities> {
  const { capabilities } = await client.call('GetPluginCapabilities', {}, signal);
  const plugin = new Set(capabilities.flatMap(({ service }) => known<PluginService>(service?.type)));
  const [controller, node] = await Promise.all([
    plugin.has('CONTROLLER_SERVICE') ? readControllerCapabilities(client, signal) : new Set<ControllerCapability>(),
    readNodeCapabilities(client, signal),
  ]);
  return { plugin, controller, node };
}

/** A socket may speak of a controller that listens elsewhere: then this one offers nothing of it. */
async function readControllerCapabilities(
  client: CsiClient,
  signal: AbortSignal,
): Promise<ReadonlySet<ControllerCapability>> {
  const answer = await unlessUnimplemented(client.call('ControllerGetCapabilities', {}, signal));
  return new Set(answer?.capabilities.flatMap(({ rpc }) => known<ControllerCapability>(rpc?.type)));
}

async function readNodeCapabilities(client: CsiClient, signal: AbortSignal): Promise<ReadonlySet<NodeCapability>> {
  const answer = await unlessUnimplemented(client.call('NodeGetCapabilities', {}, signal));
  return new Set(answer?.capabilities.flatMap(({ rpc }) => known<NodeCapability>(rpc?.type)));
}

/** Only plugins that attach volumes to nodes, or care where nodes are, need to know this one. */
async function readNode(
  client: CsiClient,
  name: string,
  { plugin, controller }: PluginCapabilities,
  signal: AbortSignal,
): Promise<{ nodeId?: string; topology?: StringMap }> {
  const answer = await unlessUnimplemented(client.call('NodeGetInfo', {}, signal));
  if (answer === undefined) {
    if (!controller.has('PUBLISH_UNPUBLISH_VOLUME')) return {};
    throw new CsiError('UNIMPLEMENTED', name, 'NodeGetInfo', 'volumes are attached to nodes, but nodes have no id');
  }
  const nodeId = lawful('NodeGetInfo', name, () => checkText('node_id', answer.nodeId, LIMITS.nodeId));
  const segments = answer.accessibleTopology?.segments;
  if (segments === undefined || !plugin.has('VOLUME_ACCESSIBILITY_CONSTRAINTS')) return { nodeId };
  return { nodeId, topology: lawful('NodeGetInfo', name, () => checkMap('accessible_topology', segments)) };
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
export function capabilityNames({ plugin, controller, node }: PluginCapabilities): string[] {
  const prefixed = (scope: string, names: ReadonlySet<string>): string[] =>
    [...names].map((name) => `${scope}:${name}`);
  return [...prefixed('plugin', plugin), ...prefixed('controller', controller), ...prefixed('node', node)].sort();
}
