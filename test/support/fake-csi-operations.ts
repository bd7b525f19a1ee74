/**
 * What a FakeCsi does to volumes that are there: it expands them and tells how they fare. Sizes are a table; backing
 * files of block volumes grow with them.
 */
import { truncate } from 'node:fs/promises';
import type { Message, Rpcs } from './csi-message.ts';
import type { FakeCsi } from './fake-csi.ts';
import { FakeStatus } from './fake-status.ts';

export class FakeOperations {
  /** Volume id to the bytes that the controller and the node have expanded it to. */
  readonly controllerBytes = new Map<string, string>();
  readonly nodeBytes = new Map<string, string>();
  /** What ControllerExpandVolume says of the node's part. */
  nodeExpansionRequired = true;
  /** Conditions that controller and node tell. */
  controllerCondition: Message | null = null;
  nodeCondition: Message | null = null;
  readonly #plugin: FakeCsi;

  constructor(plugin: FakeCsi) {
    this.#plugin = plugin;
  }

  /** Methods of Controller. */
  controllerRpcs(): Rpcs {
    return {
      ControllerExpandVolume: async ({ volumeId, capacityRange }) => {
        const volume = this.#known(volumeId);
        const offline = this.#plugin.options.expansion === 'OFFLINE';
        if (offline && (this.#plugin.staged.has(volumeId) || this.#plugin.attached.has(volumeId))) {
          this.#plugin.violations.push('ControllerExpandVolume: the volume is in use and expansion is offline');
          throw new FakeStatus('FAILED_PRECONDITION', 'the volume is in use');
        }
        this.controllerBytes.set(volumeId, capacityRange.requiredBytes);
        if (volume.block) await truncate(this.#plugin.backing(volume), Number(capacityRange.requiredBytes));
        return { capacityBytes: capacityRange.requiredBytes, nodeExpansionRequired: this.nodeExpansionRequired };
      },
      ControllerGetVolume: async ({ volumeId }) => {
        this.#known(volumeId);
        return { volume: { volumeId }, status: { volumeCondition: this.controllerCondition } };
      },
    };
  }

  /** Methods of Node. */
  nodeRpcs(): Rpcs {
    return {
      NodeExpandVolume: async ({ volumeId, capacityRange, volumePath, stagingTargetPath, volumeCapability }) => {
        this.#known(volumeId);
        const { staged, published, stages, violations } = this.#plugin;
        if (stages && staged.get(volumeId) !== stagingTargetPath) violations.push('NodeExpandVolume: not staged there');
        if (published.get(volumePath) !== volumeId && volumePath !== stagingTargetPath) {
          violations.push('NodeExpandVolume: volume_path is not of the volume');
        }
        if (volumeCapability === null) violations.push('NodeExpandVolume: no volume_capability');
        const hasController = this.#plugin.hasController('EXPAND_VOLUME');
        if (hasController && this.controllerBytes.get(volumeId) !== capacityRange.requiredBytes) {
          violations.push('NodeExpandVolume: before ControllerExpandVolume');
        }
        this.nodeBytes.set(volumeId, capacityRange.requiredBytes);
        return { capacityBytes: capacityRange.requiredBytes };
      },
      NodeGetVolumeStats: async ({ volumeId }) => {
        this.#known(volumeId);
        const usage = [
          { unit: 'BYTES', total: '1000', used: '400', available: '600' },
          { unit: 'INODES', total: '50', used: '5', available: '45' },
        ];
        return { usage, volumeCondition: this.nodeCondition };
      },
    };
  }

  #known(id: string): { readonly id: string; readonly block: boolean } {
    const volume = this.#plugin.volumes.get(id);
    if (volume === undefined) throw new FakeStatus('NOT_FOUND', `no volume ${id}`);
    return volume;
  }
}
