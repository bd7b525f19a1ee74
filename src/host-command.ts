/**
 * Runs one program of the host to its end: mount, losetup, mkfs. Never a shell, never the daemon's own environment, never
 * more descriptors than 0 to 2. The program leads a process group of its own, and the whole group is killed when the
 * signal aborts or the time is over.
 *
 * Written on `spawn` itself: such programs stand several times in the path of every container, and a general process
 * library costs a third of the time that the program takes.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { RuntimeError, systemCode } from './errors.ts';

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

const DEFAULT_TIMEOUT_MS = 30_000;
const MAX_OUTPUT_BYTES = 4 * 1024 * 1024;
/** How long a killed program may take to die; longer means that it hangs in the kernel. */
const KILL_MS = 2000;

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
  if (signal.aborted) throw RuntimeError.from(signal.reason, what);
  const child = spawn(file, args, {
    env: { ...HOST_ENV, ...options.env },
    cwd: options.cwd ?? '/',
    detached: true,
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  });
  const stdout = collect(child.stdout);
  const stderr = collect(child.stderr);
  // A program that does not read its input (EPIPE) is free not to.
  child.stdin?.on('error', () => undefined).end(options.input);
  const end = await ended(child, signal, options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
  if (end === 0) return stdout().replace(/\r?\n$/, '');
  if (end instanceof Error) {
    if (systemCode(end) === 'ENOENT') throw new RuntimeError('NOT_FOUND', `${file}: not installed`, { cause: end });
    throw RuntimeError.from(end, what);
  }
  const said = stderr().trim() || stdout().trim() || `it ended with ${end}`;
  throw new RuntimeError('INTERNAL', `${what}: ${said}`);
}

/** Exit code, name of the signal that ended it, or why it was not run to its end. */
async function ended(
  child: ChildProcess,
  signal: AbortSignal,
  timeoutMs: number,
): Promise<number | NodeJS.Signals | Error> {
  const { promise, resolve } = Promise.withResolvers<number | NodeJS.Signals | Error>();
  child.once('error', resolve);
  child.once('close', (code, signalName) => resolve(signalName ?? code ?? 0));
  const stop = (reason: Error): void => {
    killGroup(child);
    // The program's own end comes first where it comes at all.
    const giveUp = setTimeout(() => resolve(reason), KILL_MS);
    child.once('exit', () => {
      clearTimeout(giveUp);
      resolve(reason);
    });
  };
  const onAbort = (): void => stop(RuntimeError.from(signal.reason, 'stopped', 'CANCELLED'));
  signal.addEventListener('abort', onAbort, { once: true });
  const timer = setTimeout(
    () => stop(new RuntimeError('DEADLINE_EXCEEDED', `${child.spawnfile}: stopped after ${timeoutMs} ms`)),
    timeoutMs,
  );
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    for (const stream of child.stdio) stream?.destroy();
  }
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch (error) {
    if (systemCode(error) !== 'ESRCH') throw error;
  }
}

/** The text of a stream so far, cut at a bound. */
function collect(stream: Readable | null): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream?.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= MAX_OUTPUT_BYTES) chunks.push(chunk);
  });
  return () => Buffer.concat(chunks).toString('utf8');
}
