/**
 * What plugins say about the snapshots they have, whoever made them (CSI ListSnapshots, GetSnapshot). A listing is no
 * picture of one instant: snapshots may be missing or come twice while others are made and deleted.
 */
import { randomUUID } from 'node:crypto';
import { RuntimeError } from '../errors.ts';
import { lawful, type Plugin } from './plugin.ts';
import type { CallSubject, PluginCaller } from './plugin-caller.ts';
import { CsiError } from './protocol.ts';
import { readSnapshot, type SeenSnapshot } from './snapshot-calls.ts';

/** What to list; everything when empty. */
export interface SnapshotFilter {
  /** The plugin's id of the source. */
  readonly sourceVolumeId?: string | undefined;
  readonly snapshotId?: string | undefined;
}

/** Questions hold up nothing and no other question: each is a subject of its own. */
function question(driver: string): CallSubject {
  return { name: `question/${randomUUID()}`, driver };
}

/** Entries asked for at once: an answer of longest entries stays far below the longest answer taken. */
const PAGE_ENTRIES = 100;
/** A plugin that has more pages than this is taken for one that never ends. */
const MAX_PAGES = 10_000;
const MAX_RESTARTS = 3;

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
  for (let restarts = 0; ; restarts += 1) {
    try {
      return await listOnce(caller, plugin, filter, signal);
    } catch (error) {
      if (!(error instanceof StaleToken)) throw error;
      if (restarts >= MAX_RESTARTS) throw error.reason;
    }
  }
}

/** A token that worked a moment ago works no more. */
class StaleToken extends Error {
  readonly reason: CsiError;

  constructor(reason: CsiError) {
    super(reason.message, { cause: reason });
    this.reason = reason;
  }
}

async function listOnce(
  caller: PluginCaller,
  plugin: Plugin,
  filter: SnapshotFilter,
  signal: AbortSignal,
): Promise<readonly SeenSnapshot[]> {
  const found = new Map<string, SeenSnapshot>();
  const tokens = new Set<string>();
  let token = '';
  do {
    const { entries, next } = await page(caller, plugin.name, { ...filter, token }, signal);
    for (const seen of entries) found.set(seen.snapshotId, seen);
    if (tokens.has(next) || tokens.size >= MAX_PAGES) {
      throw new CsiError('INTERNAL', plugin.name, 'ListSnapshots', 'the listing does not end');
    }
    token = next;
    if (next !== '') tokens.add(next);
  } while (token !== '');
  return [...found.values()];
}

async function page(
  caller: PluginCaller,
  driver: string,
  { sourceVolumeId, snapshotId, token }: SnapshotFilter & { readonly token: string },
  signal: AbortSignal,
): Promise<{ readonly entries: readonly SeenSnapshot[]; readonly next: string }> {
  const request = {
    maxEntries: PAGE_ENTRIES,
    startingToken: token,
    sourceVolumeId: sourceVolumeId ?? '',
    snapshotId: snapshotId ?? '',
  };
  try {
    const { entries, nextToken } = await caller.call(question(driver), 'ListSnapshots', request, signal);
    const read = (): SeenSnapshot[] => entries.map(({ snapshot }) => readSnapshot(snapshot));
    return { entries: lawful('ListSnapshots', driver, read), next: nextToken };
  } catch (error) {
    if (token !== '' && error instanceof CsiError && error.code === 'ABORTED') throw new StaleToken(error);
    throw error;
  }
}

/**
 * One snapshot by its id, as the plugin sees it now. Undefined when the plugin offers no way to ask.
 * @throws {RuntimeError} NOT_FOUND when the plugin knows no such snapshot, or what the plugin says
 */
export async function lookUpSnapshot(
  caller: PluginCaller,
  plugin: Plugin,
  snapshotId: string,
  signal: AbortSignal,
): Promise<SeenSnapshot | undefined> {
  const { controller } = plugin.capabilities;
  if (controller.has('GET_SNAPSHOT')) {
    const { snapshot } = await caller.call(question(plugin.name), 'GetSnapshot', { snapshotId }, signal);
    return lawful('GetSnapshot', plugin.name, () => readSnapshot(snapshot));
  }
  if (!controller.has('LIST_SNAPSHOTS')) return undefined;
  const listed = await listSnapshots(caller, plugin, { snapshotId }, signal);
  const found = listed.find((seen) => seen.snapshotId === snapshotId);
  if (found !== undefined) return found;
  throw new RuntimeError('NOT_FOUND', `CSI plugin ${plugin.name} has no snapshot ${JSON.stringify(snapshotId)}`);
}
