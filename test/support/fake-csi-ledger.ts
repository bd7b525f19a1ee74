/**
 * Judges a log of CSI calls as the specification does: is each step up followed by its step down, is nothing sent out of
 * order, twice without need, or beside another call for the volume. It knows what the caller can know: an answer that
 * was given is known, unless one of the two processes was killed afterwards.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { Message } from './csi-message.ts';
import type { FakeStatus } from './fake-status.ts';

/** One line of the log. Calls are numbered within one life of the plugin. */
export type JournalEntry =
  | (CallEnd & { readonly at: 'arrived' })
  | (CallEnd & { readonly at: 'gone' })
  | (CallEnd & { readonly at: 'answered'; readonly code: number; readonly tookMs?: number })
  | { readonly at: 'killed'; readonly who: string };

interface CallEnd {
  readonly plugin: string;
  readonly life: number;
  readonly call: number;
  readonly rpc: string;
  /** The volume's id. */
  readonly volume: string;
  readonly target: string;
}

/** The id of the volume that a call is about; that of one to be made is known from its name. */
export function volumeOf(rpc: string, request: Message): string | undefined {
  const id: unknown = rpc === 'CreateVolume' ? `id-of-${request['name']}` : request['volumeId'];
  return typeof id === 'string' ? id : undefined;
}

/** Writes what becomes of the calls of one plugin. */
export class CallJournal {
  readonly #plugin: string;
  readonly #tell: ((entry: JournalEntry) => void) | undefined;
  #calls = 0;

  constructor(plugin: string, tell: ((entry: JournalEntry) => void) | undefined) {
    this.#plugin = plugin;
    this.#tell = tell;
  }

  /** The first end of a call counts. */
  arrived(rpc: string, request: Message): { answered(error?: FakeStatus): void; gone(): void } {
    const volume = volumeOf(rpc, request);
    if (volume === undefined || this.#tell === undefined) return { answered: () => undefined, gone: () => undefined };
    this.#calls += 1;
    const tell = this.#tell;
    const target: unknown = request['targetPath'];
    const text = typeof target === 'string' ? target : '';
    const entry = { plugin: this.#plugin, life: process.pid, call: this.#calls, rpc, volume, target: text };
    const startMs = performance.now();
    tell({ ...entry, at: 'arrived' });
    let over = false;
    const once = (end: JournalEntry): void => {
      if (!over) tell(end);
      over = true;
    };
    return {
      answered: (error) =>
        once({ ...entry, at: 'answered', code: error?.code ?? 0, tookMs: Math.round(performance.now() - startMs) }),
      gone: () => once({ ...entry, at: 'gone' }),
    };
  }
}

/** All entries of a log file; none when there is no file. */
export function readJournal(file: string): JournalEntry[] {
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line): JournalEntry => JSON.parse(line));
}

const PAIRS = {
  CreateVolume: { thing: 'volume', way: 'up' },
  DeleteVolume: { thing: 'volume', way: 'down' },
  ControllerPublishVolume: { thing: 'attachment', way: 'up' },
  ControllerUnpublishVolume: { thing: 'attachment', way: 'down' },
  NodeStageVolume: { thing: 'stage', way: 'up' },
  NodeUnstageVolume: { thing: 'stage', way: 'down' },
  NodePublishVolume: { thing: 'target', way: 'up' },
  NodeUnpublishVolume: { thing: 'target', way: 'down' },
} as const;

type Moving = keyof typeof PAIRS;
/** What must be up for a step up of each thing, and down for its step down. Targets are many. */
const ORDER = ['volume', 'attachment', 'stage', 'target'] as const;

/** Status codes by which a plugin says that it has done nothing: 3, 5, 7, 9, 11, 12, 16. */
const REFUSALS: ReadonlySet<number> = new Set([3, 5, 7, 9, 11, 12, 16]);
const NOT_FOUND = 5;

/** What the caller knows of one thing. `sure`: the last answer was heard, nobody was killed since. */
interface Known {
  state: 'down' | 'up' | 'unknown';
  sure: boolean;
}

/**
 * Everything that is wrong with a log; nothing may be up at its end. An answer that took `heardWithinMs` or more may
 * have missed its caller.
 */
export function judge(
  entries: readonly JournalEntry[],
  rungs: readonly (typeof ORDER)[number][],
  heardWithinMs: number = Number.POSITIVE_INFINITY,
): string[] {
  const problems: string[] = [];
  const volumes = new Map<string, VolumeLedger>();
  for (const entry of entries) {
    if (entry.at === 'killed') {
      for (const ledger of volumes.values()) ledger.killed();
      continue;
    }
    const key = `${entry.plugin} ${entry.volume}`;
    const ledger = volumes.get(key) ?? new VolumeLedger(key, rungs, problems);
    volumes.set(key, ledger);
    if (entry.at === 'arrived') ledger.arrived(entry);
    else if (entry.at === 'gone') ledger.ended(entry, undefined, false);
    else ledger.ended(entry, entry.code, (entry.tookMs ?? 0) < heardWithinMs);
  }
  for (const ledger of volumes.values()) ledger.closed();
  return problems;
}

class VolumeLedger {
  readonly #name: string;
  readonly #rungs: readonly (typeof ORDER)[number][];
  readonly #problems: string[];
  /** "volume", "attachment", "stage", "target /path". */
  readonly #known = new Map<string, Known>();
  readonly #open = new Set<string>();
  /** State of a thing before the call that is under way. */
  readonly #before = new Map<string, Known['state']>();

  constructor(name: string, rungs: readonly (typeof ORDER)[number][], problems: string[]) {
    this.#name = name;
    this.#rungs = rungs;
    this.#problems = problems;
  }

  killed(): void {
    this.#open.clear();
    for (const known of this.#known.values()) known.sure = false;
  }

  arrived(entry: CallEnd): void {
    const { rpc } = entry;
    if (this.#open.size > 0) this.#wrong(`${rpc} arrived while ${[...this.#open].join(', ')} is under way`);
    this.#open.add(callName(entry));
    if (!isMoving(rpc)) return;
    const { thing, way } = PAIRS[rpc];
    const known = this.#of(thing, entry.target);
    if (known.sure && known.state === way) this.#wrong(`${rpc} was sent again after it had succeeded`);
    this.#inOrder(rpc);
    this.#before.set(callName(entry), known.state);
    known.state = 'unknown';
    known.sure = true;
  }

  ended(entry: CallEnd, code: number | undefined, heard: boolean): void {
    const { rpc } = entry;
    const open = this.#open.delete(callName(entry));
    if (!open || !isMoving(rpc) || code === undefined) return;
    const { thing, way } = PAIRS[rpc];
    const known = this.#of(thing, entry.target);
    known.sure = heard;
    if (code === 0 || (way === 'down' && code === NOT_FOUND)) known.state = way;
    else if (way === 'up' && REFUSALS.has(code) && this.#before.get(callName(entry)) === 'down') known.state = 'down';
  }

  closed(): void {
    for (const [thing, { state }] of this.#known) {
      if (state !== 'down') this.#wrong(`${thing} is ${state} at the end`);
    }
  }

  /** A step up stands on all rungs below, a step down on none above. */
  #inOrder(rpc: Moving): void {
    const { thing, way } = PAIRS[rpc];
    const place = this.#rungs.indexOf(thing);
    for (const [name, { state }] of this.#known) {
      const other = this.#rungs.findLastIndex((rung) => name.startsWith(rung));
      if (way === 'down' && other > place && state !== 'down') this.#wrong(`${rpc} was sent while ${name} is ${state}`);
    }
    if (way !== 'up') return;
    for (const below of this.#rungs.slice(0, place)) {
      const state = this.#known.get(below)?.state ?? 'down';
      if (state !== 'up') this.#wrong(`${rpc} was sent while ${below} is ${state}`);
    }
  }

  #of(thing: string, target: string): Known {
    const name = thing === 'target' ? `target ${target}` : thing;
    const known = this.#known.get(name) ?? { state: 'down', sure: false };
    this.#known.set(name, known);
    return known;
  }

  #wrong(text: string): void {
    this.#problems.push(`${this.#name}: ${text}`);
  }
}

function callName({ life, call, rpc }: CallEnd): string {
  return `${rpc} ${life}.${call}`;
}

function isMoving(rpc: string): rpc is Moving {
  return rpc in PAIRS;
}
