/** A snapshot of one volume as a durable record, and what a user may ask for. */
import * as z from 'zod';
import { type CutRecord, checkParameters, checkSnapshotName, cutShape } from './cut.ts';
import { checkPluginName, checkText, LIMITS, type StringMap } from './protocol.ts';
import { isSameMap, VOLUME_NAME, type VolumeAccess } from './volume-request.ts';

/** What a user asks for. */
export interface SnapshotRequest {
  /** Berth's name for the snapshot: unique on this machine. */
  readonly name: string;
  /** Berth's name of the volume. */
  readonly volume: string;
  /** Handed to the plugin as they are. */
  readonly parameters: StringMap;
}

/** A snapshot that is there already, made by somebody else. */
export interface KnownSnapshot {
  readonly name: string;
  readonly driver: string;
  /** The plugin's id of the snapshot. */
  readonly snapshotId: string;
}

/** The durable facts about a snapshot. */
export interface SnapshotRecord extends CutRecord {
  /** Berth's name of the source; absent when Berth did not cut it. */
  readonly volume?: string | undefined;
  /** The plugin's id of the source; absent when nobody said it. */
  readonly sourceVolumeId?: string | undefined;
  /** What the source was: what is restored of it is the same. */
  readonly access?: VolumeAccess | undefined;
  readonly fsType?: string | undefined;
  /** The file that says where its secrets are, that of the volume; the plugin's own when absent. */
  readonly secretsName?: string | undefined;
  /** The plugin's id; absent until CreateSnapshot has answered. Any text. */
  readonly snapshotId?: string | undefined;
  /** Bytes in decimal that a volume restored of it needs; "0" when not known. */
  readonly sizeBytes: string;
  /** False for one that was registered: removing it only forgets it. */
  readonly owned: boolean;
  /** Name of the group snapshot it is part of: it ends with the group only. */
  readonly group?: string | undefined;
}

const decimal: z.ZodString = z.string().regex(/^(0|[1-9][0-9]{0,18})$/);

const recordSchema: z.ZodType<SnapshotRecord> = z.object({
  ...cutShape,
  volume: z.string().regex(VOLUME_NAME).optional(),
  sourceVolumeId: z.string().min(1).optional(),
  access: z.enum(['mount', 'block']).optional(),
  fsType: z.string().optional(),
  secretsName: z.string().optional(),
  snapshotId: z.string().min(1).max(LIMITS.string).optional(),
  sizeBytes: decimal,
  owned: z.boolean(),
  group: z.string().regex(VOLUME_NAME).optional(),
});

/** Decodes a stored record. @throws when the value does not have the shape of one */
export function decodeSnapshotRecord(value: unknown): SnapshotRecord {
  return recordSchema.parse(value);
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field */
export function validateSnapshotRequest({ name, volume, parameters }: SnapshotRequest): void {
  checkSnapshotName('name', name);
  checkSnapshotName('volume', volume);
  checkParameters(parameters);
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field */
export function validateKnownSnapshot({ name, driver, snapshotId }: KnownSnapshot): void {
  checkSnapshotName('name', name);
  checkPluginName('driver', driver);
  checkText('snapshot_id', snapshotId);
}

/** True when the snapshot was asked for with the very same words. */
export function isSameSnapshot(made: SnapshotRecord, { volume, parameters }: SnapshotRequest): boolean {
  return made.owned && made.group === undefined && made.volume === volume && isSameMap(made.parameters, parameters);
}
