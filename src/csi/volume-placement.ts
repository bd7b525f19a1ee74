/** Whether a volume may come to this node: where it is reachable, and how many the node takes (CSI NodeGetInfo). */
import { RuntimeError } from '../errors.ts';
import type { Plugin } from './plugin.ts';
import type { StringMap } from './protocol.ts';
import type { VolumeRecord } from './volume.ts';
import type { VolumeRequest } from './volume-request.ts';

/**
 * True when all segments of one entry hold here; no entry means everywhere. Keys know no case (CSI "Topology").
 */
export function isReachable(entries: readonly StringMap[], here: StringMap): boolean {
  if (entries.length === 0) return true;
  const found = new Map(Object.entries(here).map(([key, value]) => [key.toLowerCase(), value]));
  return entries.some((entry) => Object.entries(entry).every(([key, value]) => found.get(key.toLowerCase()) === value));
}

/** Both sides as text: "{...} or {...}, this node is {...}". */
export function bothSides(entries: readonly StringMap[], here: StringMap): string {
  const there = entries.map((entry) => JSON.stringify(entry)).join(' or ');
  return `${there}, this node is ${JSON.stringify(here)}`;
}

/**
 * The node may have moved since the volume was made: what the plugin says now counts.
 * @throws {RuntimeError} FAILED_PRECONDITION with both sides
 */
export function checkReachable({ name, accessibleTopology }: VolumeRecord, { topology }: Plugin): void {
  const here = topology ?? {};
  if (isReachable(accessibleTopology, here)) return;
  const reason = `accessible_topology is ${bothSides(accessibleTopology, here)}`;
  throw new RuntimeError('FAILED_PRECONDITION', `volume ${name} cannot be reached from here: ${reason}`);
}

/**
 * A class may say where its volumes are: this node must be there, since it is to use them.
 * @throws {RuntimeError} FAILED_PRECONDITION with both sides
 */
export function checkAllowed(
  { volumeClass = '', allowedTopologies = [] }: Pick<VolumeRequest, 'volumeClass' | 'allowedTopologies'>,
  { topology }: Plugin,
): void {
  const here = topology ?? {};
  if (isReachable(allowedTopologies, here)) return;
  const reason = `allowed-topologies are ${bothSides(allowedTopologies, here)}`;
  throw new RuntimeError('FAILED_PRECONDITION', `volumes of class ${volumeClass} cannot be made here: ${reason}`);
}

/**
 * Where CreateVolume may make a volume: here, and in the other places of its class, here first. A plugin that keeps data in
 * several places chooses among them (CSI "TopologyRequirement"). Undefined when the plugin knows no places.
 */
export function requirementOf({
  topology,
  allowedTopologies = [],
}: Pick<VolumeRecord, 'topology' | 'allowedTopologies'>): readonly StringMap[] | undefined {
  if (topology === undefined) return undefined;
  return [topology, ...allowedTopologies.filter((place) => !isReachable([place], topology))];
}

/**
 * Counts what of the plugin is on this node, or half way; `climbing` are names of volumes that have been let in and have
 * not moved yet.
 * @throws {RuntimeError} RESOURCE_EXHAUSTED when there is no room for one more
 */
export function checkRoom(
  { name, driver }: VolumeRecord,
  { maxVolumesPerNode }: Plugin,
  records: Iterable<VolumeRecord>,
  climbing: ReadonlySet<string>,
): void {
  if (maxVolumesPerNode === undefined) return;
  const here = [...records].filter(
    (one) => one.driver === driver && one.name !== name && (isHere(one) || climbing.has(one.name)),
  );
  if (here.length < maxVolumesPerNode) return;
  const names = here.map((one) => one.name).join(', ');
  const reason = `CSI plugin ${driver} takes ${maxVolumesPerNode} volumes per node, here are ${names}`;
  throw new RuntimeError('RESOURCE_EXHAUSTED', `volume ${name}: ${reason}: stop what uses one of them`);
}

function isHere({ state }: VolumeRecord): boolean {
  return state !== 'creating' && state !== 'created' && state !== 'deleting';
}
