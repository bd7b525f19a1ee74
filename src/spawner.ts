/**
 * A small process that starts programs for the daemon. To start a program Node copies the page tables of the process it
 * runs in and stops it meanwhile: two milliseconds and more of a daemon of a hundred megabytes, a dozen times for each
 * container, while every other container waits. Asking a process of a tenth of that size costs a fraction.
 *
 *   daemon --{id, program}--> spawner-process.ts --runProgram--> mount, iptables, crun, ...
 *          <--{id, end}-----
 *
 * When the daemon dies the channel closes and the process ends; programs under way end by themselves, as they would
 * have as the daemon's own children. When the process dies, what it had under way has an unknown outcome ("aborted"),
 * and the next program gets a new process.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import type { Program, ProgramEnd } from './run-program.ts';

/** What the daemon sends. */
export type SpawnerRequest =
  | { readonly kind: 'run'; readonly id: number; readonly program: Program }
  | { readonly kind: 'abort'; readonly id: number };

/** What comes back. */
export interface SpawnerAnswer {
  readonly id: number;
  readonly end: ProgramEnd;
}

const EXTENSION = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
const MAIN = fileURLToPath(new URL(`./spawner-process.${EXTENSION}`, import.meta.url));
/** The heap stays small: its size is what starting a program costs. */
const NODE_FLAGS = ['--max-semi-space-size=1', '--max-old-space-size=64'];

export class Spawner {
  readonly #log: Logger;
  readonly #waiting = new Map<number, (end: ProgramEnd) => void>();
  #process: ChildProcess | undefined;
  #lastId = 0;
  #closed = false;

  constructor(options: { readonly log: Logger }) {
    this.#log = options.log.child({ component: 'spawner' });
  }

  /** Starts the process ahead of the first program. */
  start(): void {
    this.#current();
  }

  /** As {@link runProgram}, in the other process. */
  async run(program: Program, signal: AbortSignal): Promise<ProgramEnd> {
    if (signal.aborted || this.#closed) return { kind: 'aborted' };
    this.#lastId += 1;
    const id = this.#lastId;
    const { promise, resolve } = Promise.withResolvers<ProgramEnd>();
    this.#waiting.set(id, resolve);
    const abort = (): void => this.#send({ kind: 'abort', id });
    signal.addEventListener('abort', abort, { once: true });
    this.#send({ kind: 'run', id, program });
    // A program under way keeps this process from ending, as a child would; an idle spawner does not.
    this.#process?.channel?.ref();
    try {
      return await promise;
    } finally {
      signal.removeEventListener('abort', abort);
      this.#waiting.delete(id);
      if (this.#waiting.size === 0) this.#process?.channel?.unref();
    }
  }

  /** Ends the process. No program may be under way. */
  close(): void {
    this.#closed = true;
    if (this.#process?.connected === true) this.#process.disconnect();
    this.#process = undefined;
  }

  #send(request: SpawnerRequest): void {
    // An error means that the process has gone; its end settles everything that waits.
    this.#current().send(request, () => undefined);
  }

  #current(): ChildProcess {
    if (this.#process !== undefined) return this.#process;
    const child = fork(MAIN, [], {
      execArgv: NODE_FLAGS,
      env: {},
      cwd: '/',
      detached: true,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#process = child;
    child.on('message', (answer: SpawnerAnswer) => this.#waiting.get(answer.id)?.(answer.end));
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
    if (!this.#closed) this.#log.error({ end, underWay: this.#waiting.size }, 'spawner ended, will be started again');
    for (const resolve of this.#waiting.values()) resolve({ kind: 'aborted' });
  }
}
