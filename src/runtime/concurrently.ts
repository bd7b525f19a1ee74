/** Steps side by side, as one: the first failure aborts the others, and nothing is left running when it is reported. */

/** A step that heeds its signal. */
export type Step<T> = (signal: AbortSignal) => Promise<T>;

/**
 * Runs all steps at once and returns their results in order. When one fails the others' signal is aborted, and the
 * first failure is thrown after every step has settled: the caller may undo without racing against them.
 */
export async function concurrently<T>(steps: readonly Step<T>[], signal: AbortSignal): Promise<T[]> {
  signal.throwIfAborted();
  const stop = new AbortController();
  const shared = AbortSignal.any([signal, stop.signal]);
  const failures: unknown[] = [];
  const settled = await Promise.all(
    steps.map(async (step) => {
      try {
        return [await step(shared)];
      } catch (error) {
        failures.push(error);
        stop.abort(error);
        return [];
      }
    }),
  );
  if (failures.length > 0) throw failures[0];
  return settled.flat();
}
