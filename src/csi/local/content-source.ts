/** What a new volume is filled with: checks of CreateVolume's content source, and what follows of it for the volume. */
import { invalid, RuntimeError } from '../../errors.ts';
import type { VolumeContentSource, VolumeContentSource__Output } from '../generated/csi/v1/VolumeContentSource.ts';
import { checkText } from '../protocol.ts';
import type { WantedVolume } from './create-request.ts';
import type { ContentSource, VolumeRecord } from './volume-record.ts';

/** What is to be copied: a volume or a snapshot. */
export type Original = Pick<VolumeRecord, 'id' | 'type' | 'access' | 'fsType' | 'sizeBytes'>;

/** @throws {RuntimeError} INVALID_ARGUMENT when there is a source but no id */
export function parseContentSource(source: VolumeContentSource__Output | null): ContentSource | undefined {
  if (source === null) return undefined;
  const { snapshot, volume } = source;
  if (snapshot !== null && snapshot !== undefined) {
    return { kind: 'snapshot', id: checkSourceId('volume_content_source.snapshot.snapshot_id', snapshot.snapshotId) };
  }
  if (volume !== null && volume !== undefined) {
    return { kind: 'volume', id: checkSourceId('volume_content_source.volume.volume_id', volume.volumeId) };
  }
  throw invalid('volume_content_source', 'is neither a snapshot nor a volume');
}

/** The source in the words of the wire. */
export function describeSource({ kind, id }: ContentSource): VolumeContentSource {
  return kind === 'snapshot' ? { snapshot: { snapshotId: id } } : { volume: { volumeId: id } };
}

/**
 * What the copy is: all that the original is, and as large at least. What the request says beyond that must agree.
 * @throws {RuntimeError} INVALID_ARGUMENT naming what does not, OUT_OF_RANGE when the limit is below the original's size
 */
export function wantedCopy(wanted: WantedVolume, original: Original): WantedVolume {
  const { type, access, fsType, sizeBytes } = original;
  const { asked, size } = wanted;
  if (asked.type !== undefined && asked.type !== type) {
    throw unusable(original, `is of type ${type}, not ${asked.type}`);
  }
  const foreign = wanted.access.find((one) => !access.includes(one));
  if (foreign !== undefined) throw unusable(original, `was made for ${access.join(' and ')}, not ${foreign}`);
  if (type === 'image' && asked.fsType !== undefined && asked.fsType !== fsType) {
    throw unusable(original, `has file system ${fsType ?? 'none'}, not ${asked.fsType}`);
  }
  if (size.limitBytes < sizeBytes) {
    throw new RuntimeError('OUT_OF_RANGE', `capacity_range: ${original.id}, the source, has ${sizeBytes} bytes`);
  }
  return { ...wanted, type, fsType, size: { ...size, requiredBytes: Math.max(size.requiredBytes, sizeBytes) } };
}

/** How an existing volume comes from elsewhere than is asked; undefined when it does not. */
export function sourceDifference(volume: VolumeRecord, { source }: WantedVolume): string | undefined {
  if (volume.source?.kind === source?.kind && volume.source?.id === source?.id) return undefined;
  return `it was made ${nameOf(volume.source)}, not ${nameOf(source)}`;
}

function nameOf(source: ContentSource | undefined): string {
  return source === undefined ? 'empty' : `of ${source.kind} ${source.id}`;
}

function unusable({ id }: Original, reason: string): RuntimeError {
  return invalid('volume_content_source', `${id} ${reason}`);
}

function checkSourceId(field: string, id: string): string {
  if (id === '') throw invalid(field, 'is missing');
  return checkText(field, id);
}
