/** Verbs for containers that exist: ps, inspect, start, wait, stop, kill, rm, stats. */
import type { Command } from 'commander';
import { containerColumns, containerDetails, containerObject } from './container-view.ts';
import { usage } from './failure.ts';
import { type Format, formatOption, jsonOption, type Session } from './session.ts';
import { formatSize } from './size.ts';

/** Adds the verbs to the program. */
export function addContainerVerbs(program: Command, session: Session): void {
  addPs(program, session);
  addInspect(program, session);
  addStart(program, session);
  addWait(program, session);
  addStop(program, session);
  addKill(program, session);
  addRm(program, session);
  addStats(program, session);
}

function addPs(program: Command, session: Session): void {
  interface Flags {
    readonly all?: boolean;
    readonly quiet?: boolean;
    readonly trunc: boolean;
    readonly format: Format;
  }
  program
    .command('ps')
    .summary('list containers')
    .description('Lists the containers that run.')
    .option('-a, --all', 'also those that do not run')
    .option('-q, --quiet', 'only ids')
    .option('--no-trunc', 'print ids and commands in full')
    .addOption(formatOption())
    .addHelpText('after', '\nExamples:\n  berth ps -a\n  berth ps --format json\n  berth rm $(berth ps -aq)')
    .action(async ({ all, quiet, trunc, format }: Flags, command: Command) => {
      const daemon = await session.daemon(command);
      const { containers } = await daemon.call('Containers', 'List', { all: all ?? false });
      if (quiet === true) {
        await session.print(containers.map(({ id }) => `${trunc ? id.slice(0, 12) : id}\n`).join(''));
        return;
      }
      const shape = { columns: containerColumns(Date.now(), !trunc), json: containerObject };
      await session.printList(format, containers, shape);
    });
}

function addInspect(program: Command, session: Session): void {
  program
    .command('inspect')
    .summary('show everything about containers')
    .description('Shows everything about containers as a JSON array: state, addresses, volumes, and the request.')
    .argument('<container...>', 'id, beginning of an id, or name')
    .addOption(jsonOption())
    .action(async (refs: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const containers = await Promise.all(refs.map((ref) => daemon.call('Containers', 'Inspect', { ref })));
      await session.printJson(containers.map(containerDetails));
    });
}

function addStart(program: Command, session: Session): void {
  program
    .command('start')
    .summary('run containers that were created or have exited')
    .description('Runs containers that were created or have exited. Returns when their programs run.')
    .argument('<container...>', 'id, beginning of an id, or name')
    .action(async (refs: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(refs, async (ref) => {
        await daemon.call('Containers', 'Start', { ref });
        return `${ref}\n`;
      });
    });
}

function addWait(program: Command, session: Session): void {
  program
    .command('wait')
    .summary('wait until containers exit, print their exit codes')
    .description('Waits until containers have exited and prints their exit codes, one a line.')
    .argument('<container...>', 'id, beginning of an id, or name')
    .action(async (refs: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(refs, async (ref) => `${(await daemon.call('Containers', 'Wait', { ref })).code}\n`);
    });
}

function addStop(program: Command, session: Session): void {
  program
    .command('stop')
    .summary('end containers')
    .description('Asks containers to end by SIGTERM, and ends those by SIGKILL that do not.')
    .argument('<container...>', 'id, beginning of an id, or name')
    .option('-t, --time <seconds>', 'how long they may take (default: 10)')
    .option('-s, --signal <signal>', 'signal to send first (default: SIGTERM)')
    .action(async (refs: string[], flags: { time?: string; signal?: string }, command: Command) => {
      const timeout = flags.time === undefined ? {} : { timeoutMs: String(parseSeconds(flags.time) * 1000) };
      const signal = flags.signal === undefined ? {} : { signal: flags.signal };
      const daemon = await session.daemon(command);
      await session.forEach(refs, async (ref) => {
        await daemon.call('Containers', 'Stop', { ref, ...timeout, ...signal });
        return `${ref}\n`;
      });
    });
}

function parseSeconds(text: string): number {
  if (!/^\d{1,7}$/.test(text)) throw usage('--time', `${JSON.stringify(text)} is no whole number of seconds`);
  return Number(text);
}

function addKill(program: Command, session: Session): void {
  program
    .command('kill')
    .summary('send a signal to containers')
    .description('Sends a signal to the first process of containers that run.')
    .argument('<container...>', 'id, beginning of an id, or name')
    .option('-s, --signal <signal>', 'name or number', 'KILL')
    .action(async (refs: string[], { signal }: { signal: string }, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(refs, async (ref) => {
        await daemon.call('Containers', 'Kill', { ref, signal });
        return `${ref}\n`;
      });
    });
}

function addRm(program: Command, session: Session): void {
  program
    .command('rm')
    .summary('remove containers')
    .description('Removes containers and everything they hold. Returns when all of it is given back.')
    .argument('<container...>', 'id, beginning of an id, or name')
    .option('-f, --force', 'end those that run')
    .action(async (refs: string[], { force }: { force?: boolean }, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(refs, async (ref) => {
        await daemon.call('Containers', 'Remove', { ref, force: force ?? false });
        return `${ref}\n`;
      });
    });
}

function addStats(program: Command, session: Session): void {
  program
    .command('stats')
    .summary('show what containers use')
    .description('Shows what containers that run use now.')
    .argument('[container...]', 'id, beginning of an id, or name (default: all that run)')
    .addOption(formatOption())
    .action(async (refs: string[], { format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const chosen =
        refs.length > 0 ? refs : (await daemon.call('Containers', 'List', {})).containers.map(({ name }) => name);
      const rows = await Promise.all(
        chosen.map(async (ref) => usageRow(ref, await daemon.call('Containers', 'Stats', { ref }))),
      );
      await session.printList(format, rows, { columns: STATS_COLUMNS, json: (row) => row });
    });
}

interface UsageRow {
  readonly container: string;
  readonly memoryBytes: number | null;
  readonly memoryLimitBytes: number | null;
  readonly cpuUsageNanos: number | null;
  readonly pids: number | null;
}

const STATS_COLUMNS = [
  { heading: 'CONTAINER', cell: (row: UsageRow) => row.container },
  { heading: 'MEMORY', cell: (row: UsageRow) => (row.memoryBytes === null ? '-' : formatSize(row.memoryBytes)) },
  {
    heading: 'LIMIT',
    cell: (row: UsageRow) => (row.memoryLimitBytes === null ? '-' : formatSize(row.memoryLimitBytes)),
  },
  {
    heading: 'CPU TIME',
    cell: (row: UsageRow) => (row.cpuUsageNanos === null ? '-' : `${(row.cpuUsageNanos / 1e9).toFixed(2)} s`),
  },
  { heading: 'PIDS', cell: (row: UsageRow) => (row.pids === null ? '-' : String(row.pids)) },
];

function usageRow(
  container: string,
  usage: { memoryBytes?: string; memoryLimitBytes?: string; cpuUsageNanos?: string; pids?: string },
): UsageRow {
  const number = (text: string | undefined): number | null => (text === undefined ? null : Number(text));
  return {
    container,
    memoryBytes: number(usage.memoryBytes),
    memoryLimitBytes: number(usage.memoryLimitBytes),
    cpuUsageNanos: number(usage.cpuUsageNanos),
    pids: number(usage.pids),
  };
}
