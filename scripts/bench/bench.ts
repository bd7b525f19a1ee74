/**
 * Measures the full lifecycle of a container (run `true` with one bridge network, remove) through a warm daemon against
 * the same raw steps without Berth and against podman and ctr where they are installed, in turn, and says how many
 * lifecycles a second Berth does with 1, 2, 4 and 8 at once.
 *
 *   npm run build && npm run bench -- [--rounds 30] [--only berth,raw,podman,ctr] [--runtime crun] [--check]
 *
 * --check makes it fail when a goal is missed. Needs root; everything is made under names of the bench and removed.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { mountHugetlb } from '../../test/support/cgroup-fixture.ts';
import { type BerthContestants, berth } from './berth.ts';
import { command } from './command.ts';
import type { Absent, Contestant } from './contestant.ts';
import { ctr } from './ctr.ts';
import { type IpamRow, ipamCost } from './ipam-cost.ts';
import { inTurn, type Throughput, throughput } from './measure.ts';
import { makePlace, type Place } from './place.ts';
import { podman } from './podman.ts';
import { rawSequence } from './raw-sequence.ts';
import { attachGoalsOf, formatReport, goalsOf, ipamGoalsOf, type Report, volumeGoalsOf } from './report.ts';
import { VolumeBench } from './volume-cost.ts';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));
const OWN_NAMESPACE = 'BERTH_BENCH_NAMESPACE';
const LEVELS = [1, 2, 4, 8] as const;
const PARALLEL_ATTACHES = 50;
const PARALLEL_VOLUMES = { count: 20, atOnce: 4 } as const;

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '30' },
    'warm-up': { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    runtime: { type: 'string', default: 'crun' },
    check: { type: 'boolean', default: false },
  },
});

/** Mounts of the bench are seen by nobody else and go away with it. */
async function enterOwnNamespace(): Promise<number> {
  mountHugetlb();
  const args = ['--mount', '--propagation', 'private', process.execPath, ...process.argv.slice(1)];
  const child = spawn('unshare', args, { stdio: 'inherit', env: { ...process.env, [OWN_NAMESPACE]: '1' } });
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => child.kill(name));
  const [code] = await once(child, 'exit');
  return code ?? 1;
}

async function bench(): Promise<number> {
  const place = await makePlace();
  const closers: (() => Promise<void>)[] = [() => place.close()];
  const interrupted = Promise.withResolvers<never>();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => interrupted.reject(new Error(`${name}: the bench was interrupted`)));
  }
  try {
    const report = await Promise.race([measureAll(place, closers), interrupted.promise]);
    const file = join(REPOSITORY, 'bench-results', `${report.at.replaceAll(':', '-')}.json`);
    await mkdir(join(REPOSITORY, 'bench-results'), { recursive: true });
    await writeFile(file, `${JSON.stringify(report, undefined, 2)}\n`);
    process.stdout.write(`\n${formatReport(report)}\n\nwritten to ${file}\n`);
    return options.check && report.goals.some(({ reached }) => !reached) ? 1 : 0;
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

async function measureAll(place: Place, closers: (() => Promise<void>)[]): Promise<Report> {
  const facts = await host();
  const { contestants, absent, own } = await contestantsOf(place, closers);
  const rounds = Number(options.rounds);
  process.stdout.write(`${contestants.map(({ name }) => name).join('; ')}: ${rounds} rounds\n`);
  const rows = await inTurn(contestants, rounds, Number(options['warm-up']));
  const rates: Throughput[] = [];
  for (const level of LEVELS) {
    for (const contestant of contestants.filter(({ name }) => name === 'berth, API' || name === 'raw sequence')) {
      rates.push(await throughput(contestant, level, Math.max(16, level * 6)));
    }
  }
  const parts = own === undefined ? undefined : await partsOf(place, own, rounds);
  return {
    at: new Date().toISOString(),
    host: facts,
    rounds,
    rows,
    throughput: rates,
    ...(parts ?? { ipam: [], attach: [], volume: [] }),
    absent,
    goals: [...goalsOf(rows), ...(parts === undefined ? [] : parts.goals)],
  };
}

/** What single parts of Berth cost beside what they stand for. */
async function partsOf(
  place: Place,
  own: BerthContestants,
  rounds: number,
): Promise<Pick<Report, 'ipam' | 'attach' | 'parallelAttaches' | 'volume' | 'parallelVolumes' | 'goals'>> {
  const ipam: IpamRow[] = await ipamCost(own.ipamPlugin, join(place.dir, 'ipam-cost'), rounds);
  const attach = await own.attachCost(rounds);
  const parallelAttaches = await own.parallelAttaches(PARALLEL_ATTACHES);
  const volumes = await VolumeBench.start(await place.directory('volumes'));
  try {
    const volume = await volumes.cost(rounds);
    const { count, atOnce } = PARALLEL_VOLUMES;
    const parallelVolumes = await volumes.parallel(count, atOnce);
    const goals = [
      ...ipamGoalsOf(ipam),
      ...attachGoalsOf(attach, parallelAttaches),
      ...volumeGoalsOf(volume, parallelVolumes),
    ];
    return { ipam, attach, parallelAttaches, volume, parallelVolumes, goals };
  } finally {
    await volumes.close();
  }
}

async function contestantsOf(
  place: Place,
  closers: (() => Promise<void>)[],
): Promise<{ contestants: Contestant[]; absent: Absent[]; own: BerthContestants | undefined }> {
  const { runtime } = options;
  const only = options.only.split(',').filter((name) => name !== '');
  const wanted = (name: string): boolean => only.length === 0 || only.includes(name);
  const contestants: Contestant[] = [];
  const absent: Absent[] = [];
  let own: BerthContestants | undefined;
  if (wanted('berth')) {
    const made = await berth(place, runtime);
    closers.push(() => made.close());
    contestants.push(made.api, made.cli);
    own = made;
  }
  for (const [name, make] of [
    ['raw', rawSequence],
    ['podman', podman],
    ['ctr', ctr],
  ] as const) {
    if (!wanted(name)) continue;
    const made = await make(place, runtime);
    if ('reason' in made) absent.push(made);
    else {
      contestants.push(made);
      closers.push(() => made.close());
    }
  }
  return { contestants, absent, own };
}

async function host(): Promise<Record<string, string | number>> {
  const release = /PRETTY_NAME="(.*)"/.exec(readFileSync('/usr/lib/os-release', 'utf8'))?.[1] ?? '';
  return {
    system: release,
    kernel: readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim(),
    cpus: cpus().length,
    cpuModel: cpus()[0]?.model ?? '',
    memoryMiB: Math.round(totalmem() / 1024 / 1024),
    node: process.versions.node,
    commit: (await command('git', ['-C', REPOSITORY, 'rev-parse', 'HEAD']).catch(() => 'unknown')).trim(),
    runtime: options.runtime,
  };
}

if (process.getuid?.() !== 0) throw new Error('the bench needs root: it makes namespaces, mounts and addresses');
process.exitCode = process.env[OWN_NAMESPACE] === undefined ? await enterOwnNamespace() : await bench();
