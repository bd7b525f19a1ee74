/**
 * Runs one program of the host to its end, whoever asked for it: a plugin, an OCI runtime, mount. The program leads a
 * process group of its own, which is killed as a whole when the signal aborts. It gets exactly the environment it is
 * given and no descriptor beyond 2. Its end does not wait for a process that it left behind and that still holds its
 * output.
 *
 * Written on processes themselves: such programs stand half a dozen times in the path of every container.
 */
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Child, type SpawnChild, spawnByNode } from './child.ts';
import { systemCode } from './errors.ts';

/** A program to run. */
export interface Program {
  /** A name that is looked up in the PATH of `env`, or an absolute path. */
  readonly file: string;
  readonly args: readonly string[];
  /** The whole environment. */
  readonly env: Readonly<Record<string, string>>;
  /** "/" unless given. */
  readonly cwd?: string;
  /** Written to stdin, which is empty otherwise. */
  readonly input?: string;
  /** Told the process id once it runs. */
  readonly onStart?: (pid: number) => void;
}

/** How it ended. */
export type ProgramEnd =
  | {
      readonly kind: 'exited';
      /** Null when a signal ended it. */
      readonly exitCode: number | null;
      readonly signalName: NodeJS.Signals | null;
      readonly stdout: string;
      readonly stderr: string;
    }
  /** Killed because the signal aborted; what it did until then is unknown. */
  | { readonly kind: 'aborted' }
  /** Killed because it wrote more than 4 MiB to stdout. */
  | { readonly kind: 'overflow' }
  /** Never ran: "ENOENT", "EACCES", "ETXTBSY", ... */
  | { readonly kind: 'unstartable'; readonly systemCode: string; readonly message: string };

/** Runs a program. Never rejects: every end is a result. */
export type RunProgram = (program: Program, signal: AbortSignal) => Promise<ProgramEnd>;

/** Most bytes of each stream that are kept. */
export const MAX_OUTPUT_BYTES: number = 4 * 1024 * 1024;
/** Once the program has exited, output counts as complete when nothing came for so long, in at most so many rounds. */
const DRAIN_MS = 100;
const DRAIN_ROUNDS = 20;
/** How long a killed program may take to die; longer means that it hangs in the kernel. */
const KILL_MS = 2000;

/** Runs a program as a child of this process. */
export async function runProgram(
  program: Program,
  signal: AbortSignal,
  spawnChild: SpawnChild = spawnByNode,
): Promise<ProgramEnd> {
  if (signal.aborted) return { kind: 'aborted' };
  const child = start(program, spawnChild);
  if ('kind' in child) return child;
  if (child.pid !== undefined) program.onStart?.(child.pid);
  const run = new Run(child, program.input);
  try {
    const end = await run.end(signal);
    if (end.kind === 'aborted' || end.kind === 'overflow') await run.kill();
    return end;
  } finally {
    run.close();
  }
}

function start({ file, args, env, cwd, input }: Program, spawnChild: SpawnChild): Child | ProgramEnd {
  try {
    const stdio = [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'] as const;
    return spawnChild(file, args, { env, cwd: cwd ?? '/', stdio });
  } catch (error) {
    // Some failures of the system call are thrown, others are an event.
    return unstartable(error);
  }
}

function unstartable(error: unknown): ProgramEnd {
  const message = error instanceof Error ? error.message : String(error);
  return { kind: 'unstartable', systemCode: systemCode(error) ?? 'UNKNOWN', message };
}

/** A child process with what it has written so far. */
class Run {
  readonly #child: Child;
  readonly #stdout: Output;
  readonly #stderr: Output;
  readonly #exited: Promise<ProgramEnd>;
  #drain: NodeJS.Timeout | undefined;

  constructor(child: Child, input: string | undefined) {
    this.#child = child;
    this.#stdout = new Output(child.stdout);
    this.#stderr = new Output(child.stderr);
    const { promise, resolve } = Promise.withResolvers<ProgramEnd>();
    this.#exited = promise;
    // Streams report errors of their own; a program that does not read its stdin (EPIPE) is free not to.
    for (const stream of child.stdio) stream?.on('error', () => undefined);
    child.once('error', (error) => resolve(unstartable(error)));
    child.once('close', (exitCode, signalName) => resolve(this.#exit(exitCode, signalName)));
    // 'close' follows at once unless a descendant holds the pipes.
    child.once('exit', (exitCode, signalName) => {
      this.#awaitSilence(DRAIN_ROUNDS, () => resolve(this.#exit(exitCode, signalName)));
    });
    child.stdin?.end(input);
  }

  async end(signal: AbortSignal): Promise<ProgramEnd> {
    const { promise: aborted, resolve } = Promise.withResolvers<ProgramEnd>();
    const onAbort = (): void => resolve({ kind: 'aborted' });
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([this.#exited, aborted, this.#stdout.overflow]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Kills the whole group and waits until its leader is dead. */
  async kill(): Promise<void> {
    const { pid } = this.#child;
    if (pid === undefined) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch (error) {
      if (systemCode(error) !== 'ESRCH') throw error;
    }
    await Promise.race([this.#exited, sleep(KILL_MS, undefined, { ref: false })]);
  }

  /** Lets go of the pipes, whoever else holds them. */
  close(): void {
    clearTimeout(this.#drain);
    for (const stream of this.#child.stdio) stream?.destroy();
  }

  #awaitSilence(rounds: number, done: () => void): void {
    const before = this.#stdout.bytes + this.#stderr.bytes;
    const judge = (): void => {
      if (rounds === 0 || this.#stdout.bytes + this.#stderr.bytes === before) done();
      else this.#awaitSilence(rounds - 1, done);
    };
    // When this process was held up the time is over before anything was read: what is there is read first.
    this.#drain = setTimeout(() => setImmediate(judge), DRAIN_MS);
  }

  #exit(exitCode: number | null, signalName: NodeJS.Signals | null): ProgramEnd {
    return { kind: 'exited', exitCode, signalName, stdout: this.#stdout.text(), stderr: this.#stderr.text() };
  }
}

/** The first bytes of a stream, up to the cap. */
class Output {
  readonly overflow: Promise<ProgramEnd>;
  readonly #overflowed: (end: ProgramEnd) => void;
  readonly #chunks: Buffer[] = [];
  /** All that came, dropped bytes included. */
  bytes = 0;

  constructor(stream: Readable | null) {
    const { promise, resolve } = Promise.withResolvers<ProgramEnd>();
    this.overflow = promise;
    this.#overflowed = resolve;
    stream?.on('data', (chunk: Buffer) => this.#push(chunk));
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString('utf8');
  }

  #push(chunk: Buffer): void {
    this.bytes += chunk.length;
    if (this.bytes <= MAX_OUTPUT_BYTES) this.#chunks.push(chunk);
    else this.#overflowed({ kind: 'overflow' });
  }
}
