/**
 * A CSI volume as a durable record: what was asked for, what the plugin said, where it stands (volume-states.ts) and who
 * uses it. A record holds everything that a repeated call must say again.
 */
import * as z from 'zod';
import { type StringMap, stringMap } from '../string-map.ts';
import { VOLUME_MODES, type VolumeMode } from './access-modes.ts';
import { LIMITS } from './protocol.ts';
import { CONTAINER_ID, VOLUME_NAME, type VolumeAccess, type VolumeSource } from './volume-request.ts';
import { RUNGS, type RungName, TOP, type VolumeState } from './volume-states.ts';

/** A container's use of a volume: recorded before anything is done for it, gone when all of it is undone. */
export interface Claim {
  readonly containerId: string;
  readonly readOnly: boolean;
  /** Where the container sees the volume, for lists. */
  readonly target?: string | undefined;
  /** The group that may write, instead of the volume's own. */
  readonly group?: number | undefined;
  readonly claimedAt: string;
  /** The container is done with it; the claim stays until the volume is down. */
  readonly releasing: boolean;
}

/** One target of a volume: recorded before NodePublishVolume, gone after NodeUnpublishVolume. */
export interface Publication {
  /** The container it belongs to; empty for one that all containers share. */
  readonly key: string;
  readonly state: 'publishing' | 'published' | 'unpublishing';
  readonly readOnly: boolean;
  readonly group?: number | undefined;
}

/** Whom the files of a volume are given to when its plugin does not do it (VOLUME_MOUNT_GROUP). */
export const OWNERSHIP_POLICIES = ['never', 'root-mismatch', 'always'] as const;
export type OwnershipPolicy = (typeof OWNERSHIP_POLICIES)[number];

/** Whether containers may begin to use a volume. */
export const AVAILABILITIES = ['active', 'pause', 'drain'] as const;
export type Availability = (typeof AVAILABILITIES)[number];

export const RECLAIM_POLICIES = ['delete', 'retain'] as const;
export type ReclaimPolicy = (typeof RECLAIM_POLICIES)[number];

/** Why the last transition failed. */
export interface VolumeFailure {
  readonly message: string;
  readonly code: string;
  readonly failedAt: string;
  /** The call that was due: "NodeStageVolume". */
  readonly step?: string | undefined;
  /** How often in a row. */
  readonly attempts?: number | undefined;
}

/** A step down that an operator had skipped. */
export interface SkippedStep {
  readonly step: string;
  readonly reason: string;
  readonly skippedAt: string;
}

/** What a volume was filled from, with the plugin's id of it as it was then: a repeated CreateVolume says the same. */
export interface RecordedSource extends VolumeSource {
  readonly id: string;
}

/** The call of an expansion that is due. */
export type ExpansionStep = 'controller' | 'node';

/** A larger size that is wanted and not reached; recorded before the first call. */
export interface PendingExpansion {
  /** Bytes in decimal. */
  readonly targetBytes: string;
  readonly step: ExpansionStep;
  /** The node said that it cannot while the volume is used: not asked again before the next use. */
  readonly refused?: boolean | undefined;
}

/** Parameters that are wanted otherwise and are not yet; recorded before the call. */
export interface PendingModification {
  readonly parameters: StringMap;
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
  /** Parameters that can be changed, as they are (CSI ControllerModifyVolume). */
  readonly mutableParameters: StringMap;
  readonly source?: RecordedSource | undefined;
  /** Name of the class it was made by; what that said is in this record. */
  readonly volumeClass?: string | undefined;
  /** The name CreateVolume is called with, made once: repeating the call can never make a second volume. */
  readonly csiName: string;
  readonly accessMode: VolumeMode;
  /** Options of the mount, for NodeStageVolume and NodePublishVolume. They may be secret (CSI "mount_flags"). */
  readonly mountFlags: readonly string[];
  /** The group that owns the files; absent: nobody looks at ownership. */
  readonly group?: number | undefined;
  readonly ownership: OwnershipPolicy;
  /** What removing the volume does with the data. */
  readonly reclaim: ReclaimPolicy;
  readonly availability: Availability;
  /** False for a volume the plugin has not made: its name is its id, and removing it only forgets it. */
  readonly provisioned: boolean;
  /** Where the volume must be reachable, in the plugin's labels; absent when the plugin has none. */
  readonly topology?: StringMap | undefined;
  /** Where it may be beside this node, of its class; CreateVolume is told of them. */
  readonly allowedTopologies?: readonly StringMap[] | undefined;
  /** Where the plugin says that it is reachable, alternatives; empty: everywhere. */
  readonly accessibleTopology: readonly StringMap[];
  /** The plugin's id; absent until CreateVolume has answered. Any text: never part of a path. */
  readonly volumeId?: string | undefined;
  readonly volumeContext: StringMap;
  /** As made: bytes in decimal. */
  readonly capacityBytes: string;
  readonly expansion?: PendingExpansion | undefined;
  readonly modification?: PendingModification | undefined;
  /** The file that says where its secrets are; the plugin's own when absent. */
  readonly secretsName?: string | undefined;
  readonly state: VolumeState;
  /** Rungs of the current climb, bottom first, fixed when it begins. */
  readonly rungs: readonly RungName[];
  /** This node and what the controller said when the volume was attached to it. */
  readonly nodeId?: string | undefined;
  readonly publishContext: StringMap;
  /** The boot in which the current climb began: after another boot its mounts are gone. */
  readonly bootId?: string | undefined;
  /** The plugin sets the group of a mount itself (VOLUME_MOUNT_GROUP); fixed when the climb begins. */
  readonly delegatesGroup: boolean;
  /** There are some exactly when the state is one of the top rung. */
  readonly publications: readonly Publication[];
  /** What the last forced detachment did not do. */
  readonly skipped: readonly SkippedStep[];
  readonly claims: readonly Claim[];
  readonly failure?: VolumeFailure | undefined;
  readonly createdAt: string;
}

const decimal: z.ZodString = z.string().regex(/^(0|[1-9][0-9]{0,18})$/);
const instant: z.ZodISODateTime = z.iso.datetime();

const group: z.ZodOptional<z.ZodInt> = z.int().nonnegative().optional();

const recordSchema: z.ZodType<VolumeRecord> = z.object({
  name: z.string().regex(VOLUME_NAME),
  driver: z.string().max(LIMITS.pluginName),
  requestedBytes: decimal,
  access: z.enum(['mount', 'block']),
  fsType: z.string().optional(),
  parameters: stringMap,
  mutableParameters: stringMap,
  volumeClass: z.string().optional(),
  source: z
    .object({ kind: z.enum(['snapshot', 'volume']), name: z.string().regex(VOLUME_NAME), id: z.string().min(1) })
    .optional(),
  csiName: z.string().min(1).max(LIMITS.string),
  accessMode: z.enum(VOLUME_MODES),
  mountFlags: z.array(z.string()),
  group,
  ownership: z.enum(OWNERSHIP_POLICIES),
  reclaim: z.enum(RECLAIM_POLICIES),
  availability: z.enum(AVAILABILITIES),
  provisioned: z.boolean(),
  topology: stringMap.optional(),
  allowedTopologies: z.array(stringMap).optional(),
  accessibleTopology: z.array(stringMap),
  volumeId: z.string().min(1).optional(),
  volumeContext: stringMap,
  capacityBytes: decimal,
  modification: z.object({ parameters: stringMap }).optional(),
  expansion: z
    .object({ targetBytes: decimal, step: z.enum(['controller', 'node']), refused: z.boolean().optional() })
    .optional(),
  secretsName: z.string().optional(),
  state: z.enum(RUNGS.flatMap(({ raising, raised, lowering }) => [raising, raised, lowering])),
  rungs: z.array(z.enum(RUNGS.map(({ rung }) => rung))),
  nodeId: z.string().optional(),
  publishContext: stringMap,
  bootId: z.string().optional(),
  delegatesGroup: z.boolean(),
  publications: z.array(
    z.object({
      key: z.union([z.literal(''), z.string().regex(CONTAINER_ID)]),
      state: z.enum([TOP.raising, TOP.raised, TOP.lowering]),
      readOnly: z.boolean(),
      group,
    }),
  ),
  skipped: z.array(z.object({ step: z.string(), reason: z.string(), skippedAt: instant })),
  claims: z.array(
    z.object({
      containerId: z.string().regex(CONTAINER_ID),
      readOnly: z.boolean(),
      target: z.string().optional(),
      group,
      claimedAt: instant,
      releasing: z.boolean(),
    }),
  ),
  failure: z
    .object({
      message: z.string(),
      code: z.string(),
      failedAt: instant,
      step: z.string().optional(),
      attempts: z.int().optional(),
    })
    .optional(),
  createdAt: instant,
});

/** What records of earlier versions do not say. */
const DEFAULTS = {
  mountFlags: [],
  mutableParameters: {},
  ownership: 'root-mismatch',
  availability: 'active',
  accessibleTopology: [],
  delegatesGroup: false,
  skipped: [],
} satisfies Partial<VolumeRecord>;

/** Decodes a stored record. @throws when the value does not have the shape of one */
export function decodeVolumeRecord(value: unknown): VolumeRecord {
  const { success, data } = earlier.safeParse(value);
  if (!success) return recordSchema.parse(value);
  const reclaim: ReclaimPolicy = data.provisioned ? 'delete' : 'retain';
  const { state } = data;
  const onTop = state === TOP.raising || state === TOP.raised || state === TOP.lowering;
  const publications: Publication[] = onTop ? [{ key: '', state, readOnly: false }] : [];
  return recordSchema.parse({ reclaim, publications, ...DEFAULTS, ...data });
}

/** The part of a record that is looked at to fill in what it does not say. */
const earlier: z.ZodType<{ provisioned: boolean; state: VolumeState }> = z.looseObject({
  provisioned: z.boolean(),
  state: z.enum(RUNGS.flatMap(({ raising, raised, lowering }) => [raising, raised, lowering])),
});
