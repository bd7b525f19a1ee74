/**
 * One verb of the OCI runtime, run to its end. Written on `spawn` itself, since it stands twice in the path of every
 * container and a general process library costs as much time as the runtime's start does.
 */
import { spawn } from 'node:child_process';
import { z } from 'zod';
import { RuntimeError } from '../../errors.ts';
import { HOST_ENV } from '../../host-command.ts';

/** Most bytes of the runtime's words that are kept. */
const MAX_TEXT_BYTES = 64 * 1024;

const logLineSchema = z.object({ msg: z.string() });

/**
 * Runs `runtime` with `args`; it is killed when the signal aborts.
 * @throws {RuntimeError} FAILED_PRECONDITION with the runtime's own words when it fails
 */
export async function runtimeCommand(runtime: string, args: readonly string[], signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const child = spawn(runtime, args, { cwd: '/', env: { ...HOST_ENV }, stdio: ['ignore', 'ignore', 'pipe'] });
  const { promise, resolve, reject } = Promise.withResolvers<number | NodeJS.Signals>();
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    if (text.length < MAX_TEXT_BYTES) text += part;
  });
  child.once('error', (error) => reject(RuntimeError.from(error, `start ${runtime}`)));
  child.once('close', (code, signalName) => resolve(signalName ?? code ?? 0));
  const onAbort = (): void => {
    child.kill('SIGKILL');
  };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const ended = await promise;
    signal.throwIfAborted();
    if (ended === 0) return;
    const words = runtimeWords(text);
    throw new RuntimeError('FAILED_PRECONDITION', `${runtime} ${args.join(' ')} ended with ${ended}: ${words}`);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
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
