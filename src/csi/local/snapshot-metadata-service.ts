/** CSI's SnapshotMetadata service: which bytes of a snapshot hold data, and in which two snapshots of a volume differ. */
import { invalid, RuntimeError } from '../../errors.ts';
import type { BlockMetadata } from '../generated/csi/v1/BlockMetadata.ts';
import type { GetMetadataAllocatedResponse } from '../generated/csi/v1/GetMetadataAllocatedResponse.ts';
import type { SnapshotMetadataDefinition } from '../generated/csi/v1/SnapshotMetadata.ts';
import { checkMap, type StringMap } from '../protocol.ts';
import { differingRuns } from './block-runs.ts';
import type { StreamHandlers } from './rpc-streams.ts';
import type { SnapshotFiles } from './snapshot-files.ts';
import type { SnapshotRecord } from './snapshot-record.ts';
import { checkSnapshotId } from './snapshot-service.ts';

/** Entries of one message, unless fewer are asked for: some 20 KiB. */
const MAX_ENTRIES = 1000;

/** What both calls have in common. */
interface Question {
  readonly startingOffset: string;
  readonly maxResults: number;
  readonly secrets: StringMap;
}

export class SnapshotMetadataService {
  readonly #snapshots: SnapshotFiles;

  constructor(snapshots: SnapshotFiles) {
    this.#snapshots = snapshots;
  }

  handlers(): StreamHandlers<SnapshotMetadataDefinition> {
    return {
      GetMetadataAllocated: (request, signal) =>
        this.#answer(this.#image('snapshot_id', request.snapshotId), undefined, request, signal),
      GetMetadataDelta: (request, signal) => {
        const base = this.#image('base_snapshot_id', request.baseSnapshotId);
        const target = this.#image('target_snapshot_id', request.targetSnapshotId);
        if (base.sourceVolumeId !== target.sourceVolumeId) {
          throw invalid('base_snapshot_id', `${base.id} and ${target.id} are of different volumes`);
        }
        return this.#answer(target, base, request, signal);
      },
    };
  }

  /** One message at least, so that the size is told. A snapshot that is deleted meanwhile is read to its end. */
  async *#answer(
    target: SnapshotRecord,
    base: SnapshotRecord | undefined,
    { startingOffset, maxResults, secrets }: Question,
    signal: AbortSignal,
  ): AsyncGenerator<GetMetadataAllocatedResponse> {
    checkMap('secrets', secrets);
    if (maxResults < 0) throw invalid('max_results', 'is negative');
    const offset = Number(startingOffset);
    if (offset < 0 || offset > target.sizeBytes) {
      throw new RuntimeError('OUT_OF_RANGE', `starting_offset: snapshot ${target.id} has ${target.sizeBytes} bytes`);
    }
    const limit = maxResults === 0 ? MAX_ENTRIES : Math.min(maxResults, MAX_ENTRIES);
    const message = (blockMetadata: BlockMetadata[]): GetMetadataAllocatedResponse => ({
      blockMetadataType: 'VARIABLE_LENGTH',
      volumeCapacityBytes: String(target.sizeBytes),
      blockMetadata,
    });
    const other = base === undefined ? undefined : this.#snapshots.dataOf(base);
    let entries: BlockMetadata[] = [];
    let isSaid = false;
    for await (const run of differingRuns(this.#snapshots.dataOf(target), other, offset, signal)) {
      entries.push({ byteOffset: String(run.offset), sizeBytes: String(run.bytes) });
      if (entries.length < limit) continue;
      yield message(entries);
      entries = [];
      isSaid = true;
    }
    if (entries.length > 0 || !isSaid) yield message(entries);
  }

  #image(field: string, id: string): SnapshotRecord {
    const snapshot = this.#snapshots.get(checkSnapshotId(field, id));
    if (snapshot.type === 'image') return snapshot;
    throw invalid(field, `${id} is of a directory, which has no blocks`);
  }
}
