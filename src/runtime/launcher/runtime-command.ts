/** One verb of the OCI runtime, run to its end. */
import * as z from 'zod';
import { RuntimeError } from '../../errors.ts';
import { HOST_ENV } from '../../host-command.ts';
import type { RunProgram } from '../../run-program.ts';

const logLineSchema = z.object({ msg: z.string() });

/**
 * Runs `runtime` with `args`; it is killed when the signal aborts.
 * @throws {RuntimeError} FAILED_PRECONDITION with the runtime's own words when it fails; UNAVAILABLE when nobody can tell
 */
export async function runtimeCommand(
  run: RunProgram,
  runtime: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const what = `${runtime} ${args.join(' ')}`;
  const end = await run({ file: runtime, args, env: { ...HOST_ENV } }, signal);
  signal.throwIfAborted();
  if (end.kind === 'unstartable') throw new RuntimeError('FAILED_PRECONDITION', `${what}: ${end.message}`);
  if (end.kind !== 'exited') throw new RuntimeError('UNAVAILABLE', `${what}: lost, its outcome is unknown`);
  if (end.exitCode === 0) return;
  const how = end.signalName ?? end.exitCode;
  throw new RuntimeError('FAILED_PRECONDITION', `${what} ended with ${how}: ${runtimeWords(end.stderr)}`);
}

/** What a runtime has to say, for people: the messages of its JSON log lines; the text itself where it is no JSON. */
export function runtimeWords(text: string): string {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  return lines.map(wordsOfLine).join('; ') || 'it gave no reason';
}

function wordsOfLine(line: string): string {
  if (!line.startsWith('{')) return line.trim();
  try {
    return logLineSchema.parse(JSON.parse(line)).msg.trim();
  } catch {
    // Not the runtime's log format after all: the raw line is the best there is.
    return line.trim();
  }
}
