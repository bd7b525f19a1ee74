/**
 * From a recorded intent to running user code:
 *
 *   prepare of all isolators, side by side -> contributions merged in list order
 *     -> launcher.create beside isolate of all isolators -> output opened, if wanted -> launcher.start
 *
 * Every step but the last can be undone without anyone noticing. It undoes nothing itself: the caller tears down.
 */
import type { Logger } from 'pino';
import { concurrently } from './concurrently.ts';
import type { ContainerRecord } from './container.ts';
import type { ContainerTable } from './container-table.ts';
import { mergeContributions } from './contribution.ts';
import type { Isolator } from './isolator.ts';
import type { Launcher, OutputChunk } from './launcher.ts';

/** How a container is started. */
export interface LaunchOptions {
  /** Open the output before user code runs. */
  readonly attach?: boolean;
  /** Ends the output when it aborts; the container goes on. */
  readonly outputSignal?: AbortSignal;
}

/** A container that was started. */
export interface Launched {
  readonly record: ContainerRecord;
  /** Everything the run writes; present when asked for. */
  readonly output?: AsyncIterable<OutputChunk>;
}

export interface LaunchParts {
  readonly launcher: Launcher;
  readonly isolators: readonly Isolator[];
  readonly table: ContainerTable;
  readonly log: Logger;
}

/**
 * Launches a container whose run is on record. With `outputSignal` its output is open before user code runs, and ends
 * when that signal aborts; `signal` ends the launch.
 */
export async function launchSequence(
  { launcher, isolators, table, log }: LaunchParts,
  record: ContainerRecord,
  outputSignal: AbortSignal | undefined,
  signal: AbortSignal,
): Promise<AsyncIterable<OutputChunk> | undefined> {
  const { id } = record;
  const reached = (step: string): void => log.debug({ containerId: id, step }, 'launch step');
  const contributions = await concurrently(
    isolators.map((isolator) => async (joint) => (await isolator.prepare?.(record, joint)) ?? {}),
    signal,
  );
  reached('prepared');
  const contribution = mergeContributions(contributions);
  const create = async (joint: AbortSignal): Promise<void> => {
    const init = await launcher.create(id, contribution, joint);
    table.amendRun(id, { init });
    reached('process created');
  };
  await concurrently<void>(
    [create, ...isolators.map((isolator) => async (joint: AbortSignal) => isolator.isolate?.(record, joint))],
    signal,
  );
  reached('isolated');
  const output = outputSignal === undefined ? undefined : await openOutput(launcher, record, outputSignal);
  await launcher.start(id, signal);
  reached('process started');
  return output;
}

/** What this run writes; what earlier runs wrote stands before it in the same log. */
function openOutput(
  launcher: Launcher,
  { id, run }: ContainerRecord,
  signal: AbortSignal,
): Promise<AsyncIterable<OutputChunk>> {
  return launcher.openLogs(id, { follow: true, since: run?.launchedAt }, signal);
}
