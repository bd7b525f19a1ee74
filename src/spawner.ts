/**
 * A small process that starts programs for the daemon. To start a program Node copies the page tables of the process it
 * runs in and stops it meanwhile: two milliseconds and more of a daemon of a hundred megabytes, a dozen times for each
 * container, while every other container waits. Asking a process of a tenth of that size costs a fraction.
 *
 *   daemon --{run, id, program}----> spawner-process.ts --runProgram----> mount, iptables, crun, ...
 *          <--{pid}, {end, id, end}--
 *          --{start, id, program}-->                    --startProgram--> conmon
 *          <--{pid, report, complaints, ended}
 *
 * When the daemon dies the channel closes and the process ends; programs under way end by themselves, as they would
 * have as the daemon's own children. When the process dies, what it had under way has an unknown outcome ("aborted"),
 * and the next program gets a new process.
 */
import { type ChildProcess, fork } from 'node:child_process';
import type { Logger } from 'pino';
import { COMPILE_CACHE_DIR } from './compile-cache.ts';
import { programFile } from './package-dir.ts';
import type { Program, ProgramEnd } from './run-program.ts';
import type { StartedProgram } from './start-program.ts';

/** What the daemon sends. */
export type SpawnerRequest =
  | { readonly kind: 'run'; readonly id: number; readonly program: Program; readonly tellPid: boolean }
  | { readonly kind: 'start'; readonly id: number; readonly program: Omit<Program, 'input'> }
  | { readonly kind: 'abort'; readonly id: number };

/** What comes back: one `end` for a run, with its `pid` before it where that is asked for; for a start each of the others, once. */
export type SpawnerAnswer =
  | { readonly kind: 'end'; readonly id: number; readonly end: ProgramEnd }
  | { readonly kind: 'pid'; readonly id: number; readonly pid?: number | undefined }
  | { readonly kind: 'report' | 'complaints'; readonly id: number; readonly text: string }
  | { readonly kind: 'ended'; readonly id: number };

type Listener = (answer: SpawnerAnswer) => void;

const MAIN = programFile('spawner-process');
/** The heap stays small: its size is what starting a program costs. */
const NODE_FLAGS = ['--max-semi-space-size=1', '--max-old-space-size=64', '--disable-warning=ExperimentalWarning'];

export class Spawner {
  readonly #log: Logger;
  readonly #listeners = new Map<number, Listener>();
  /** Requests that are waited for: they keep this process from ending, as children would. */
  #urgent = 0;
  #process: ChildProcess | undefined;
  #lastId = 0;
  #closed = false;

  constructor(options: { readonly log: Logger }) {
    this.#log = options.log.child({ component: 'spawner' });
  }

  /** Starts the process ahead of the first program. */
  open(): void {
    this.#current();
  }

  /** As {@link runProgram}, in the other process. */
  async run({ onStart, ...program }: Program, signal: AbortSignal): Promise<ProgramEnd> {
    if (signal.aborted || this.#closed) return { kind: 'aborted' };
    const { promise, resolve } = Promise.withResolvers<ProgramEnd>();
    const id = this.#listen((answer) => {
      if (answer.kind === 'end') resolve(answer.end);
      else if (answer.kind === 'pid' && answer.pid !== undefined) onStart?.(answer.pid);
    });
    const abort = (): void => this.#send({ kind: 'abort', id });
    signal.addEventListener('abort', abort, { once: true });
    this.#send({ kind: 'run', id, program, tellPid: onStart !== undefined });
    try {
      return await this.#wait(promise);
    } finally {
      signal.removeEventListener('abort', abort);
      this.#listeners.delete(id);
    }
  }

  /** As {@link startProgram}, in the other process. */
  start(program: Omit<Program, 'input'>): StartedProgram {
    const pid = Promise.withResolvers<number | undefined>();
    const report = Promise.withResolvers<string>();
    const complaints = Promise.withResolvers<string>();
    const ended = Promise.withResolvers<void>();
    const id = this.#listen((answer) => {
      if (answer.kind === 'pid') pid.resolve(answer.pid);
      else if (answer.kind === 'report') report.resolve(answer.text);
      else if (answer.kind === 'complaints') complaints.resolve(answer.text);
      else {
        // The last word; also what is left to say when the spawner has died.
        this.#listeners.delete(id);
        pid.resolve(undefined);
        report.resolve('');
        complaints.resolve('the process that started it died');
        ended.resolve();
      }
    });
    this.#send({ kind: 'start', id, program });
    if (this.#closed) this.#giveUp();
    void this.#wait(report.promise);
    return { pid: pid.promise, report: report.promise, complaints: complaints.promise, ended: ended.promise };
  }

  /** Ends the process. What is under way goes on by itself, and nobody learns what becomes of it. */
  close(): void {
    this.#closed = true;
    if (this.#process?.connected === true) this.#process.disconnect();
    this.#process = undefined;
    this.#giveUp();
  }

  #listen(listener: Listener): number {
    this.#lastId += 1;
    this.#listeners.set(this.#lastId, listener);
    return this.#lastId;
  }

  async #wait<T>(answer: Promise<T>): Promise<T> {
    this.#urgent += 1;
    this.#process?.channel?.ref();
    try {
      return await answer;
    } finally {
      this.#urgent -= 1;
      if (this.#urgent === 0) this.#process?.channel?.unref();
    }
  }

  #send(request: SpawnerRequest): void {
    if (this.#closed) return;
    // An error means that the process has gone; its end settles everything that waits.
    this.#current().send(request, () => undefined);
  }

  #current(): ChildProcess {
    if (this.#process !== undefined) return this.#process;
    const child = fork(MAIN, [], {
      execArgv: NODE_FLAGS,
      env: { NODE_COMPILE_CACHE: COMPILE_CACHE_DIR },
      cwd: '/',
      detached: true,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#process = child;
    child.on('message', (answer: SpawnerAnswer) => this.#listeners.get(answer.id)?.(answer));
    child.once('error', (error) => this.#lost(child, error));
    child.once('exit', (exitCode, signalName) => this.#lost(child, { exitCode, signalName }));
    child.unref();
    child.channel?.unref();
    this.#log.debug({ pid: child.pid }, 'spawner started');
    return child;
  }

  #lost(child: ChildProcess, end: unknown): void {
    if (this.#process !== child) return;
    this.#process = undefined;
    if (!this.#closed) this.#log.error({ end, underWay: this.#urgent }, 'spawner ended, will be started again');
    this.#giveUp();
  }

  /** Tells all who wait that the outcome is unknown. */
  #giveUp(): void {
    for (const [id, listener] of [...this.#listeners]) {
      listener({ kind: 'end', id, end: { kind: 'aborted' } });
    }
  }
}
