/**
 * A CSI volume as a durable record, and its states as data. A volume climbs a ladder of four rungs; each rung has one
 * call up and one call down, and a state of its own for each call under way, written before the call is sent:
 *
 *                                up                                            down
 *   (no record)
 *     |            CreateVolume             creating               DeleteVolume               deleting
 *   created
 *     |            ControllerPublishVolume  controller-publishing  ControllerUnpublishVolume  controller-unpublishing
 *   controller-published
 *     |            NodeStageVolume          staging                NodeUnstageVolume          unstaging
 *   staged
 *     |            NodePublishVolume        publishing             NodeUnpublishVolume        unpublishing
 *   published
 *
 * The plugin's capabilities say which of the middle rungs there are. Nothing here calls anything.
 */
import { z } from 'zod';
import { type StringMap, stringMap } from '../string-map.ts';
import { type AccessMode, LIMITS, type PluginCapabilities } from './protocol.ts';
import { CONTAINER_ID, VOLUME_NAME, type VolumeAccess, type VolumeSource } from './volume-request.ts';

/** The ladder, bottom first. */
export const RUNGS = [
  {
    rung: 'volume',
    up: 'CreateVolume',
    raising: 'creating',
    raised: 'created',
    down: 'DeleteVolume',
    lowering: 'deleting',
  },
  {
    rung: 'attachment',
    up: 'ControllerPublishVolume',
    raising: 'controller-publishing',
    raised: 'controller-published',
    down: 'ControllerUnpublishVolume',
    lowering: 'controller-unpublishing',
  },
  {
    rung: 'stage',
    up: 'NodeStageVolume',
    raising: 'staging',
    raised: 'staged',
    down: 'NodeUnstageVolume',
    lowering: 'unstaging',
  },
  {
    rung: 'publication',
    up: 'NodePublishVolume',
    raising: 'publishing',
    raised: 'published',
    down: 'NodeUnpublishVolume',
    lowering: 'unpublishing',
  },
] as const;

export type Rung = (typeof RUNGS)[number];
export type RungName = Rung['rung'];

/** Where a volume stands: on a rung, or between two with a call under way or of unknown outcome. */
export type VolumeState = Rung['raising' | 'raised' | 'lowering'];

/** A container's use of a volume: recorded before anything is done for it, gone when all of it is undone. */
export interface Claim {
  readonly containerId: string;
  readonly readOnly: boolean;
  /** Where the container sees the volume, for lists. */
  readonly target?: string | undefined;
  readonly claimedAt: string;
  /** The container is done with it; the claim stays until the volume is down. */
  readonly releasing: boolean;
}

/** Why the last transition failed. */
export interface VolumeFailure {
  readonly message: string;
  readonly code: string;
  readonly failedAt: string;
}

/** What a volume was filled from, with the plugin's id of it as it was then: a repeated CreateVolume says the same. */
export interface RecordedSource extends VolumeSource {
  readonly id: string;
}

/** The durable facts about a volume. */
export interface VolumeRecord {
  readonly name: string;
  readonly driver: string;
  /** As asked for: bytes in decimal, since int64 is wider than a number. */
  readonly requestedBytes: string;
  readonly access: VolumeAccess;
  readonly fsType?: string | undefined;
  readonly parameters: StringMap;
  readonly source?: RecordedSource | undefined;
  /** The name CreateVolume is called with, made once: repeating the call can never make a second volume. */
  readonly csiName: string;
  readonly accessMode: AccessMode;
  /** False for a volume the plugin has not made: its name is its id, and removing it only forgets it. */
  readonly provisioned: boolean;
  /** Where the volume must be reachable, in the plugin's labels; absent when the plugin has none. */
  readonly topology?: StringMap | undefined;
  /** The plugin's id; absent until CreateVolume has answered. Any text: never part of a path. */
  readonly volumeId?: string | undefined;
  readonly volumeContext: StringMap;
  /** As made: bytes in decimal. */
  readonly capacityBytes: string;
  readonly state: VolumeState;
  /** Rungs of the current climb, bottom first, fixed when it begins. */
  readonly rungs: readonly RungName[];
  /** This node and what the controller said when the volume was attached to it. */
  readonly nodeId?: string | undefined;
  readonly publishContext: StringMap;
  /** The boot in which the current climb began: after another boot its mounts are gone. */
  readonly bootId?: string | undefined;
  readonly claims: readonly Claim[];
  readonly failure?: VolumeFailure | undefined;
  readonly createdAt: string;
}

/** A state taken apart. */
export interface Position {
  readonly rung: Rung;
  readonly phase: 'raising' | 'raised' | 'lowering';
}

/** Which rung a state is about, and in which direction. */
export function positionOf(state: VolumeState): Position {
  for (const rung of RUNGS) {
    if (rung.raising === state) return { rung, phase: 'raising' };
    if (rung.raised === state) return { rung, phase: 'raised' };
    if (rung.lowering === state) return { rung, phase: 'lowering' };
  }
  throw new Error(`no such volume state: ${String(state)}`);
}

/** The rung to climb now: the one under way is repeated. Undefined at the top. */
export function rungAbove(record: VolumeRecord): Rung | undefined {
  const { rung, phase } = positionOf(record.state);
  if (phase === 'raising') return rung;
  return RUNGS.slice(RUNGS.indexOf(rung) + 1).find((next) => record.rungs.includes(next.rung));
}

/** The state below a rung; undefined below the first, where there is no record. */
export function stateBelow(record: VolumeRecord, rung: Rung): VolumeState | undefined {
  return RUNGS.slice(0, RUNGS.indexOf(rung)).findLast((one) => record.rungs.includes(one.rung))?.raised;
}

/** Rungs of a volume of this plugin, bottom first (CSI "Volume Lifecycle"). */
export function rungsFor({ controller, node }: PluginCapabilities): readonly RungName[] {
  return [
    'volume',
    ...(controller.has('PUBLISH_UNPUBLISH_VOLUME') ? (['attachment'] as const) : []),
    ...(node.has('STAGE_UNSTAGE_VOLUME') ? (['stage'] as const) : []),
    'publication',
  ];
}

/**
 * The access mode of a volume: one node, which may write. A plugin that tells one writer from many of a node is told
 * that there may be many; controller and node must both know (CSI "AccessMode").
 */
export function accessModeFor({ plugin, controller, node }: PluginCapabilities): AccessMode {
  const knows = !plugin.has('CONTROLLER_SERVICE') || controller.has('SINGLE_NODE_MULTI_WRITER');
  return knows && node.has('SINGLE_NODE_MULTI_WRITER') ? 'SINGLE_NODE_MULTI_WRITER' : 'SINGLE_NODE_WRITER';
}

/** Claims of containers that still use the volume. */
export function activeClaims(record: VolumeRecord): readonly Claim[] {
  return record.claims.filter((claim) => !claim.releasing);
}

const decimal: z.ZodString = z.string().regex(/^(0|[1-9][0-9]{0,18})$/);
const instant: z.ZodISODateTime = z.iso.datetime();
const ACCESS_MODES = ['SINGLE_NODE_WRITER', 'SINGLE_NODE_MULTI_WRITER'] as const satisfies readonly AccessMode[];

const recordSchema: z.ZodType<VolumeRecord> = z.object({
  name: z.string().regex(VOLUME_NAME),
  driver: z.string().max(LIMITS.pluginName),
  requestedBytes: decimal,
  access: z.enum(['mount', 'block']),
  fsType: z.string().optional(),
  parameters: stringMap,
  source: z
    .object({ kind: z.enum(['snapshot', 'volume']), name: z.string().regex(VOLUME_NAME), id: z.string().min(1) })
    .optional(),
  csiName: z.string().min(1).max(LIMITS.string),
  accessMode: z.enum(ACCESS_MODES),
  provisioned: z.boolean(),
  topology: stringMap.optional(),
  volumeId: z.string().min(1).optional(),
  volumeContext: stringMap,
  capacityBytes: decimal,
  state: z.enum(RUNGS.flatMap(({ raising, raised, lowering }) => [raising, raised, lowering])),
  rungs: z.array(z.enum(RUNGS.map(({ rung }) => rung))),
  nodeId: z.string().optional(),
  publishContext: stringMap,
  bootId: z.string().optional(),
  claims: z.array(
    z.object({
      containerId: z.string().regex(CONTAINER_ID),
      readOnly: z.boolean(),
      target: z.string().optional(),
      claimedAt: instant,
      releasing: z.boolean(),
    }),
  ),
  failure: z.object({ message: z.string(), code: z.string(), failedAt: instant }).optional(),
  createdAt: instant,
});

/** Decodes a stored record. @throws when the value does not have the shape of one */
export function decodeVolumeRecord(value: unknown): VolumeRecord {
  return recordSchema.parse(value);
}
