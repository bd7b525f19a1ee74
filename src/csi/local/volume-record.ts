/**
 * What the driver writes down about a volume: `volume.json`, what the volume is, and `node.json`, what was asked
 * of this node. The latter is intent: whether a path is really mounted is read from the kernel, so it needs no boot id.
 */
import * as z from 'zod';

/** Ids are made by the driver: 32 hexadecimal digits, never a name from outside. */
export const VOLUME_ID: RegExp = /^[0-9a-f]{32}$/;

export const FILE_SYSTEMS = ['ext4', 'xfs'] as const;
export type FileSystem = (typeof FILE_SYSTEMS)[number];

/** `image`: a sparse file of fixed size behind a loop device. `directory`: a plain directory without a size of its own. */
export const VOLUME_TYPES = ['image', 'directory'] as const;
export type VolumeType = (typeof VOLUME_TYPES)[number];

export const ACCESS_TYPES = ['mount', 'block'] as const;
export type AccessType = (typeof ACCESS_TYPES)[number];

export const SOURCE_KINDS = ['snapshot', 'volume'] as const;

/** What a volume was copied of. */
export interface ContentSource {
  readonly kind: (typeof SOURCE_KINDS)[number];
  readonly id: string;
}

/** `thin`: blocks are taken when they are written. `reserved`: all are there from the beginning. */
export const ALLOCATIONS = ['thin', 'reserved'] as const;
export type Allocation = (typeof ALLOCATIONS)[number];

/** A volume as it was made, and what became of it. */
export interface VolumeRecord {
  readonly version: 1;
  readonly id: string;
  /** The name given to CreateVolume. */
  readonly name: string;
  readonly type: VolumeType;
  /** What it may be used as. */
  readonly access: readonly AccessType[];
  /** Given exactly when the image was formatted. */
  readonly fsType?: FileSystem | undefined;
  /** Size of the image; for a directory what was asked for, which nothing enforces. */
  readonly sizeBytes: number;
  /** What it was copied of, which may be gone. */
  readonly source?: ContentSource | undefined;
  /** Names the files it shares blocks with (disk-claims.ts). Absent: those that were copied of it. */
  readonly lineage?: string | undefined;
  /** The size it was made with, when it was expanded since. */
  readonly createdBytes?: number | undefined;
  /** The size its image is being given; `sizeBytes` once that is done. */
  readonly expandingTo?: number | undefined;
  /** Absent: nobody has said anything, which means thin. */
  readonly allocation?: Allocation | undefined;
  readonly createdAt: string;
}

/** Where a volume was asked to be staged and published on this node. */
export interface NodeRecord {
  readonly version: 1;
  readonly staged?: StagedRecord | undefined;
  /** By target path. */
  readonly targets: Readonly<Record<string, TargetRecord>>;
}

export interface StagedRecord {
  readonly path: string;
  readonly access: AccessType;
  /** Of the capability; its flags may be secret, so they are not kept. */
  readonly fingerprint: string;
  /** It was asked to be mounted read-only. */
  readonly readonly?: boolean | undefined;
}

export interface TargetRecord {
  readonly fingerprint: string;
  readonly readonly: boolean;
}

export const EMPTY_NODE_RECORD: NodeRecord = { version: 1, targets: {} };

export const volumeRecordSchema: z.ZodType<VolumeRecord> = z.strictObject({
  version: z.literal(1),
  id: z.string().regex(VOLUME_ID),
  name: z.string().min(1),
  type: z.enum(VOLUME_TYPES),
  access: z.array(z.enum(ACCESS_TYPES)).min(1),
  fsType: z.enum(FILE_SYSTEMS).optional(),
  sizeBytes: z.int().nonnegative(),
  source: z.strictObject({ kind: z.enum(SOURCE_KINDS), id: z.string().regex(VOLUME_ID) }).optional(),
  lineage: z.string().regex(VOLUME_ID).optional(),
  createdBytes: z.int().nonnegative().optional(),
  expandingTo: z.int().positive().optional(),
  allocation: z.enum(ALLOCATIONS).optional(),
  createdAt: z.string(),
});

const targetSchema: z.ZodType<TargetRecord> = z.strictObject({ fingerprint: z.string(), readonly: z.boolean() });

export const nodeRecordSchema: z.ZodType<NodeRecord> = z.strictObject({
  version: z.literal(1),
  staged: z
    .strictObject({
      path: z.string(),
      access: z.enum(ACCESS_TYPES),
      fingerprint: z.string(),
      readonly: z.boolean().optional(),
    })
    .optional(),
  targets: z.record(z.string(), targetSchema),
});
