/**
 * Keeps one program of the host running: starts it, passes its words on to the log, starts it again when it ends, with
 * growing pauses. It owns the process and nothing the process does.
 *
 *   idle --start--> running --ends--> waiting --pause--> running        close, from anywhere --> closed
 *
 * The process gets exactly the environment it is given, descriptors 0 to 2, and a session of its own, so that a signal
 * for the daemon's terminal does not reach it. Its standard input stays open and silent as long as the daemon lives: a
 * program that ends when its input does never outlives a daemon that was killed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { systemCode } from '../../errors.ts';
import { forwardLines } from './process-log.ts';

export interface ProcessSupervisorOptions {
  /** For the log. */
  readonly name: string;
  readonly file: string;
  readonly args: readonly string[];
  /** The whole environment: nothing is added. */
  readonly env: Readonly<Record<string, string>>;
  readonly log: Logger;
  readonly cwd?: string;
  /** Pause before the first restart; doubles with each quick end. 100 unless given. */
  readonly firstPauseMs?: number;
  /** Longest pause; 30,000 unless given. */
  readonly longestPauseMs?: number;
  /** A run of this length makes the next pause the first one again; 10,000 unless given. */
  readonly stableMs?: number;
  /** Time from SIGTERM to SIGKILL; 10,000 unless given. */
  readonly graceMs?: number;
}

/** How a run ended: `exitCode` or `signalName` when it ran, `error` when it could not be started. */
export interface ProcessEnd {
  readonly exitCode: number | null;
  readonly signalName: NodeJS.Signals | null;
  readonly error?: Error;
  readonly durationMs: number;
}

export class ProcessSupervisor {
  readonly #options: ProcessSupervisorOptions;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  #child: ChildProcess | undefined;
  #work: Promise<void> | undefined;
  #lastEnd: ProcessEnd | undefined;
  #starts = 0;

  constructor(options: ProcessSupervisorOptions) {
    this.#options = options;
    this.#log = options.log.child({ component: 'supervisor', process: options.name });
  }

  /** Pid of the running process; undefined between two runs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** How often the process was started. */
  get starts(): number {
    return this.#starts;
  }

  /** How the last run ended that did. */
  get lastEnd(): ProcessEnd | undefined {
    return this.#lastEnd;
  }

  /** Starts the process and keeps it running until {@link close}. Does nothing the second time. */
  start(): void {
    if (!this.#stop.signal.aborted) this.#work ??= this.#keepRunning();
  }

  /**
   * Ends the process: SIGTERM, and SIGKILL to all of its session once the grace period is over or the signal aborts.
   * Settles when the process is gone.
   */
  async close(signal: AbortSignal): Promise<void> {
    this.#stop.abort();
    const kill = AbortSignal.any([signal, AbortSignal.timeout(this.#options.graceMs ?? 10_000)]);
    const onKill = (): void => this.#signalGroup('SIGKILL');
    this.#child?.kill('SIGTERM');
    if (kill.aborted) onKill();
    kill.addEventListener('abort', onKill, { once: true });
    try {
      await this.#work;
    } finally {
      kill.removeEventListener('abort', onKill);
    }
  }

  async #keepRunning(): Promise<void> {
    const { firstPauseMs = 100, longestPauseMs = 30_000, stableMs = 10_000 } = this.#options;
    const { signal } = this.#stop;
    let pauseMs = firstPauseMs;
    while (!signal.aborted) {
      const end = await this.#runOnce();
      this.#lastEnd = end;
      if (signal.aborted) {
        this.#log.info(end, 'process ended');
        return;
      }
      if (end.durationMs >= stableMs) pauseMs = firstPauseMs;
      this.#log.error({ ...end, err: end.error, pauseMs }, 'process ended by itself, it is started again');
      await pause(pauseMs, signal);
      pauseMs = Math.min(longestPauseMs, pauseMs * 2);
    }
  }

  /** One run from start to end, its output read to the end. */
  #runOnce(): Promise<ProcessEnd> {
    const { file, args, env, cwd } = this.#options;
    const startedMs = performance.now();
    const durationMs = (): number => Math.round(performance.now() - startedMs);
    const child = spawn(file, args, {
      env,
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(cwd === undefined ? {} : { cwd }),
    });
    this.#child = child;
    this.#starts += 1;
    // Written to by nobody; a process that closes its end is free to do so.
    child.stdin.on('error', () => undefined);
    this.#forward(child.stdout);
    this.#forward(child.stderr);
    if (child.pid !== undefined) this.#log.info({ pid: child.pid, starts: this.#starts }, 'process started');
    return new Promise((resolve) => {
      child.once('error', (error) => {
        // A failure to signal is reported here too, but then the process is still there and its end is awaited.
        if (child.pid === undefined)
          this.#ended(resolve, { exitCode: null, signalName: null, error, durationMs: durationMs() });
      });
      // Not 'close': a descendant that keeps the output open must not hold up the restart.
      child.once('exit', (exitCode, signalName) => {
        this.#ended(resolve, { exitCode, signalName, durationMs: durationMs() });
      });
    });
  }

  #ended(resolve: (end: ProcessEnd) => void, end: ProcessEnd): void {
    this.#child?.stdin?.destroy();
    this.#child = undefined;
    resolve(end);
  }

  #forward(output: Readable): void {
    output.on('error', (error) => this.#log.debug({ err: error }, 'output of the process ended early'));
    forwardLines(output, this.#log);
  }

  /** All of the process's session; descendants that made a session of their own are not ours. */
  #signalGroup(signalName: NodeJS.Signals): void {
    const pid = this.#child?.pid;
    if (pid === undefined) return;
    try {
      process.kill(-pid, signalName);
    } catch (error) {
      if (systemCode(error) !== 'ESRCH') this.#log.error({ err: error, pid, signalName }, 'process was not signalled');
    }
  }
}

/** Waits, shorter when the signal aborts. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch((error: unknown) => {
    if (!signal.aborted) throw error;
  });
}
