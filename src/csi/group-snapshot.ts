/**
 * A group snapshot as a durable record: several volumes cut at one instant, in write order. Its members are snapshots
 * like others, except that they end together (CSI DeleteVolumeGroupSnapshot); they are read out of the group's record.
 */
import * as z from 'zod';
import { invalid } from '../errors.ts';
import { type CutRecord, checkParameters, checkSnapshotName, cutShape, instant } from './cut.ts';
import { LIMITS, type StringMap } from './protocol.ts';
import type { SnapshotRecord } from './snapshot.ts';
import type { VolumeRecord } from './volume.ts';
import { isSameMap, VOLUME_NAME, type VolumeAccess } from './volume-request.ts';

/** What a user asks for. */
export interface GroupSnapshotRequest {
  readonly name: string;
  /** Berth's names of the volumes, at least one. */
  readonly volumes: readonly string[];
  readonly parameters: StringMap;
}

/** One volume of a group, and its snapshot once there is one. */
export interface GroupMember {
  /** Berth's name of the snapshot: GROUP.VOLUME. */
  readonly name: string;
  readonly volume: string;
  readonly sourceVolumeId: string;
  readonly access: VolumeAccess;
  readonly fsType?: string | undefined;
  readonly snapshotId?: string | undefined;
  readonly sizeBytes: string;
  readonly cutAt?: string | undefined;
}

/** The durable facts about a group snapshot. */
export interface GroupSnapshotRecord extends CutRecord {
  /** The plugin's id; absent until CreateVolumeGroupSnapshot has answered. */
  readonly groupSnapshotId?: string | undefined;
  readonly members: readonly GroupMember[];
  /** Every snapshot id the plugin named: all of them are needed to delete the group. */
  readonly snapshotIds: readonly string[];
  /** The file that says where its secrets are, that of all its volumes; the plugin's own when absent. */
  readonly secretsName?: string | undefined;
}

const recordSchema: z.ZodType<GroupSnapshotRecord> = z.object({
  ...cutShape,
  groupSnapshotId: z.string().min(1).max(LIMITS.string).optional(),
  members: z.array(
    z.object({
      name: z.string().regex(VOLUME_NAME),
      volume: z.string().regex(VOLUME_NAME),
      sourceVolumeId: z.string().min(1),
      access: z.enum(['mount', 'block']),
      fsType: z.string().optional(),
      snapshotId: z.string().min(1).max(LIMITS.string).optional(),
      sizeBytes: z.string().regex(/^(0|[1-9][0-9]{0,18})$/),
      cutAt: instant.optional(),
    }),
  ),
  snapshotIds: z.array(z.string().min(1)),
  secretsName: z.string().optional(),
});

/** Decodes a stored record. @throws when the value does not have the shape of one */
export function decodeGroupSnapshotRecord(value: unknown): GroupSnapshotRecord {
  return recordSchema.parse(value);
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field */
export function validateGroupSnapshotRequest({ name, volumes, parameters }: GroupSnapshotRequest): void {
  checkSnapshotName('name', name);
  if (volumes.length === 0) throw invalid('volumes', 'a group has at least one volume');
  for (const volume of volumes) {
    checkSnapshotName('volumes', volume);
    checkSnapshotName('name of a member', memberName(name, volume));
  }
  if (new Set(volumes).size < volumes.length) throw invalid('volumes', 'a volume is named twice');
  checkParameters(parameters);
}

/** What the snapshot of a volume is called. */
export function memberName(group: string, volume: string): string {
  return `${group}.${volume}`;
}

/** True when the group was asked for with the very same words; the order of the volumes says nothing. */
export function isSameGroup(made: GroupSnapshotRecord, { volumes, parameters }: GroupSnapshotRequest): boolean {
  const before = made.members.map(({ volume }) => volume).sort();
  return JSON.stringify(before) === JSON.stringify([...volumes].sort()) && isSameMap(made.parameters, parameters);
}

/** What of a volume says which secrets its calls get. */
type SecretUser = Pick<VolumeRecord, 'name' | 'volumeClass' | 'secretsName'>;

/**
 * The secrets of a call about several volumes: a call has one set only, so theirs must be the same.
 * @returns the name of the file; undefined for the plugin's own
 * @throws {RuntimeError} INVALID_ARGUMENT naming two volumes, their classes and files
 */
export function sharedSecrets(volumes: readonly SecretUser[]): string | undefined {
  const [first, ...others] = volumes;
  const other = others.find(({ secretsName }) => secretsName !== first?.secretsName);
  if (first === undefined || other === undefined) return first?.secretsName;
  const sides = `${secretsOf(first)}, ${secretsOf(other)}`;
  throw invalid('volumes', `a group is cut by one call with the secrets of one class: ${sides}`);
}

function secretsOf({ name, volumeClass, secretsName }: SecretUser): string {
  const file = secretsName === undefined ? "the plugin's own secrets" : `secrets "${secretsName}"`;
  return `volume ${name} ${volumeClass === undefined ? 'of no class' : `of class ${volumeClass}`} has ${file}`;
}

/** The members of a group as snapshots. */
export function memberSnapshots(group: GroupSnapshotRecord): readonly SnapshotRecord[] {
  const { driver, csiName, parameters, state, requestedAt, failure, secretsName } = group;
  return group.members.map((member) => ({
    ...{ driver, csiName, parameters, state, requestedAt, failure, secretsName },
    ...member,
    cutAt: member.cutAt ?? group.cutAt,
    owned: true,
    group: group.name,
  }));
}
