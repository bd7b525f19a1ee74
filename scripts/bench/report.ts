/** What the bench prints and writes. */
import { type AttachRow, BARE_ATTACH, OWN_ATTACH, type ParallelAttaches } from './attach-cost.ts';
import type { Absent } from './contestant.ts';
import type { IpamRow } from './ipam-cost.ts';
import type { Row, Throughput } from './measure.ts';
import { BARE_VOLUME, OWN_VOLUME, type ParallelVolumes, type VolumeRow } from './volume-cost.ts';

/** Everything of one run of the bench. */
export interface Report {
  readonly at: string;
  readonly host: Readonly<Record<string, string | number>>;
  readonly rounds: number;
  readonly rows: readonly Row[];
  readonly throughput: readonly Throughput[];
  readonly ipam: readonly IpamRow[];
  readonly attach: readonly AttachRow[];
  readonly parallelAttaches?: ParallelAttaches | undefined;
  readonly volume: readonly VolumeRow[];
  readonly parallelVolumes?: ParallelVolumes | undefined;
  readonly absent: readonly Absent[];
  readonly goals: readonly Goal[];
}

/** What Berth's median must be at most: in parts of another one's, or in the unit given. */
export interface Goal {
  readonly against: string;
  readonly atMost: number;
  readonly ratio: number;
  /** "x" unless given. */
  readonly unit?: 'ms' | 'failures';
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

/** What attaching and detaching may cost in parts of the bare plugin executions. */
const ATTACH_AT_MOST = 1.1;

/** The goals of attaching: its cost, and that nothing fails when many come at once. */
export function attachGoalsOf(rows: readonly AttachRow[], { count, failed }: ParallelAttaches): Goal[] {
  const [own, bare] = [OWN_ATTACH, BARE_ATTACH].map((name) => rows.find((row) => row.name === name));
  const ratio = own === undefined || bare === undefined ? undefined : own.both.medianMs / bare.both.medianMs;
  return [
    ...(ratio === undefined
      ? []
      : [{ against: BARE_ATTACH, atMost: ATTACH_AT_MOST, ratio, reached: ratio <= ATTACH_AT_MOST }]),
    { against: `of ${count} attaches at once`, atMost: 0, ratio: failed, unit: 'failures', reached: failed === 0 },
  ];
}

/** What publishing a volume may cost over the plugin's own time, in milliseconds. */
const PUBLISH_AT_MOST_MS = 15;

/** The goals of volumes: what Berth adds to the plugin's time, and that nothing fails when several are used at once. */
export function volumeGoalsOf(rows: readonly VolumeRow[], { count, atOnce, failed }: ParallelVolumes): Goal[] {
  const [own, bare] = [OWN_VOLUME, BARE_VOLUME].map((name) => rows.find((row) => row.name === name));
  const against = `of ${count} volumes, ${atOnce} at once`;
  const parallel: Goal = { against, atMost: 0, ratio: failed, unit: 'failures', reached: failed === 0 };
  if (own === undefined || bare === undefined) return [parallel];
  const overMs = own.publish.medianMs - bare.publish.medianMs;
  const reached = overMs <= PUBLISH_AT_MOST_MS;
  return [
    { against: 'over a publish by hand', atMost: PUBLISH_AT_MOST_MS, ratio: overMs, unit: 'ms', reached },
    parallel,
  ];
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
  const goals = report.goals.map(formatGoal);
  const single = [ipam, ...partTables(report)];
  return [lifecycles, ...steps, '', rates, ...(report.ipam.length === 0 ? [] : single), ...absent, ...goals].join('\n');
}

/** The tables of single parts, and a line for each thing done many times at once. */
function partTables({ attach, parallelAttaches: attaches, volume, parallelVolumes: volumes }: Report): string[] {
  const ms = (figures: { medianMs: number; p99Ms: number }): string[] => [
    figures.medianMs.toFixed(1),
    figures.p99Ms.toFixed(1),
  ];
  return [
    table(
      ['one network of a running container, ms', 'attach', 'p99', 'detach', 'p99', 'both', 'p99'],
      attach.map((row) => [row.name, ...ms(row.attach), ...ms(row.detach), ...ms(row.both)]),
    ),
    table(
      ['one volume, ms', 'up', 'p99', 'down', 'p99'],
      volume.map((row) => [row.name, ...ms(row.publish), ...ms(row.unpublish)]),
    ),
    ...(attaches === undefined
      ? []
      : [`${attaches.count} containers attached at once: ${seconds(attaches.totalMs)}, ${attaches.failed} failed`]),
    ...(volumes === undefined
      ? []
      : [
          `${volumes.count} volumes made, used and removed, ${volumes.atOnce} at once: ${seconds(volumes.totalMs)}, ` +
            `${volumes.failed} failed\n`,
        ]),
  ];
}

function formatGoal({ against, atMost, ratio, unit, reached }: Goal): string {
  const amount = (value: number): string =>
    unit === undefined ? `${value.toFixed(2)} x` : `${value.toFixed(unit === 'ms' ? 1 : 0)} ${unit}`;
  const wanted = unit === undefined ? `${atMost} x is` : `${atMost} ${unit} are`;
  return `${reached ? 'reached' : 'MISSED'}: ${amount(ratio)} ${against}, at most ${wanted} wanted`;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
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
