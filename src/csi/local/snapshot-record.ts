/** What the driver writes down about a snapshot (`snapshot.json`) and about a group of them (`group.json`), once each. */
import * as z from 'zod';
import {
  ACCESS_TYPES,
  type AccessType,
  FILE_SYSTEMS,
  type FileSystem,
  VOLUME_ID,
  VOLUME_TYPES,
  type VolumeType,
} from './volume-record.ts';

/** Ids of snapshots and groups look like those of volumes. */
export const SNAPSHOT_ID: RegExp = VOLUME_ID;

/** A copy of a volume as it was at one moment. It needs the volume no more. */
export interface SnapshotRecord {
  readonly version: 1;
  readonly id: string;
  /** The name given to CreateSnapshot; members of a group have none. */
  readonly name?: string | undefined;
  readonly groupId?: string | undefined;
  readonly sourceVolumeId: string;
  /** What the volume was; a volume made of the snapshot becomes the same. */
  readonly type: VolumeType;
  readonly access: readonly AccessType[];
  readonly fsType?: FileSystem | undefined;
  readonly sizeBytes: number;
  /** Names the files it shares blocks with (disk-claims.ts). Absent: with none. */
  readonly lineage?: string | undefined;
  /** The moment of the cut. */
  readonly createdAt: string;
}

/** Snapshots of several volumes at one moment; they lie below the group's directory and go with it. */
export interface GroupRecord {
  readonly version: 1;
  readonly id: string;
  readonly name: string;
  /** In the order of the request's volumes. */
  readonly snapshotIds: readonly string[];
  readonly createdAt: string;
}

export const snapshotRecordSchema: z.ZodType<SnapshotRecord> = z.strictObject({
  version: z.literal(1),
  id: z.string().regex(SNAPSHOT_ID),
  name: z.string().min(1).optional(),
  groupId: z.string().regex(SNAPSHOT_ID).optional(),
  sourceVolumeId: z.string().regex(VOLUME_ID),
  type: z.enum(VOLUME_TYPES),
  access: z.array(z.enum(ACCESS_TYPES)).min(1),
  fsType: z.enum(FILE_SYSTEMS).optional(),
  sizeBytes: z.int().nonnegative(),
  lineage: z.string().regex(VOLUME_ID).optional(),
  createdAt: z.string(),
});

export const groupRecordSchema: z.ZodType<GroupRecord> = z.strictObject({
  version: z.literal(1),
  id: z.string().regex(SNAPSHOT_ID),
  name: z.string().min(1),
  snapshotIds: z.array(z.string().regex(SNAPSHOT_ID)).min(1),
  createdAt: z.string(),
});
