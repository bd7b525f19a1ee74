/**
 * Runs one plugin executable to its end (CNI 1.1.0 §2). The one seam between Berth and plugins: tests put a function in
 * its place. A plugin gets a clean environment in which it finds iptables and the like, and one JSON object on stdin.
 * When it is killed, what it did until then is unknown, so a DEL is due.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError } from '../errors.ts';
import { HOST_ENV } from '../host-command.ts';
import { MAX_OUTPUT_BYTES, type ProgramEnd, type RunProgram, runProgram } from '../run-program.ts';
import { type CniCommand, CniError, failureIn, printable } from './protocol.ts';

/** One run of one plugin. */
export interface PluginCall {
  /** The plugin's `type`, for messages. */
  readonly plugin: string;
  /** Absolute path of the executable. */
  readonly path: string;
  readonly command: CniCommand;
  /** CNI_* variables. */
  readonly env: Readonly<Record<string, string>>;
  /** Written to stdin as JSON. */
  readonly request: unknown;
  /** Told the process id once the plugin runs. */
  readonly onStart?: (pid: number) => void;
}

/**
 * Runs a plugin. Resolves with the decoded answer to ADD and VERSION, with undefined for the others.
 * @throws {CniError} when the plugin says that it failed
 * @throws {RuntimeError} CANCELLED or DEADLINE_EXCEEDED when it was killed, UNAVAILABLE while the file is being
 * written, INTERNAL when its answer makes no sense
 */
export type ExecPlugin = (call: PluginCall, signal: AbortSignal) => Promise<unknown>;

/** Waits between attempts while the executable is being written (ETXTBSY): four seconds in all. */
const BUSY_DELAYS_MS = [10, 20, 50, 100, 200, 500, 1000, 2000] as const;

/** An {@link ExecPlugin} that has its executables started by `run`. */
export function pluginExecutor(run: RunProgram): ExecPlugin {
  return async (call, signal) => {
    const program = {
      file: call.path,
      args: [],
      env: { ...HOST_ENV, ...call.env },
      input: JSON.stringify(call.request),
      ...(call.onStart === undefined ? {} : { onStart: call.onStart }),
    };
    for (const delayMs of [...BUSY_DELAYS_MS, undefined]) {
      if (signal.aborted) abandon(call, signal.reason);
      const end = await run(program, signal);
      if (end.kind !== 'unstartable' || end.systemCode !== 'ETXTBSY')
        return answerOf(call, outcomeOf(call, end, signal));
      if (delayMs !== undefined) await sleep(delayMs, undefined, { signal }).catch((error) => abandon(call, error));
    }
    throw new RuntimeError('UNAVAILABLE', `CNI plugin ${call.path} cannot be run: the file is being written`);
  };
}

/** See {@link ExecPlugin}. */
export const execPlugin: ExecPlugin = pluginExecutor(runProgram);

type Outcome = Extract<ProgramEnd, { readonly kind: 'exited' }>;

function outcomeOf(call: PluginCall, end: ProgramEnd, signal: AbortSignal): Outcome {
  switch (end.kind) {
    case 'exited':
      return end;
    case 'unstartable':
      throw new RuntimeError('INTERNAL', `CNI plugin ${call.path} cannot be run: ${end.message}`);
    case 'overflow':
      throw new RuntimeError('INTERNAL', tooMuch(call));
    case 'aborted':
      if (signal.aborted) abandon(call, signal.reason);
      throw new RuntimeError('UNAVAILABLE', `CNI plugin ${call.plugin} was lost during ${call.command}`);
  }
}

/** What the plugin said, or its failure thrown. */
function answerOf(call: PluginCall, outcome: Outcome): unknown {
  const failed = outcome.exitCode !== 0;
  const wanted = call.command === 'ADD' || call.command === 'VERSION';
  if (!failed && !wanted) return undefined;
  const value = jsonIn(outcome.stdout);
  if (failed) throw failureOf(call, outcome, value);
  if (value === undefined) {
    const said = outcome.stdout.trim() === '' ? 'nothing' : JSON.stringify(printable(outcome.stdout));
    throw new RuntimeError('INTERNAL', `CNI plugin ${call.plugin} answered ${call.command} with no JSON: ${said}`);
  }
  return value;
}

/** Failed without a code of the protocol. */
const NO_CODE = 0;

function failureOf(call: PluginCall, outcome: Outcome, value: unknown): CniError {
  const failure = failureIn(value);
  if (failure !== undefined) return new CniError({ plugin: call.plugin, command: call.command, failure });
  const end = outcome.signalName === null ? `exit code ${outcome.exitCode}` : `ended by ${outcome.signalName}`;
  const details = outcome.stdout.trim() || outcome.stderr.trim();
  return new CniError({ plugin: call.plugin, command: call.command, failure: { code: NO_CODE, msg: end, details } });
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The caller says what is wrong with the text.
    return undefined;
  }
}

function tooMuch(call: PluginCall): string {
  return `CNI plugin ${call.plugin} wrote more than ${MAX_OUTPUT_BYTES} bytes during ${call.command}: killed`;
}

function abandon(call: PluginCall, reason: unknown): never {
  throw RuntimeError.from(reason, `CNI plugin ${call.plugin} was stopped during ${call.command}`);
}
