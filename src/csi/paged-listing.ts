/**
 * Listings that come in pages (CSI ListVolumes, ListSnapshots). A listing is no picture of one instant: things may be
 * missing or come twice while others are made and deleted.
 */
import { CsiError, type Rpc } from './protocol.ts';

/** Entries asked for at once: an answer of longest entries stays far below the longest answer taken. */
export const PAGE_ENTRIES = 100;
/** A plugin that has more pages than this is taken for one that never ends. */
const MAX_PAGES = 10_000;
const MAX_RESTARTS = 3;
/** Longest time for all pages together. */
const LISTING_TIMEOUT_MS = 120_000;

/** One page: its entries by id, and where the next one begins; empty after the last. */
export interface Page<T> {
  readonly entries: readonly (readonly [id: string, entry: T])[];
  readonly nextToken: string;
}

/** Asks for the page that begins at a token; empty: the first. */
export type AskPage<T> = (startingToken: string, signal: AbortSignal) => Promise<Page<T>>;

/**
 * Every entry, each once, in the plugin's order. A token that the plugin does not take any more (ABORTED) begins the
 * listing anew.
 * @throws {CsiError} INTERNAL when it never ends, DEADLINE_EXCEEDED, or what the plugin says
 */
export async function listPages<T>(
  what: { readonly plugin: string; readonly rpc: Rpc },
  ask: AskPage<T>,
  signal: AbortSignal,
): Promise<readonly T[]> {
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(LISTING_TIMEOUT_MS)]);
  for (let restarts = 0; ; restarts += 1) {
    try {
      return await listOnce(what, ask, bounded);
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

async function listOnce<T>(
  { plugin, rpc }: { readonly plugin: string; readonly rpc: Rpc },
  ask: AskPage<T>,
  signal: AbortSignal,
): Promise<readonly T[]> {
  const found = new Map<string, T>();
  const tokens = new Set<string>();
  let token = '';
  do {
    const { entries, nextToken } = await page(ask, token, signal);
    for (const [id, entry] of entries) found.set(id, entry);
    if (tokens.has(nextToken) || tokens.size >= MAX_PAGES) {
      throw new CsiError('INTERNAL', plugin, rpc, 'the listing does not end');
    }
    token = nextToken;
    if (token !== '') tokens.add(token);
  } while (token !== '');
  return [...found.values()];
}

async function page<T>(ask: AskPage<T>, token: string, signal: AbortSignal): Promise<Page<T>> {
  try {
    return await ask(token, signal);
  } catch (error) {
    if (token !== '' && error instanceof CsiError && error.code === 'ABORTED') throw new StaleToken(error);
    throw error;
  }
}
