/**
 * How much of the disk the driver's files may still come to need. A sparse image claims what it does not occupy yet.
 * Files of one lineage share blocks (FICLONE), which stat(2) counts for each of them: a write to a shared block needs a
 * new one. Of a lineage no more than its largest file is known to occupy blocks of its own, so only that is taken for
 * paid. The claim is never too small; it is too large by what the others have ceased to share.
 */
import { stat } from 'node:fs/promises';
import { systemCode } from '../../errors.ts';

/** A file that takes space. */
export interface Occupant {
  readonly path: string;
  /** Equal for files that may share blocks. */
  readonly lineage: string;
  /** What it may come to occupy; undefined for one that is never written again. */
  readonly mostBytes: number | undefined;
}

/** Bytes beyond those the disk counts as used. */
export async function claimedBytes(occupants: readonly Occupant[]): Promise<number> {
  const lineages = new Map<string, { most: number; paid: number }>();
  for (const { lineage, mostBytes, occupied } of await Promise.all(occupants.map(measured))) {
    const { most, paid } = lineages.get(lineage) ?? { most: 0, paid: 0 };
    lineages.set(lineage, {
      most: most + Math.max(mostBytes ?? 0, occupied),
      paid: Math.max(paid, occupied),
    });
  }
  return [...lineages.values()].reduce((sum, { most, paid }) => sum + most - paid, 0);
}

/** Bytes of blocks behind a file; none when there is no such file. */
export async function occupiedBytes(path: string): Promise<number> {
  try {
    return (await stat(path)).blocks * 512;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw error;
  }
}

/** A file that was removed since it was listed claims nothing. */
async function measured(occupant: Occupant): Promise<Occupant & { readonly occupied: number }> {
  try {
    return { ...occupant, occupied: (await stat(occupant.path)).blocks * 512 };
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return { ...occupant, mostBytes: undefined, occupied: 0 };
    throw error;
  }
}
