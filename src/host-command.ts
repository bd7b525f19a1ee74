/**
 * Runs one program of the host to its end: mount, losetup, mkfs. Never a shell, never the daemon's own environment.
 * What a run came to is a text or an error here (run-program.ts has the run itself).
 */
import { RuntimeError } from './errors.ts';
import { MAX_OUTPUT_BYTES, type RunProgram, runProgram } from './run-program.ts';

/** What helpers get instead of the daemon's environment. */
export const HOST_ENV: Readonly<Record<string, string>> = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C.UTF-8',
};

/** Options of {@link hostCommand}. */
export interface HostCommandOptions {
  /** Written to stdin, which is empty otherwise. */
  readonly input?: string;
  /** Added to {@link HOST_ENV}. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Longest run time; 30,000 unless given. */
  readonly timeoutMs?: number;
  /** Who starts it; this process unless given. */
  readonly run?: RunProgram;
}

const DEFAULT_TIMEOUT_MS = 30_000;

/**
 * Runs `file` with `args` and returns its stdout without the last line feed.
 * @throws {RuntimeError} INTERNAL with the program's stderr when it fails, DEADLINE_EXCEEDED or CANCELLED when it was
 * cut short, NOT_FOUND when it is not installed
 */
export async function hostCommand(
  file: string,
  args: readonly string[],
  signal: AbortSignal,
  options: HostCommandOptions = {},
): Promise<string> {
  const what = `${file} ${args.join(' ')}`;
  const { input, env, cwd, timeoutMs = DEFAULT_TIMEOUT_MS, run = runProgram } = options;
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  const program = {
    file,
    args,
    env: { ...HOST_ENV, ...env },
    ...(cwd === undefined ? {} : { cwd }),
    ...(input === undefined ? {} : { input }),
  };
  const end = await run(program, bounded);
  switch (end.kind) {
    case 'exited':
      if (end.exitCode === 0) return end.stdout.replace(/\r?\n$/, '');
      throw new RuntimeError('INTERNAL', `${what}: ${wordsOf(end)}`);
    case 'unstartable':
      if (end.systemCode === 'ENOENT') throw new RuntimeError('NOT_FOUND', `${file}: not installed`);
      throw new RuntimeError('INTERNAL', `${what}: ${end.message}`);
    case 'overflow':
      throw new RuntimeError('INTERNAL', `${what}: wrote more than ${MAX_OUTPUT_BYTES} bytes`);
    case 'aborted':
      if (signal.aborted) throw RuntimeError.from(signal.reason, `${what}: stopped`, 'CANCELLED');
      if (!bounded.aborted) throw new RuntimeError('UNAVAILABLE', `${what}: lost, its outcome is unknown`);
      throw new RuntimeError('DEADLINE_EXCEEDED', `${what}: stopped after ${timeoutMs} ms`);
  }
}

function wordsOf(end: { readonly [key in 'stdout' | 'stderr' | 'exitCode' | 'signalName']: unknown }): string {
  const said = String(end.stderr).trim() || String(end.stdout).trim();
  return said || `it ended with ${end.signalName ?? end.exitCode}`;
}
