/**
 * Undoes what a test made, last made first undone, whether the test passed or not. node:test runs `t.after` hooks in the
 * order of registration and stops at the first that throws, which would remove a directory before the mounts inside it
 * and leave the rest of the machine as it is. Here every step is attempted and every failure is reported.
 */

/** Anything that runs hooks when it ends: a test's context, or `{ after }` of node:test inside describe or before. */
export interface TestScope {
  after(hook: () => void | Promise<void>): void;
}

type Step = () => unknown;

const stacks: WeakMap<TestScope, Step[]> = new WeakMap();

/**
 * Registers a step to undo something. Steps of one scope run one after another, the last registered first, each once,
 * even when another fails. Register a step before the effect it undoes and let it succeed when there was none.
 */
export function cleanup(t: TestScope, step: Step): void {
  const known = stacks.get(t);
  if (known !== undefined) {
    known.push(step);
    return;
  }
  const stack = [step];
  stacks.set(t, stack);
  t.after(() => unwind(stack));
}

async function unwind(stack: Step[]): Promise<void> {
  const failures: unknown[] = [];
  for (let step = stack.pop(); step !== undefined; step = stack.pop()) {
    try {
      await step();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) throw new AggregateError(failures, `cleanup failed: ${failures.map(String).join('; ')}`);
}
