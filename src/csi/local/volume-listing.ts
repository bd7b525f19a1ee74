/** ListVolumes and ControllerGetVolume: volumes with where they are attached and how well they are. */
import { invalid, RuntimeError } from '../../errors.ts';
import type { ControllerDefinition } from '../generated/csi/v1/Controller.ts';
import type { ControllerGetVolumeResponse } from '../generated/csi/v1/ControllerGetVolumeResponse.ts';
import type { ListVolumesRequest__Output } from '../generated/csi/v1/ListVolumesRequest.ts';
import type { ListVolumesResponse } from '../generated/csi/v1/ListVolumesResponse.ts';
import type { Volume } from '../generated/csi/v1/Volume.ts';
import type { ControllerCapability } from '../protocol.ts';
import type { Attachments } from './attachments.ts';
import type { Condition } from './condition.ts';
import type { Handlers } from './rpc.ts';
import type { VolumeFiles } from './volume-files.ts';
import { checkVolumeId } from './volume-path.ts';
import { VOLUME_ID, type VolumeRecord } from './volume-record.ts';

/** What these calls add to the controller's capabilities. */
export const LISTING_CAPABILITIES: readonly ControllerCapability[] = [
  'LIST_VOLUMES',
  'LIST_VOLUMES_PUBLISHED_NODES',
  'GET_VOLUME',
  'VOLUME_CONDITION',
];

export interface ListingParts {
  readonly files: VolumeFiles;
  readonly attachments: Attachments;
  readonly condition: Condition;
  readonly describe: (volume: VolumeRecord) => Volume;
}

export class VolumeListing {
  readonly #parts: ListingParts;

  constructor(parts: ListingParts) {
    this.#parts = parts;
  }

  handlers(): Handlers<ControllerDefinition> {
    return {
      ListVolumes: (request) => this.#list(request),
      ControllerGetVolume: async ({ volumeId }) => this.#entry(this.#parts.files.get(checkVolumeId(volumeId))),
    };
  }

  /** Pages in order of ids; the token is the last id given, whether or not that volume still exists. */
  async #list({ maxEntries, startingToken }: ListVolumesRequest__Output): Promise<ListVolumesResponse> {
    if (maxEntries < 0) throw invalid('max_entries', 'is negative');
    if (startingToken !== '' && !VOLUME_ID.test(startingToken)) {
      throw new RuntimeError('ABORTED', 'starting_token: not a token of this driver, start again without one');
    }
    const rest = this.#parts.files.list().filter(({ id }) => id > startingToken);
    const page = maxEntries === 0 ? rest : rest.slice(0, maxEntries);
    const isLast = page.length === rest.length;
    return {
      entries: await Promise.all(page.map((volume) => this.#entry(volume))),
      nextToken: isLast ? '' : (page.at(-1)?.id ?? ''),
    };
  }

  async #entry(volume: VolumeRecord): Promise<ControllerGetVolumeResponse> {
    const { attachments, condition, describe } = this.#parts;
    const [publishedNodeIds, volumeCondition] = await Promise.all([
      attachments.nodesOf(volume),
      condition.ofData(volume),
    ]);
    return { volume: describe(volume), status: { publishedNodeIds, volumeCondition } };
  }
}
