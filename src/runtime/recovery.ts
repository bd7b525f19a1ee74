/**
 * What a start of the daemon does about containers. The record says what should be, the launcher what is:
 *
 *   record                                   process          then
 *   started, not destroyed, same boot        same init lives  running: kept and watched
 *   started, not destroyed                   ended            exit code read, torn down, kept as exited
 *   launch or teardown under way             any              torn down; a provisional container is removed
 *   none                                     any remains      torn down
 *   does not decode                          any              left alone and reported
 *
 * Nothing is lost if the daemon dies in here: the next start finds the same facts.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { ContainerId, ContainerRecord, Exit } from './container.ts';
import type { ContainerTable } from './container-table.ts';
import type { ExitBoard } from './exit-board.ts';
import type { Isolator } from './isolator.ts';
import type { InitProcess, Launcher } from './launcher.ts';
import type { Teardown } from './teardown.ts';

/** Longest time to wait for the exit code of a process that has ended. */
const EXIT_TIMEOUT_MS = 10_000;
const TERMINATE_TIMEOUT_MS = 20_000;

export interface RecoveryOptions {
  readonly launcher: Launcher;
  readonly isolators: readonly Isolator[];
  readonly table: ContainerTable;
  readonly teardown: Teardown;
  readonly board: ExitBoard;
  readonly bootId: string;
  readonly log: Logger;
}

/** Recovers all containers and returns the ids of those that run. */
export async function recoverContainers(options: RecoveryOptions, signal: AbortSignal): Promise<Set<ContainerId>> {
  const { launcher, isolators, table, teardown, log } = options;
  const begunMs = performance.now();
  for (const [id, reason] of table.damaged()) {
    log.error({ containerId: id, reason }, 'container record does not decode: left alone, remove it by force');
  }
  const held = await launcher.recover(signal);
  const running = new Set(table.list().flatMap((record) => (runs(record, held, options.bootId) ? [record.id] : [])));
  const untouchable = new Set([...running, ...table.damaged().keys()]);
  await Promise.all(table.list().map((record) => recordExit(record, running, options)));
  // Processes go before anything is taken from under them.
  const doomed = [...held.keys()].filter((id) => !untouchable.has(id));
  await Promise.all(doomed.map((id) => terminate(id, options)));
  for (const isolator of isolators) {
    try {
      await isolator.recover(untouchable, table.ids(), signal);
    } catch (error) {
      log.warn({ isolator: isolator.name, err: error }, 'recovery incomplete, will be tried again');
    }
  }
  const due = table.list().filter((record) => !running.has(record.id));
  await Promise.all(due.map((record) => teardown.release(record.id)));
  const orphans = new Set([...doomed, ...isolators.flatMap((isolator) => [...(isolator.pending?.() ?? [])])]);
  const unknown = [...orphans].filter((id) => !untouchable.has(id) && table.find(id) === undefined);
  await Promise.all(unknown.map((id) => teardown.releaseOrphan(id)));
  const durationMs = Math.round(performance.now() - begunMs);
  log.info(
    { running: running.size, released: due.length, orphans: unknown.length, durationMs },
    'containers recovered',
  );
  return running;
}

function runs(
  record: ContainerRecord,
  held: ReadonlyMap<ContainerId, InitProcess | undefined>,
  bootId: string,
): boolean {
  const run = record.run;
  if (run?.startedAt === undefined || run.init === undefined || run.bootId !== bootId) return false;
  if (run.destroyedAt !== undefined || run.exit !== undefined || record.removedAt !== undefined) return false;
  const init = held.get(record.id);
  return init?.pid === run.init.pid && init.startTicks === run.init.startTicks;
}

/** Writes down how a run ended while nobody watched, or that its launch was cut short. */
async function recordExit(
  record: ContainerRecord,
  running: ReadonlySet<ContainerId>,
  options: RecoveryOptions,
): Promise<void> {
  const { table, board } = options;
  const run = record.run;
  if (run === undefined || run.exit !== undefined || running.has(record.id)) return;
  if (run.startedAt === undefined) {
    const exit: Exit = { code: 128, oomKilled: false, exitedAt: new Date().toISOString() };
    table.amendRun(record.id, { exit, launchError: 'berthd ended while the container was being started' });
    return;
  }
  const exit = await exitOf(record, options);
  table.amendRun(record.id, { exit });
  board.exited(record.id, exit);
}

async function exitOf(record: ContainerRecord, options: RecoveryOptions): Promise<Exit> {
  const unknown: Exit = { code: -1, oomKilled: false, exitedAt: new Date().toISOString() };
  // Exit files lie in the run directory: those of another boot are not about this run.
  if (record.run?.bootId !== options.bootId) return unknown;
  try {
    await terminate(record.id, options);
    return await options.launcher.wait(record.id, AbortSignal.timeout(EXIT_TIMEOUT_MS));
  } catch (error) {
    options.log.warn({ containerId: record.id, err: error }, 'exit code is lost');
    return unknown;
  }
}

async function terminate(id: ContainerId, { launcher, log }: RecoveryOptions): Promise<void> {
  try {
    await launcher.terminate(id, AbortSignal.timeout(TERMINATE_TIMEOUT_MS));
  } catch (error) {
    log.warn({ containerId: id, err: RuntimeError.from(error, 'terminate') }, 'container resists, will be tried again');
  }
}
