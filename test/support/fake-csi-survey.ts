/** What a FakeCsi tells about all its volumes, how much room it has, and the parameters of volumes that can be changed. */

import type { Message, Rpcs } from './csi-message.ts';
import type { FakeCsi } from './fake-csi.ts';
import { FakeStatus } from './fake-status.ts';

export class FakeSurvey {
  /** Entries of a page of ListVolumes, whatever is asked for. */
  pageEntries = 2;
  /** Ids that ListVolumes leaves out. */
  readonly unlisted = new Set<string>();
  /** Status of each volume in ListVolumes. */
  status: Message = {};
  /** What GetCapacity answers. */
  capacity: Message = { availableCapacity: '1000' };
  /** Parameters that were changed, by volume id. */
  readonly modified = new Map<string, Readonly<Record<string, string>>>();
  /** The only keys that can be changed. */
  mutableKeys: readonly string[] = ['iops', 'tier'];
  readonly #plugin: FakeCsi;

  constructor(plugin: FakeCsi) {
    this.#plugin = plugin;
  }

  /** Methods of Controller. */
  controllerRpcs(): Rpcs {
    return {
      ListVolumes: async ({ startingToken }) => this.#list(startingToken),
      GetCapacity: async () => this.capacity,
      ControllerModifyVolume: async ({ volumeId, mutableParameters }) => {
        if (!this.#plugin.volumes.has(volumeId)) throw new FakeStatus('NOT_FOUND', `no volume ${volumeId}`);
        const foreign = Object.keys(mutableParameters).find((key) => !this.mutableKeys.includes(key));
        if (foreign !== undefined) throw new FakeStatus('INVALID_ARGUMENT', `${foreign} cannot be changed`);
        this.modified.set(volumeId, { ...this.modified.get(volumeId), ...mutableParameters });
        return {};
      },
    };
  }

  /** A token is the id of the first entry: one that is gone is stale. */
  #list(startingToken: string): Message {
    const all = [...this.#plugin.volumes.values()].filter(({ id }) => !this.unlisted.has(id));
    const start = startingToken === '' ? 0 : all.findIndex(({ id }) => id === startingToken);
    if (start < 0) throw new FakeStatus('ABORTED', 'stale token');
    const end = start + this.pageEntries;
    const entries = all.slice(start, end).map(({ id, context, request }) => ({
      volume: { volumeId: id, capacityBytes: request['capacityRange']?.requiredBytes ?? '0', volumeContext: context },
      status: this.status,
    }));
    return { entries, nextToken: all[end]?.id ?? '' };
  }
}
