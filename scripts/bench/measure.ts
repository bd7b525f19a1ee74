/** How contestants are measured: in turn, so that whatever else the machine does falls on all of them alike. */
import type { Contestant, Lifecycle } from './contestant.ts';
import { type Figures, figures } from './statistics.ts';

const NOTHING = ['true'] as const;
/** busybox prints the kernel's clock with microseconds: the first thing the container does. */
const TELL_TIME = ['adjtimex'] as const;

/** The row of one contestant. */
export interface Row {
  readonly name: string;
  /** Request to everything given back. */
  readonly lifecycle: Figures;
  /** Request to the first instruction of user code. */
  readonly firstInstruction: Figures;
  /** Medians of the parts, where they are known. */
  readonly stepsMs?: Readonly<Record<string, number>>;
  readonly versions: Readonly<Record<string, string>>;
}

/** Lifecycles per second of one contestant. */
export interface Throughput {
  readonly name: string;
  readonly concurrency: number;
  readonly lifecycles: number;
  readonly perSecond: number;
}

/** Runs every contestant once per round, starting with another one each time. */
export async function inTurn(contestants: readonly Contestant[], rounds: number, warmUp: number): Promise<Row[]> {
  const lifecycles = new Map<Contestant, Lifecycle[]>(contestants.map((contestant) => [contestant, []]));
  const firsts = new Map<Contestant, number[]>(contestants.map((contestant) => [contestant, []]));
  for (let round = -warmUp; round < rounds; round += 1) {
    for (const contestant of rotated(contestants, round + warmUp)) {
      const lifecycle = await contestant.run(NOTHING);
      const firstMs = await firstInstruction(contestant);
      if (round < 0) continue;
      lifecycles.get(contestant)?.push(lifecycle);
      firsts.get(contestant)?.push(firstMs);
    }
  }
  return contestants.map((contestant) => {
    const measured = lifecycles.get(contestant) ?? [];
    const steps = stepMedians(measured);
    return {
      name: contestant.name,
      lifecycle: figures(measured.map(({ totalMs }) => totalMs)),
      firstInstruction: figures(firsts.get(contestant) ?? []),
      ...(steps === undefined ? {} : { stepsMs: steps }),
      versions: contestant.versions,
    };
  });
}

/** How many lifecycles a second, with so many under way at any time. */
export async function throughput(contestant: Contestant, concurrency: number, lifecycles: number): Promise<Throughput> {
  let left = lifecycles;
  const worker = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      await contestant.run(NOTHING);
    }
  };
  const begunMs = performance.now();
  await Promise.all(Array.from({ length: concurrency }, worker));
  const seconds = (performance.now() - begunMs) / 1000;
  return { name: contestant.name, concurrency, lifecycles, perSecond: lifecycles / seconds };
}

async function firstInstruction(contestant: Contestant): Promise<number> {
  const begunMs = performance.timeOrigin + performance.now();
  const { output } = await contestant.run(TELL_TIME);
  const [, seconds, micros] = /time\.tv_sec:\s+(\d+)\s+time\.tv_usec:\s+(\d+)/.exec(output) ?? [];
  if (seconds === undefined || micros === undefined) {
    throw new Error(`${contestant.name}: the container did not tell the time: ${output}`);
  }
  return Number(seconds) * 1000 + Number(micros) / 1000 - begunMs;
}

function rotated<T>(items: readonly T[], by: number): T[] {
  const start = by % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}

function stepMedians(lifecycles: readonly Lifecycle[]): Record<string, number> | undefined {
  const names = Object.keys(lifecycles[0]?.stepsMs ?? {});
  if (names.length === 0) return undefined;
  const medianOf = (name: string): number => figures(lifecycles.map(({ stepsMs }) => stepsMs?.[name] ?? 0)).medianMs;
  return Object.fromEntries(names.map((name) => [name, medianOf(name)]));
}
