/**
 * What plugins say about the snapshots they have, whoever made them (CSI ListSnapshots, GetSnapshot). A listing is no
 * picture of one instant (paged-listing.ts).
 */
import { RuntimeError } from '../errors.ts';
import { listPages, PAGE_ENTRIES, type Page } from './paged-listing.ts';
import { lawful, type Plugin } from './plugin.ts';
import { type PluginCaller, question } from './plugin-caller.ts';
import { CsiError } from './protocol.ts';
import { readSnapshot, type SeenSnapshot } from './snapshot-calls.ts';

/** What to list; everything when empty. */
export interface SnapshotFilter {
  /** The plugin's id of the source. */
  readonly sourceVolumeId?: string | undefined;
  readonly snapshotId?: string | undefined;
  /** Which secrets the question gets; the plugin's usual ones when absent. */
  readonly secretsName?: string | undefined;
}

/**
 * Every snapshot that a plugin lists, each once, in the plugin's order. A token that the plugin does not take any more
 * (ABORTED) begins the listing anew.
 * @throws {CsiError} UNIMPLEMENTED when the plugin lists none, INTERNAL when it never ends, or what the plugin says
 */
export async function listSnapshots(
  caller: PluginCaller,
  plugin: Plugin,
  filter: SnapshotFilter,
  signal: AbortSignal,
): Promise<readonly SeenSnapshot[]> {
  if (!plugin.capabilities.controller.has('LIST_SNAPSHOTS')) {
    throw new CsiError('UNIMPLEMENTED', plugin.name, 'ListSnapshots', 'the plugin does not list snapshots');
  }
  const ask = (token: string, joint: AbortSignal): Promise<Page<SeenSnapshot>> =>
    page(caller, plugin.name, { ...filter, token }, joint);
  return listPages({ plugin: plugin.name, rpc: 'ListSnapshots' }, ask, signal);
}

async function page(
  caller: PluginCaller,
  driver: string,
  { sourceVolumeId, snapshotId, secretsName, token }: SnapshotFilter & { readonly token: string },
  signal: AbortSignal,
): Promise<Page<SeenSnapshot>> {
  const request = {
    maxEntries: PAGE_ENTRIES,
    startingToken: token,
    sourceVolumeId: sourceVolumeId ?? '',
    snapshotId: snapshotId ?? '',
  };
  const { entries, nextToken } = await caller.call(question(driver, secretsName), 'ListSnapshots', request, signal);
  const read = (): SeenSnapshot[] => entries.map(({ snapshot }) => readSnapshot(snapshot));
  const seen = lawful('ListSnapshots', driver, read);
  return { entries: seen.map((one) => [one.snapshotId, one] as const), nextToken };
}

/**
 * One snapshot by its id, as the plugin sees it now. Undefined when the plugin offers no way to ask.
 * @throws {RuntimeError} NOT_FOUND when the plugin knows no such snapshot, or what the plugin says
 */
export async function lookUpSnapshot(
  caller: PluginCaller,
  plugin: Plugin,
  { snapshotId, secretsName }: { readonly snapshotId: string; readonly secretsName?: string | undefined },
  signal: AbortSignal,
): Promise<SeenSnapshot | undefined> {
  const { controller } = plugin.capabilities;
  if (controller.has('GET_SNAPSHOT')) {
    const { snapshot } = await caller.call(question(plugin.name, secretsName), 'GetSnapshot', { snapshotId }, signal);
    return lawful('GetSnapshot', plugin.name, () => readSnapshot(snapshot));
  }
  if (!controller.has('LIST_SNAPSHOTS')) return undefined;
  const listed = await listSnapshots(caller, plugin, { snapshotId, secretsName }, signal);
  const found = listed.find((seen) => seen.snapshotId === snapshotId);
  if (found !== undefined) return found;
  throw new RuntimeError('NOT_FOUND', `CSI plugin ${plugin.name} has no snapshot ${JSON.stringify(snapshotId)}`);
}
