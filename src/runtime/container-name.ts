/** Names for containers that were given none: two words people can say, as docker does it. */
import { randomInt } from 'node:crypto';

const MANNERS = [
  'anchored',
  'brisk',
  'calm',
  'drifting',
  'eager',
  'fair',
  'gentle',
  'hardy',
  'idle',
  'jolly',
  'keen',
  'leeward',
  'moored',
  'nimble',
  'outbound',
  'patient',
  'quiet',
  'roving',
  'salty',
  'tidal',
  'upright',
  'vigilant',
  'windward',
] as const;

const VESSELS = [
  'barge',
  'brig',
  'canoe',
  'catamaran',
  'clipper',
  'coaster',
  'cutter',
  'dhow',
  'dinghy',
  'dory',
  'felucca',
  'ferry',
  'frigate',
  'galley',
  'gig',
  'junk',
  'kayak',
  'ketch',
  'launch',
  'lugger',
  'packet',
  'pinnace',
  'punt',
  'schooner',
  'skiff',
  'sloop',
  'trawler',
  'tug',
  'wherry',
  'yawl',
] as const;

/** A name `taken` does not know; a number is added once the words run out. */
export function freshName(taken: (name: string) => boolean): string {
  for (let attempt = 0; ; attempt += 1) {
    const words = `${MANNERS[randomInt(MANNERS.length)]}_${VESSELS[randomInt(VESSELS.length)]}`;
    const name = attempt < 8 ? words : `${words}_${randomInt(1_000_000)}`;
    if (!taken(name)) return name;
  }
}
