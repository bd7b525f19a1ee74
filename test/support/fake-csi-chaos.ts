/**
 * Faults at random, the same for the same seed: which fault the nth call of a kind for a volume meets depends on the
 * seed, the call, the volume's name and n alone, however calls interleave and however often the plugin dies.
 */
import { createHash } from 'node:crypto';
import type { Code } from '../../src/errors.ts';
import type { Fault } from './fake-csi-faults.ts';
import type { JournalEntry } from './fake-csi-ledger.ts';

/** Calls after these go well, so that every run comes to its end. */
const MOST_FAULTS = 3;
/** How many calls in a hundred meet a fault. */
const PERCENT = 25;

/** The plugin has done nothing. NOT_FOUND is left out: on the way down it would be a lie. */
const REFUSALS: readonly Code[] = [
  'INVALID_ARGUMENT',
  'PERMISSION_DENIED',
  'FAILED_PRECONDITION',
  'RESOURCE_EXHAUSTED',
];
/** It may have done something. */
const OPEN: readonly Code[] = ['UNAVAILABLE', 'ABORTED', 'DEADLINE_EXCEEDED', 'CANCELLED'];
/** The same, in words for anything. */
const VAGUE: readonly Code[] = ['INTERNAL', 'UNKNOWN'];

/** Chooses the faults of all plugins of a process. */
export class Chaos {
  readonly #seed: number;
  readonly #seen = new Map<string, number>();

  /** `past`: what the lives before have logged. */
  constructor(seed: number, past: readonly JournalEntry[]) {
    this.#seed = seed;
    for (const entry of past) if (entry.at === 'arrived') this.#count(entry.rpc, entry.volume);
  }

  /** The fault of this call; undefined when it goes well. */
  faultFor(rpc: string, volume: string): Fault | undefined {
    const n = this.#count(rpc, volume);
    if (n > MOST_FAULTS) return undefined;
    // Chance alone would leave one run in ten or so without a death.
    if (rpc === 'NodeStageVolume' && n === 1 && nameOf(volume).endsWith('7')) return { kind: 'crash', done: true };
    const fault = chosen(new Dice(`${this.#seed} ${rpc} ${nameOf(volume)} ${n}`), rpc);
    // A volume that was made has no id yet: refused twice in a row it would be forgotten, and rightly so.
    const final = fault?.kind === 'error' && !OPEN.includes(fault.code);
    return rpc === 'CreateVolume' && final && n % 2 === 1 ? undefined : fault;
  }

  #count(rpc: string, volume: string): number {
    const key = `${rpc} ${nameOf(volume)}`;
    const n = (this.#seen.get(key) ?? 0) + 1;
    this.#seen.set(key, n);
    return n;
  }
}

function chosen(dice: Dice, rpc: string): Fault | undefined {
  if (!/Volume$/.test(rpc) || dice.below(100) >= PERCENT) return undefined;
  const done = dice.below(2) === 1;
  switch (dice.below(8)) {
    case 0:
    case 1:
      return { kind: 'error', code: dice.of(REFUSALS) };
    case 2:
    case 3:
      return { kind: 'error', code: dice.of(OPEN), done };
    case 4:
      return { kind: 'error', code: dice.of(VAGUE), done: done && rpc !== 'CreateVolume' };
    case 5:
      return { kind: 'delay', ms: dice.below(1500) };
    case 6:
      return { kind: 'hang', done };
    default:
      // Death takes all calls under way with it: it is rarer.
      return dice.below(5) === 0 ? { kind: 'crash', done } : { kind: 'error', code: 'UNAVAILABLE', done };
  }
}

/** The name the test gave it: the rest of the id is chance. */
function nameOf(volume: string): string {
  return volume.replace(/^id-of-/, '').replace(/-[0-9a-f]{12}$/, '');
}

/** Numbers that follow from a text. */
class Dice {
  readonly #text: string;
  #throws = 0;

  constructor(text: string) {
    this.#text = text;
  }

  below(end: number): number {
    this.#throws += 1;
    return createHash('sha256').update(`${this.#text} ${this.#throws}`).digest().readUInt32BE() % end;
  }

  of<T>(from: readonly [T, ...T[]] | readonly T[]): T {
    const one = from[this.below(from.length)];
    if (one === undefined) throw new Error('nothing to choose from');
    return one;
  }
}
