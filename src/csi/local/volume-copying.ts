/**
 * Makes volumes of snapshots and of other volumes. A copy is a volume like any other from then on: its original may
 * change and go. It has its file system's UUID from the original, which keeps no two of them from being mounted
 * (volume-mounts.ts).
 */
import { truncate } from 'node:fs/promises';
import { wantedCopy } from './content-source.ts';
import { sizeFor, type WantedVolume } from './create-request.ts';
import { COPY_TIMEOUT_MS, copyImage, copyTree, flushToDisk } from './file-copy.ts';
import type { InFlight } from './in-flight.ts';
import type { SnapshotFiles } from './snapshot-files.ts';
import type { Stillness } from './stillness.ts';
import type { FillVolume, VolumeFiles } from './volume-files.ts';
import type { ContentSource, VolumeRecord } from './volume-record.ts';

export interface VolumeCopyingParts {
  readonly volumes: VolumeFiles;
  readonly snapshots: SnapshotFiles;
  readonly still: Stillness;
  readonly inFlight: InFlight;
}

/** See the module's head. */
export class VolumeCopying {
  readonly #parts: VolumeCopyingParts;

  constructor(parts: VolumeCopyingParts) {
    this.#parts = parts;
  }

  /**
   * Makes a volume that holds what its source holds, and is durable.
   * @throws {RuntimeError} NOT_FOUND when there is no such source, INVALID_ARGUMENT or OUT_OF_RANGE when it does not suit
   */
  create(wanted: WantedVolume, source: ContentSource): Promise<VolumeRecord> {
    // Nobody removes or changes the source meanwhile.
    return this.#parts.inFlight.run(source.id, () =>
      source.kind === 'snapshot' ? this.#restore(wanted, source) : this.#clone(wanted, source),
    );
  }

  async #restore(wanted: WantedVolume, source: ContentSource): Promise<VolumeRecord> {
    const { snapshots } = this.#parts;
    const snapshot = snapshots.get(source.id);
    const data = snapshots.dataOf(snapshot);
    return this.#make(wantedCopy(wanted, snapshot), source, async (target) => {
      const signal = AbortSignal.timeout(COPY_TIMEOUT_MS);
      const isShared = await copyData(snapshot.type, data, target, signal);
      return isShared ? (snapshot.lineage ?? snapshot.id) : undefined;
    });
  }

  async #clone(wanted: WantedVolume, source: ContentSource): Promise<VolumeRecord> {
    const { volumes, still } = this.#parts;
    const original = volumes.get(source.id);
    const sizeBytes = original.expandingTo ?? original.sizeBytes;
    return this.#make(wantedCopy(wanted, { ...original, sizeBytes }), source, async (target) => {
      let isShared = false;
      await still.copyAll([original], async (volume, signal) => {
        isShared = await copyData(volume.type, volumes.dataOf(volume), target, signal);
        return isShared;
      });
      return isShared ? (original.lineage ?? original.id) : undefined;
    });
  }

  /** `copy` brings the data to the target and names the lineage it shares blocks with. */
  #make(
    wanted: WantedVolume,
    source: ContentSource,
    copy: (target: string) => Promise<string | undefined>,
  ): Promise<VolumeRecord> {
    const { name, type, access, fsType } = wanted;
    const sizeBytes = sizeFor(wanted);
    const fill: FillVolume = async (dir) => {
      const target = `${dir}/${type === 'image' ? 'image' : 'data'}`;
      const lineage = await copy(target);
      const signal = AbortSignal.timeout(COPY_TIMEOUT_MS);
      // The file system follows with the staging (expansion.ts).
      if (type === 'image') await truncate(target, sizeBytes);
      await flushToDisk(target, type === 'image' ? 'file' : 'file system', signal);
      return { lineage };
    };
    return this.#parts.volumes.create({ name, type, access, fsType, sizeBytes, source }, fill);
  }
}

function copyData(type: VolumeRecord['type'], from: string, to: string, signal: AbortSignal): Promise<boolean> {
  return type === 'image' ? copyImage(from, to, signal) : copyTree(from, to, signal).then(() => false);
}
