/**
 * One plugin out of its sockets: which socket serves which part, what they offer together, and whether that is enough to
 * work with. A part whose socket is away keeps what it said when it was last met: calls to it fail until it is back, and
 * nobody takes the plugin for one that lacks the part.
 */
import type { MetSocket, Plugin, PluginPart } from './plugin.ts';
import type { PluginState } from './plugin-connection.ts';
import type { PluginRole } from './plugin-registration.ts';
import {
  type Csi,
  CsiError,
  type PluginCapabilities,
  type Request,
  type Response,
  type Rpc,
  type StreamRpc,
} from './protocol.ts';

/** A socket of a plugin, as it is at the moment at which it is looked at. */
export interface PluginMember {
  readonly socketPath: string;
  readonly role: PluginRole | undefined;
  readonly state: PluginState;
  readonly reason: string | undefined;
  readonly met: MetSocket | undefined;
  call<R extends Rpc>(rpc: R, request: Request<R>, signal: AbortSignal): Promise<Response<R>>;
  stream<R extends StreamRpc>(rpc: R, request: Request<R>, signal: AbortSignal): AsyncIterable<Response<R>>;
}

/** What came of it: `plugin` when calls can be made, `lack` when something of it is not as it should be. */
export interface Assembly {
  readonly plugin?: Plugin;
  readonly state: PluginState;
  readonly lack?: string;
}

const SERVICE_PARTS: Readonly<Record<string, PluginPart>> = {
  'csi.v1.Controller': 'controller',
  'csi.v1.SnapshotMetadata': 'controller',
  'csi.v1.GroupController': 'groupController',
  'csi.v1.Node': 'node',
  'csi.v1.Identity': 'node',
};

/**
 * Puts a plugin together.
 * @param members its sockets, at least one, those that come first preferred; none is refused
 * @param whole sockets that must have been met before the plugin is known, having been registered as parts of it
 */
export function assemble(
  csi: Csi,
  name: string,
  members: readonly PluginMember[],
  whole: (member: PluginMember) => boolean,
): Assembly {
  const owner = (part: PluginPart): PluginMember | undefined => {
    const serving = members.filter(({ met }) => met?.parts.has(part));
    return serving.find(({ state }) => state === 'ready') ?? serving[0];
  };
  const unmet = members.find((member) => member.met === undefined && whole(member) && !isServed(member, owner));
  if (unmet !== undefined) return { state: unmet.state === 'ready' ? 'starting' : unmet.state, lack: told(unmet) };
  const node = owner('node');
  const [first] = members;
  if (node?.met === undefined) {
    if (first !== undefined && first.state !== 'ready') return { state: first.state, lack: told(first) };
    return { state: 'starting', lack: 'none of its sockets serves Node; register the socket of its node part, too' };
  }
  const owners = (['node', 'controller', 'groupController'] as const).flatMap((part) => owner(part) ?? []);
  const capabilities = together(owners, owner);
  if (capabilities.controller.has('PUBLISH_UNPUBLISH_VOLUME') && node.met.node === undefined) {
    const lack = new CsiError(
      'UNIMPLEMENTED',
      name,
      'NodeGetInfo',
      'volumes are attached to nodes, but nodes have no id',
    );
    return { state: 'unreachable', lack: lack.message };
  }
  const away = owners.find(({ state }) => state !== 'ready');
  const health: Assembly = away === undefined ? { state: 'ready' } : { state: away.state, lack: told(away) };
  if (owners.every(({ state }) => state !== 'ready')) return health;
  const { vendorVersion, manifest } = node.met;
  /** The socket a call goes to. @throws {CsiError} when there is none, or it is away */
  const memberFor = (rpc: Rpc | StreamRpc): PluginMember => {
    const service = csi.calls[rpc].path.split('/')[1] ?? '';
    const member = owner(SERVICE_PARTS[service] ?? 'node');
    if (member === undefined) throw new CsiError('UNIMPLEMENTED', name, rpc, `none of its sockets serves ${service}`);
    if (member.state !== 'ready') throw new CsiError('UNAVAILABLE', name, rpc, told(member));
    return member;
  };
  const plugin: Plugin = {
    name,
    vendorVersion,
    manifest,
    capabilities,
    sockets: members.map(({ socketPath }) => socketPath),
    ...node.met.node,
    call: async (rpc, request, signal) => memberFor(rpc).call(rpc, request, signal),
    async *stream(rpc, request, signal) {
      yield* memberFor(rpc).stream(rpc, request, signal);
    },
  };
  return { ...health, plugin };
}

function isServed({ role }: PluginMember, owner: (part: PluginPart) => PluginMember | undefined): boolean {
  return role !== undefined && owner(role) !== undefined;
}

function told({ role, socketPath, state, reason }: PluginMember): string {
  const part = role === undefined ? '' : `its ${role} at ${socketPath} is ${state}: `;
  return `${part}${reason ?? 'no reason known'}`;
}

/** Each part's capabilities from the socket that serves it. */
function together(
  owners: readonly PluginMember[],
  owner: (part: PluginPart) => PluginMember | undefined,
): PluginCapabilities {
  return {
    expansion: new Set(owners.flatMap(({ met }) => [...(met?.capabilities.expansion ?? [])])),
    plugin: new Set(owners.flatMap(({ met }) => [...(met?.capabilities.plugin ?? [])])),
    controller: owner('controller')?.met?.capabilities.controller ?? new Set(),
    node: owner('node')?.met?.capabilities.node ?? new Set(),
    groupController: owner('groupController')?.met?.capabilities.groupController ?? new Set(),
  };
}
