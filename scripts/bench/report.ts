/** What the bench prints and writes. */
import type { Absent } from './contestant.ts';
import type { IpamRow } from './ipam-cost.ts';
import type { Row, Throughput } from './measure.ts';

/** Everything of one run of the bench. */
export interface Report {
  readonly at: string;
  readonly host: Readonly<Record<string, string | number>>;
  readonly rounds: number;
  readonly rows: readonly Row[];
  readonly throughput: readonly Throughput[];
  readonly ipam: readonly IpamRow[];
  readonly absent: readonly Absent[];
  readonly goals: readonly Goal[];
}

/** What Berth's median must be at most, in parts of another one's. */
export interface Goal {
  readonly against: string;
  readonly atMost: number;
  readonly ratio: number;
  readonly reached: boolean;
}

const GOALS = [
  { against: 'raw sequence', atMost: 0.85 },
  { against: 'ctr run --rm --cni', atMost: 0.65 },
  { against: 'podman run --rm', atMost: 0.55 },
] as const;

/** Goals for which both sides were measured. */
export function goalsOf(rows: readonly Row[]): Goal[] {
  const own = rows.find(({ name }) => name === 'berth, API');
  if (own === undefined) return [];
  return GOALS.flatMap(({ against, atMost }) => {
    const other = rows.find(({ name }) => name === against);
    if (other === undefined) return [];
    const ratio = own.lifecycle.medianMs / other.lifecycle.medianMs;
    return [{ against, atMost, ratio, reached: ratio <= atMost }];
  });
}

/** What a call of berth-ipam, ADD and DEL together, must cost at most in parts of host-local's. */
const IPAM_AT_MOST = 2;

/** The goal of the IPAM plugin, where host-local was measured beside it. */
export function ipamGoalsOf(rows: readonly IpamRow[]): Goal[] {
  const [own, other] = ['berth-ipam', 'host-local'].map((name) => rows.find((row) => row.name === name));
  if (own === undefined || other === undefined) return [];
  const both = ({ add, del }: IpamRow): number => add.medianMs + del.medianMs;
  const ratio = both(own) / both(other);
  return [{ against: 'host-local', atMost: IPAM_AT_MOST, ratio, reached: ratio <= IPAM_AT_MOST }];
}

/** The report for people. */
export function formatReport(report: Report): string {
  const own = report.rows.find(({ name }) => name === 'berth, API')?.lifecycle.medianMs;
  const lifecycles = table(
    ['full lifecycle, ms', 'median', 'min', 'p99', 'berth is', 'first instruction', 'p99'],
    report.rows.map(({ name, lifecycle, firstInstruction }) => [
      name,
      whole(lifecycle.medianMs),
      whole(lifecycle.minMs),
      whole(lifecycle.p99Ms),
      own === undefined ? '' : `${(own / lifecycle.medianMs).toFixed(2)} x`,
      whole(firstInstruction.medianMs),
      whole(firstInstruction.p99Ms),
    ]),
  );
  const steps = report.rows.flatMap(({ name, stepsMs }) =>
    stepsMs === undefined
      ? []
      : [
          `${name}: ${Object.entries(stepsMs)
            .map(([step, ms]) => `${step} ${whole(ms)}`)
            .join(', ')}`,
        ],
  );
  const levels = [...new Set(report.throughput.map(({ concurrency }) => concurrency))];
  const rates = table(
    ['lifecycles per second', ...levels.map((level) => `${level} at once`)],
    [...new Set(report.throughput.map(({ name }) => name))].map((name) => [
      name,
      ...levels.map((level) => rate(report.throughput, name, level)),
    ]),
  );
  const ipam = table(
    ['one call of an IPAM plugin, ms', 'ADD', 'p99', 'DEL', 'p99'],
    report.ipam.map(({ name, add, del }) => [
      name,
      ...[add.medianMs, add.p99Ms, del.medianMs, del.p99Ms].map((ms) => ms.toFixed(1)),
    ]),
  );
  const absent = report.absent.map(({ name, reason }) => `skipped: ${name}: ${reason}`);
  const goals = report.goals.map(
    ({ against, atMost, ratio, reached }) =>
      `${reached ? 'reached' : 'MISSED'}: ${ratio.toFixed(2)} x ${against}, at most ${atMost} x is wanted`,
  );
  return [lifecycles, ...steps, '', rates, ...(report.ipam.length === 0 ? [] : [ipam]), ...absent, ...goals].join('\n');
}

function rate(all: readonly Throughput[], name: string, level: number): string {
  return all.find((entry) => entry.name === name && entry.concurrency === level)?.perSecond.toFixed(1) ?? '';
}

function whole(ms: number): string {
  return ms.toFixed(0);
}

/** Columns as wide as their widest cell, the first to the left, figures to the right. */
function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ');
  return [line(headings), ...rows.map(line), ''].join('\n');
}
