/** Figures of a series of measurements, in milliseconds. */

export interface Figures {
  readonly count: number;
  readonly minMs: number;
  readonly medianMs: number;
  readonly p99Ms: number;
}

/** @throws when there is no measurement */
export function figures(values: readonly number[]): Figures {
  const sorted = [...values].sort((a, b) => a - b);
  return {
    count: sorted.length,
    minMs: at(sorted, 0),
    medianMs: (at(sorted, (sorted.length - 1) >> 1) + at(sorted, sorted.length >> 1)) / 2,
    p99Ms: at(sorted, Math.ceil(sorted.length * 0.99) - 1),
  };
}

function at(sorted: readonly number[], index: number): number {
  const value = sorted[index];
  if (value === undefined) throw new Error('no measurement');
  return value;
}
