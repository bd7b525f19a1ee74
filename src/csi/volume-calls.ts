/**
 * The calls that move a volume, with the fields CSI asks for: made from the record alone, so that a repeated call says
 * exactly what the first one said; secrets are added when it is sent (plugin-caller.ts). What comes back is checked here
 * before anything believes it.
 */
import { RuntimeError } from '../errors.ts';
import type { VolumeContentSource__Output } from './generated/csi/v1/VolumeContentSource.ts';
import { lawful, type Plugin } from './plugin.ts';
import {
  CsiError,
  checkMap,
  checkText,
  type Request,
  type Response,
  type StringMap,
  type VolumeCapability,
  type VolumeContentSource,
  volumeCapability,
} from './protocol.ts';
import type { Publication, RecordedSource, VolumeRecord } from './volume.ts';
import type { VolumePaths } from './volume-mounts.ts';
import { bothSides, isReachable, requirementOf } from './volume-placement.ts';

/** What CreateVolume tells about a volume. */
export type MadeVolume = Pick<VolumeRecord, 'volumeId' | 'volumeContext' | 'capacityBytes' | 'accessibleTopology'>;

export function createRequest(record: VolumeRecord): Request<'CreateVolume'> {
  const places = requirementOf(record)?.map((segments) => ({ segments: { ...segments } }));
  return {
    name: record.csiName,
    capacityRange: { requiredBytes: record.requestedBytes },
    volumeCapabilities: [capabilityOf(record)],
    parameters: { ...record.parameters },
    mutableParameters: { ...record.mutableParameters },
    ...(record.source === undefined ? {} : { volumeContentSource: contentSource(record.source) }),
    ...(places === undefined ? {} : { accessibilityRequirements: { requisite: places, preferred: places } }),
  };
}

/** @throws {CsiError} FAILED_PRECONDITION when the volume cannot be used, though it was made: asking again is no help */
export function readCreated(record: VolumeRecord, { volume }: Response<'CreateVolume'>): MadeVolume {
  const check = (): MadeVolume => {
    if (volume === null) throw new RuntimeError('INTERNAL', 'volume is absent');
    if (volume.volumeId === '') throw new RuntimeError('INTERNAL', 'volume_id is empty');
    const made = BigInt(volume.capacityBytes);
    if (made !== 0n && made < BigInt(record.requestedBytes)) {
      throw new RuntimeError('INTERNAL', `capacity_bytes is ${made}, ${record.requestedBytes} were asked for`);
    }
    const accessibleTopology = volume.accessibleTopology.map(({ segments }) =>
      checkMap('accessible_topology', segments),
    );
    if (!isReachable(accessibleTopology, record.topology ?? {})) {
      const sides = bothSides(accessibleTopology, record.topology ?? {});
      throw new RuntimeError('INTERNAL', `accessible_topology is ${sides}`);
    }
    checkFilled(record, volume.contentSource);
    return {
      volumeId: checkText('volume_id', volume.volumeId),
      volumeContext: checkMap('volume_context', volume.volumeContext),
      accessibleTopology,
      // Zero means unknown.
      capacityBytes: made === 0n ? record.requestedBytes : String(made),
    };
  };
  return lawful('CreateVolume', record.driver, check, 'FAILED_PRECONDITION');
}

/** A source in the words of the wire. */
function contentSource({ kind, id }: RecordedSource): VolumeContentSource {
  return kind === 'snapshot' ? { snapshot: { snapshotId: id } } : { volume: { volumeId: id } };
}

/** A plugin that overlooked the source has made an empty volume (CSI CreateVolume). */
function checkFilled({ source }: VolumeRecord, said: VolumeContentSource__Output | null): void {
  if (source === undefined) return;
  const id = source.kind === 'snapshot' ? said?.snapshot?.snapshotId : said?.volume?.volumeId;
  if (id === source.id) return;
  const text = `content_source does not name ${source.kind} ${source.name}: the volume holds other data`;
  throw new RuntimeError('INTERNAL', text);
}

export function deleteRequest(record: VolumeRecord): Request<'DeleteVolume'> {
  return { volumeId: idOf(record) };
}

/** @throws {CsiError} UNIMPLEMENTED when the plugin has not said who this node is */
export function nodeIdOf(plugin: Plugin): string {
  if (plugin.nodeId !== undefined && plugin.nodeId !== '') return plugin.nodeId;
  throw new CsiError(
    'UNIMPLEMENTED',
    plugin.name,
    'NodeGetInfo',
    'volumes are attached to nodes, but node_id is empty',
  );
}

export function attachRequest(record: VolumeRecord): Request<'ControllerPublishVolume'> {
  return {
    volumeId: idOf(record),
    nodeId: attachedNode(record),
    volumeCapability: capabilityOf(record),
    readonly: false,
    volumeContext: { ...record.volumeContext },
  };
}

/** @throws {CsiError} INTERNAL when the answer is over the limits */
export function readAttached(record: VolumeRecord, response: Response<'ControllerPublishVolume'>): StringMap {
  const rpc = 'ControllerPublishVolume';
  return lawful(rpc, record.driver, () => checkMap('publish_context', response.publishContext));
}

export function detachRequest(record: VolumeRecord): Request<'ControllerUnpublishVolume'> {
  return { volumeId: idOf(record), nodeId: attachedNode(record) };
}

export function stageRequest(record: VolumeRecord, paths: VolumePaths): Request<'NodeStageVolume'> {
  return {
    volumeId: idOf(record),
    publishContext: { ...record.publishContext },
    stagingTargetPath: paths.stage,
    volumeCapability: capabilityOf(record),
    volumeContext: { ...record.volumeContext },
  };
}

export function unstageRequest(record: VolumeRecord, paths: VolumePaths): Request<'NodeUnstageVolume'> {
  return { volumeId: idOf(record), stagingTargetPath: paths.stage };
}

export function publishRequest(
  record: VolumeRecord,
  paths: VolumePaths,
  { key, readOnly, group }: Publication,
): Request<'NodePublishVolume'> {
  return {
    volumeId: idOf(record),
    publishContext: { ...record.publishContext },
    stagingTargetPath: record.rungs.includes('stage') ? paths.stage : '',
    targetPath: paths.target(key),
    volumeCapability: capabilityOf(record, group),
    readonly: readOnly,
    volumeContext: { ...record.volumeContext },
  };
}

export function unpublishRequest(record: VolumeRecord, targetPath: string): Request<'NodeUnpublishVolume'> {
  return { volumeId: idOf(record), targetPath };
}

/** How a volume is used: mount flags and the group that may write belong to it where there is a file system. */
export function capabilityOf(record: VolumeRecord, group: number | undefined = record.group): VolumeCapability {
  const { access, accessMode, fsType, mountFlags, delegatesGroup } = record;
  const capability = volumeCapability(access, accessMode, fsType);
  if (access === 'block') return capability;
  const volumeMountGroup = delegatesGroup && group !== undefined ? String(group) : '';
  return { ...capability, mount: { ...capability.mount, mountFlags: [...mountFlags], volumeMountGroup } };
}

/** @throws {RuntimeError} INTERNAL before CreateVolume has answered */
export function idOf({ name, volumeId }: VolumeRecord): string {
  if (volumeId !== undefined) return volumeId;
  throw new RuntimeError('INTERNAL', `volume ${name} has no id yet`);
}

/** Empty would mean all nodes (CSI ControllerUnpublishVolume). */
function attachedNode({ name, nodeId }: VolumeRecord): string {
  if (nodeId !== undefined && nodeId !== '') return nodeId;
  throw new RuntimeError('INTERNAL', `volume ${name} has no node id`);
}
