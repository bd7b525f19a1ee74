/**
 * CSI 1.12 as Berth uses it: the loaded messages, the shapes of the calls, the names of capabilities and the limits
 * both sides must keep. Wire words stay the specification's. What a call means for a volume is not said here.
 *
 * Types and descriptor in `src/csi/generated` are made of csi.proto by scripts/generate.sh.
 * int64 travels as decimal text, enum values as their names, absent messages as null. Enum values this file does not
 * know arrive as numbers and are left out: a newer plugin must not break an older Berth.
 */
import type { ServiceDefinition } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import { type Code, invalid, RuntimeError } from '../errors.ts';
import { serviceDefinitions } from '../service-definitions.ts';
import type { StringMap } from '../string-map.ts';
import type { ControllerDefinition } from './generated/csi/v1/Controller.ts';
import type { _csi_v1_ControllerServiceCapability_RPC_Type__Output } from './generated/csi/v1/ControllerServiceCapability.ts';
import type { GroupControllerDefinition } from './generated/csi/v1/GroupController.ts';
import type { _csi_v1_GroupControllerServiceCapability_RPC_Type__Output } from './generated/csi/v1/GroupControllerServiceCapability.ts';
import type { IdentityDefinition } from './generated/csi/v1/Identity.ts';
import type { NodeDefinition } from './generated/csi/v1/Node.ts';
import type { _csi_v1_NodeServiceCapability_RPC_Type__Output } from './generated/csi/v1/NodeServiceCapability.ts';
import type { _csi_v1_PluginCapability_Service_Type__Output } from './generated/csi/v1/PluginCapability.ts';
import type { SnapshotMetadataDefinition } from './generated/csi/v1/SnapshotMetadata.ts';
import type {
  _csi_v1_VolumeCapability_AccessMode_Mode__Output,
  VolumeCapability,
} from './generated/csi/v1/VolumeCapability.ts';
import type { VolumeContentSource } from './generated/csi/v1/VolumeContentSource.ts';
import { descriptor } from './generated/csi-descriptor.ts';

export type { StringMap, VolumeCapability, VolumeContentSource };

export type PluginService = _csi_v1_PluginCapability_Service_Type__Output;
export type ControllerCapability = _csi_v1_ControllerServiceCapability_RPC_Type__Output;
export type GroupControllerCapability = _csi_v1_GroupControllerServiceCapability_RPC_Type__Output;
export type NodeCapability = _csi_v1_NodeServiceCapability_RPC_Type__Output;
export type AccessMode = _csi_v1_VolumeCapability_AccessMode_Mode__Output;

/** The calls that have one answer, with the definitions of their messages, by service. */
export interface CsiDefinitions {
  readonly GetPluginInfo: IdentityDefinition['GetPluginInfo'];
  readonly GetPluginCapabilities: IdentityDefinition['GetPluginCapabilities'];
  readonly Probe: IdentityDefinition['Probe'];
  readonly ControllerGetCapabilities: ControllerDefinition['ControllerGetCapabilities'];
  readonly CreateVolume: ControllerDefinition['CreateVolume'];
  readonly DeleteVolume: ControllerDefinition['DeleteVolume'];
  readonly ControllerPublishVolume: ControllerDefinition['ControllerPublishVolume'];
  readonly ControllerUnpublishVolume: ControllerDefinition['ControllerUnpublishVolume'];
  readonly ValidateVolumeCapabilities: ControllerDefinition['ValidateVolumeCapabilities'];
  readonly ListVolumes: ControllerDefinition['ListVolumes'];
  readonly GetCapacity: ControllerDefinition['GetCapacity'];
  readonly ControllerGetVolume: ControllerDefinition['ControllerGetVolume'];
  readonly ControllerExpandVolume: ControllerDefinition['ControllerExpandVolume'];
  readonly ControllerModifyVolume: ControllerDefinition['ControllerModifyVolume'];
  readonly CreateSnapshot: ControllerDefinition['CreateSnapshot'];
  readonly DeleteSnapshot: ControllerDefinition['DeleteSnapshot'];
  readonly ListSnapshots: ControllerDefinition['ListSnapshots'];
  readonly GetSnapshot: ControllerDefinition['GetSnapshot'];
  readonly NodeGetCapabilities: NodeDefinition['NodeGetCapabilities'];
  readonly NodeGetInfo: NodeDefinition['NodeGetInfo'];
  readonly NodeStageVolume: NodeDefinition['NodeStageVolume'];
  readonly NodeUnstageVolume: NodeDefinition['NodeUnstageVolume'];
  readonly NodePublishVolume: NodeDefinition['NodePublishVolume'];
  readonly NodeUnpublishVolume: NodeDefinition['NodeUnpublishVolume'];
  readonly NodeGetVolumeStats: NodeDefinition['NodeGetVolumeStats'];
  readonly NodeExpandVolume: NodeDefinition['NodeExpandVolume'];
  readonly GroupControllerGetCapabilities: GroupControllerDefinition['GroupControllerGetCapabilities'];
  readonly CreateVolumeGroupSnapshot: GroupControllerDefinition['CreateVolumeGroupSnapshot'];
  readonly DeleteVolumeGroupSnapshot: GroupControllerDefinition['DeleteVolumeGroupSnapshot'];
  readonly GetVolumeGroupSnapshot: GroupControllerDefinition['GetVolumeGroupSnapshot'];
}

/** The calls whose answers come as a stream. */
export interface CsiStreamDefinitions {
  readonly GetMetadataAllocated: SnapshotMetadataDefinition['GetMetadataAllocated'];
  readonly GetMetadataDelta: SnapshotMetadataDefinition['GetMetadataDelta'];
}

/** Name of a call: "NodeStageVolume". */
export type Rpc = keyof CsiDefinitions;

/** Name of a call that is answered by a stream. */
export type StreamRpc = keyof CsiStreamDefinitions;

/** What is sent with a call. */
export type Request<R extends Rpc | StreamRpc> = object &
  ((CsiDefinitions & CsiStreamDefinitions)[R] extends MethodDefinition<infer Q, infer _P, infer _I, infer _O>
    ? Q
    : never);

/** What comes back from a call; of a stream, one message of it. */
export type Response<R extends Rpc | StreamRpc> =
  (CsiDefinitions & CsiStreamDefinitions)[R] extends MethodDefinition<infer _Q, infer _P, infer _I, infer O>
    ? O
    : never;

/** The loaded protocol. */
export interface Csi {
  readonly calls: CsiDefinitions & CsiStreamDefinitions;
  /** Whole services, for servers: "Identity", "Controller", "Node", "GroupController", "SnapshotMetadata". */
  service(name: string): ServiceDefinition;
}

/** The protocol, once per process and handed on. */
export function loadCsi(): Csi {
  const definitions = serviceDefinitions(descriptor, 'csi.v1');
  const service = (name: string): ServiceDefinition => {
    const found = definitions.get(name);
    if (found === undefined) throw new RuntimeError('NOT_FOUND', `CSI has no service ${name}`);
    return found;
  };
  const services = ['Identity', 'Controller', 'Node', 'GroupController', 'SnapshotMetadata'];
  const calls = Object.assign({}, ...services.map(service));
  // The file is Berth's own; a test compares it, name by name, with the protocol the types were made from.
  return { calls: calls as Csi['calls'], service };
}

/** A plugin's refusal, or the failure to reach it. The code is the plugin's own status. */
export class CsiError extends RuntimeError {
  /** Name of the plugin, or its socket while the name is not known. */
  readonly plugin: string;
  readonly rpc: Rpc | StreamRpc;
  /** The same call had been sent before, and what came of that is not known: it may have done what this one was refused. */
  readonly isRepeated: boolean;
  readonly #reason: string;

  constructor(
    code: Code,
    plugin: string,
    rpc: Rpc | StreamRpc,
    reason: string,
    options: ErrorOptions & { readonly isRepeated?: boolean } = {},
  ) {
    super(code, `${rpc} of CSI plugin ${plugin}: ${reason}`, options);
    this.plugin = plugin;
    this.rpc = rpc;
    this.isRepeated = options.isRepeated ?? false;
    this.#reason = reason;
  }

  /** The same failure of a call that was sent before. */
  repeated(): CsiError {
    return new CsiError(this.code, this.plugin, this.rpc, this.#reason, { cause: this, isRepeated: true });
  }
}

/** Limits of CSI "Size Limits", in bytes of UTF-8. */
export const LIMITS = {
  string: 128,
  /** Keys and values of a map together. */
  map: 4096,
  nodeId: 256,
  /** Every plugin takes paths up to here. */
  path: 128,
  pluginName: 63,
} as const;

/** Plugin names are domain style: "local.csi.berth". */
const PLUGIN_NAME = /^[A-Za-z0-9]([-.A-Za-z0-9]{0,61}[A-Za-z0-9])?$/;

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field when the name cannot be one of a plugin */
export function checkPluginName(field: string, name: string): string {
  if (!PLUGIN_NAME.test(name)) throw invalid(field, `${JSON.stringify(name)} must match ${PLUGIN_NAME.source}`);
  return name;
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field when the text is longer than `maxBytes` or not text */
export function checkText(field: string, text: string, maxBytes: number = LIMITS.string): string {
  if (!text.isWellFormed()) throw invalid(field, 'is not valid Unicode');
  const bytes = Buffer.byteLength(text);
  if (bytes > maxBytes) throw invalid(field, `has ${bytes} bytes, at most ${maxBytes} are allowed`);
  return text;
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field when keys and values together are over the limit */
export function checkMap(field: string, map: StringMap): StringMap {
  let bytes = 0;
  for (const [key, value] of Object.entries(map)) {
    if (!key.isWellFormed() || !value.isWellFormed()) throw invalid(field, 'is not valid Unicode');
    bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
  }
  if (bytes > LIMITS.map) throw invalid(field, `has ${bytes} bytes, at most ${LIMITS.map} are allowed`);
  return map;
}

/** What a plugin says it can do. */
export interface PluginCapabilities {
  readonly plugin: ReadonlySet<PluginService>;
  readonly controller: ReadonlySet<ControllerCapability>;
  readonly node: ReadonlySet<NodeCapability>;
  readonly groupController: ReadonlySet<GroupControllerCapability>;
  /** "ONLINE", "OFFLINE": when volumes may be expanded (CSI "VolumeExpansion"); absent when it does not say. */
  readonly expansion?: ReadonlySet<string>;
}

/** A volume capability in the words of the wire. */
export function volumeCapability(
  access: 'mount' | 'block',
  accessMode: AccessMode,
  fsType: string | undefined,
): VolumeCapability {
  const mode = { accessMode: { mode: accessMode } };
  return access === 'block' ? { block: {}, ...mode } : { mount: { fsType: fsType ?? '' }, ...mode };
}
