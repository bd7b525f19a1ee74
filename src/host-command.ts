/**
 * Runs one program of the host to its end: mount, losetup, an OCI runtime. Never a shell, never the daemon's own
 * environment, never more descriptors than 0 to 2. The group of the process is killed when the signal aborts.
 */
import { execa, type Options } from 'execa';
import { RuntimeError } from './errors.ts';

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
}

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
  const timeoutMs = options.timeoutMs ?? 30_000;
  const settings = {
    env: { ...HOST_ENV, ...options.env },
    extendEnv: false,
    cancelSignal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    forceKillAfterDelay: 2000,
    maxBuffer: 4 * 1024 * 1024,
    reject: false,
    ...(options.input === undefined ? { stdin: 'ignore' } : { input: options.input }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  } as const satisfies Options;
  const result = await execa(file, args, settings);
  if (!result.failed) return result.stdout;
  const what = `${file} ${args.join(' ')}`;
  if (result.isCanceled) {
    const code = signal.aborted ? 'CANCELLED' : 'DEADLINE_EXCEEDED';
    throw new RuntimeError(code, `${what}: stopped after ${Math.round(result.durationMs)} ms`, { cause: result });
  }
  if (result.code === 'ENOENT') throw new RuntimeError('NOT_FOUND', `${file}: not installed`, { cause: result });
  const said = result.stderr.trim() || result.stdout.trim() || result.shortMessage || 'no output';
  throw new RuntimeError('INTERNAL', `${what}: ${said}`, { cause: result });
}
