/** Repeats a CSI call with growing, jittered pauses, inside the caller's deadline and a budget of its own. */
import { setTimeout as sleep } from 'node:timers/promises';

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2000;

export interface RetryOptions {
  /** How long repeating may go on. */
  readonly budgetMs: number;
  /** Whether the same call may be sent again after this failure, the nth. */
  readonly repeatable: (error: unknown, failures: number) => boolean;
  /** Called before each pause. */
  readonly onRetry: (error: unknown, pauseMs: number) => void;
}

/**
 * The first result. When the budget or the caller's time is spent, the last failure is thrown: what the plugin said is
 * worth more than that time ran out.
 */
export async function withRetries<T>(
  attempt: () => Promise<T>,
  options: RetryOptions,
  signal: AbortSignal,
): Promise<T> {
  const endMs = performance.now() + options.budgetMs;
  for (let failures = 1; ; failures += 1) {
    try {
      return await attempt();
    } catch (error) {
      const pauseMs = pause(failures);
      const outOfTime = signal.aborted || performance.now() + pauseMs > endMs;
      if (outOfTime || !options.repeatable(error, failures)) throw error;
      options.onRetry(error, pauseMs);
      if (!(await slept(pauseMs, signal))) throw error;
    }
  }
}

function pause(failures: number): number {
  const ceilingMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1));
  return Math.round(ceilingMs * (0.5 + Math.random() / 2));
}

/** False when the signal came first. */
async function slept(ms: number, signal: AbortSignal): Promise<boolean> {
  try {
    await sleep(ms, undefined, { signal });
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  }
}
