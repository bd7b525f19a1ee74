/** NodeGetVolumeStats: how full a volume is where it is mounted, and how well. */
import { statfs } from 'node:fs/promises';
import { invalid, RuntimeError } from '../../errors.ts';
import type { NodeGetVolumeStatsRequest__Output } from '../generated/csi/v1/NodeGetVolumeStatsRequest.ts';
import type { NodeGetVolumeStatsResponse } from '../generated/csi/v1/NodeGetVolumeStatsResponse.ts';
import type { VolumeUsage } from '../generated/csi/v1/VolumeUsage.ts';
import type { Condition } from './condition.ts';
import type { KernelView } from './kernel-view.ts';
import type { VolumeFiles } from './volume-files.ts';
import { checkVolumeId, livePath } from './volume-path.ts';

export class NodeStats {
  readonly #files: VolumeFiles;
  readonly #kernel: KernelView;
  readonly #condition: Condition;

  constructor(files: VolumeFiles, kernel: KernelView, condition: Condition) {
    this.#files = files;
    this.#kernel = kernel;
    this.#condition = condition;
  }

  /**
   * A volume that was brought to the path and is no longer there has a condition and no usage.
   * @throws {RuntimeError} NOT_FOUND when nobody brought the volume to the path
   */
  async stats(request: NodeGetVolumeStatsRequest__Output): Promise<NodeGetVolumeStatsResponse> {
    const id = checkVolumeId(request.volumeId);
    if (request.volumePath === '') throw invalid('volume_path', 'is missing');
    const volume = this.#files.get(id);
    const path = await livePath(request.volumePath);
    const record = await this.#files.readNodeRecord(id);
    const { staged, targets } = record;
    const isTarget = path !== undefined && Object.hasOwn(targets, path);
    if (path === undefined || staged === undefined || !(isTarget || staged.path === path)) {
      throw new RuntimeError('NOT_FOUND', `volume_path: volume ${id} is not at ${request.volumePath}`);
    }
    const volumeCondition = await this.#condition.onNode(volume, record, path);
    const isHere = isTarget
      ? this.#kernel.mountOf(volume, path) !== undefined
      : this.#kernel.isStaged(volume, staged.access, path);
    if (!isHere) return { usage: [], volumeCondition };
    if (staged.access === 'block') {
      return { usage: [{ unit: 'BYTES', total: String(volume.sizeBytes) }], volumeCondition };
    }
    return { usage: await usageOf(path), volumeCondition };
  }
}

async function usageOf(path: string): Promise<VolumeUsage[]> {
  const { bsize, blocks, bfree, bavail, files, ffree } = await statfs(path, { bigint: true });
  return [
    usage('BYTES', { total: blocks * bsize, used: (blocks - bfree) * bsize, available: bavail * bsize }),
    usage('INODES', { total: files, used: files - ffree, available: ffree }),
  ];
}

function usage(
  unit: 'BYTES' | 'INODES',
  amounts: Readonly<Record<'total' | 'used' | 'available', bigint>>,
): VolumeUsage {
  const { total, used, available } = amounts;
  return { unit, total: String(total), used: String(used), available: String(available) };
}
