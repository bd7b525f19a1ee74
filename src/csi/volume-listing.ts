/** What plugins say about the volumes they have, whoever made them (CSI ListVolumes; paged-listing.ts). */
import { listPages, PAGE_ENTRIES, type Page } from './paged-listing.ts';
import { lawful, type Plugin } from './plugin.ts';
import { type PluginCaller, question } from './plugin-caller.ts';
import { CsiError, checkMap, checkText, type Response, type StringMap } from './protocol.ts';
import { conditionOf, type VolumeCondition } from './volume-condition.ts';

/** A volume as its plugin lists it. */
export interface ListedVolume {
  readonly volumeId: string;
  /** Bytes in decimal; zero: not known. */
  readonly capacityBytes: string;
  readonly volumeContext: StringMap;
  /** Nodes it is published to; they may be nodes of others. */
  readonly nodeIds: readonly string[];
  readonly condition?: VolumeCondition | undefined;
}

/**
 * Every volume that a plugin lists, each once, in the plugin's order.
 * @throws {CsiError} UNIMPLEMENTED when the plugin lists none, INTERNAL when it never ends, or what the plugin says
 */
export async function listVolumes(
  caller: PluginCaller,
  plugin: Plugin,
  signal: AbortSignal,
): Promise<readonly ListedVolume[]> {
  const { controller } = plugin.capabilities;
  if (!controller.has('LIST_VOLUMES')) {
    throw new CsiError('UNIMPLEMENTED', plugin.name, 'ListVolumes', 'the plugin does not list volumes');
  }
  const ask = async (startingToken: string, joint: AbortSignal): Promise<Page<ListedVolume>> => {
    const request = { maxEntries: PAGE_ENTRIES, startingToken };
    const { entries, nextToken } = await caller.call(question(plugin.name), 'ListVolumes', request, joint);
    const read = (): ListedVolume[] => entries.map((entry) => readEntry(entry, plugin));
    return { entries: lawful('ListVolumes', plugin.name, read).map((one) => [one.volumeId, one] as const), nextToken };
  };
  return listPages({ plugin: plugin.name, rpc: 'ListVolumes' }, ask, signal);
}

/** What is told without its capability means nothing (CSI ListVolumes). */
function readEntry(
  { volume, status }: Response<'ListVolumes'>['entries'][number],
  { capabilities: { controller } }: Plugin,
): ListedVolume {
  const volumeId = checkText('volume_id', volume?.volumeId ?? '');
  if (volumeId === '') throw new Error('volume_id is empty');
  const condition = controller.has('VOLUME_CONDITION') ? conditionOf('controller', status?.volumeCondition) : undefined;
  return {
    volumeId,
    capacityBytes: volume?.capacityBytes ?? '0',
    volumeContext: checkMap('volume_context', volume?.volumeContext ?? {}),
    nodeIds: controller.has('LIST_VOLUMES_PUBLISHED_NODES') ? (status?.publishedNodeIds ?? []) : [],
    ...(condition === undefined ? {} : { condition }),
  };
}
