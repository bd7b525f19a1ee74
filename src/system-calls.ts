/**
 * Mounts, unmounts and network namespaces as system calls. Node has none of them, and a program for each costs five to
 * fifteen milliseconds of processor time, several times for every container. Two threads call the C library instead
 * (node:ffi): one does what is over in a moment, the other ordinary unmounts, which may wait for a disk.
 *
 *   perform(call) -> queue of its thread -> system-calls-thread.ts: mount(2), umount2(2), unshare(2) ... -> its end
 *
 * A Node without node:ffi, or a C library of another name, cannot do it: `perform` then says so, and a program is due.
 * A call under way cannot be stopped: who gives up waiting does not know its outcome. One that waits for its turn is
 * never made then.
 */
import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import { RuntimeError } from './errors.ts';
import { programFile } from './package-dir.ts';

/** What can be asked for. */
export type SystemCall =
  /** A new network namespace, bound to the file `path`, loopback raised. `settings` are written below /proc/sys/net. */
  | {
      readonly kind: 'networkNamespace';
      readonly path: string;
      readonly settings: readonly (readonly [name: string, value: string])[];
    }
  /** mount(2) of an overlay without device nodes; `data` are its options. */
  | { readonly kind: 'mountOverlay'; readonly target: string; readonly data: string }
  /** umount2(2). `lazy`: out of sight now, gone with its last user. */
  | { readonly kind: 'unmount'; readonly path: string; readonly lazy: boolean };

/** What the thread is sent. */
export interface SystemCallRequest {
  readonly id: number;
  readonly call: SystemCall;
}

/** What comes back: how it failed, if it did. `unavailable`: nothing can be called from there. */
export interface SystemCallAnswer {
  readonly id: number;
  readonly failure?: { readonly step: string; readonly systemCode: string };
  readonly unavailable?: string;
}

/** Does a call. False when this Node cannot: a program is due. @throws {RuntimeError} why it failed */
export type PerformSystemCall = (call: SystemCall, signal: AbortSignal) => Promise<boolean>;

/** Longest time anybody waits for a call. */
const TIMEOUT_MS = 30_000;
const MAIN = programFile('system-calls-thread');
const THREAD_LIMITS = { maxYoungGenerationSizeMb: 1, maxOldGenerationSizeMb: 16 };

/** See the module's head. */
export class SystemCalls {
  readonly #quick: CallThread;
  readonly #slow: CallThread;

  constructor(options: { readonly log: Logger }) {
    const log = options.log.child({ component: 'system-calls' });
    this.#quick = new CallThread(log);
    this.#slow = new CallThread(log);
  }

  /** Starts the threads ahead of the first call. */
  open(): void {
    this.#quick.open();
    this.#slow.open();
  }

  /** See {@link PerformSystemCall}. */
  perform(call: SystemCall, signal: AbortSignal): Promise<boolean> {
    const thread = call.kind === 'unmount' && !call.lazy ? this.#slow : this.#quick;
    return thread.perform(call, AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]));
  }

  /** Ends the threads; a call under way is finished by the kernel. */
  async close(): Promise<void> {
    await Promise.all([this.#quick.close(), this.#slow.close()]);
  }
}

interface Job {
  readonly request: SystemCallRequest;
  readonly done: PromiseWithResolvers<boolean>;
}

/** One thread with the calls that wait for it, one at a time and in order. */
class CallThread {
  readonly #log: Logger;
  readonly #waiting: Job[] = [];
  #worker: Worker | undefined;
  #current: Job | undefined;
  #lastId = 0;
  #unavailable = false;
  #closed = false;

  constructor(log: Logger) {
    this.#log = log;
  }

  open(): void {
    if (!this.#unavailable && !this.#closed) this.#worker ??= this.#start();
  }

  async perform(call: SystemCall, signal: AbortSignal): Promise<boolean> {
    const what = describe(call);
    if (signal.aborted) throw RuntimeError.from(signal.reason, `${what}: not begun`, 'CANCELLED');
    if (this.#unavailable || this.#closed) return false;
    this.#lastId += 1;
    const job: Job = { request: { id: this.#lastId, call }, done: Promise.withResolvers<boolean>() };
    const giveUp = (): void => {
      const place = this.#waiting.indexOf(job);
      if (place >= 0) this.#waiting.splice(place, 1);
      const state = place >= 0 ? 'not begun' : 'given up, its outcome is unknown';
      job.done.reject(RuntimeError.from(signal.reason, `${what}: ${state}`, 'CANCELLED'));
    };
    signal.addEventListener('abort', giveUp, { once: true });
    this.#waiting.push(job);
    this.#next();
    try {
      return await job.done.promise;
    } finally {
      signal.removeEventListener('abort', giveUp);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#worker?.terminate();
  }

  #next(): void {
    if (this.#current !== undefined) return;
    const job = this.#waiting.shift();
    if (job === undefined) {
      // Nobody waits: the thread alone keeps no process running.
      this.#worker?.unref();
      return;
    }
    if (this.#unavailable || this.#closed) {
      job.done.resolve(false);
      this.#next();
      return;
    }
    this.#current = job;
    this.#worker ??= this.#start();
    this.#worker.ref();
    this.#worker.postMessage(job.request);
  }

  #start(): Worker {
    const worker = new Worker(MAIN, {
      // It is experimental in the Node that Berth brings with it; the warning is no line of the daemon's log.
      execArgv: ['--disable-warning=ExperimentalWarning'],
      env: {},
      name: 'system-calls',
      resourceLimits: THREAD_LIMITS,
    });
    worker.unref();
    worker.on('message', (answer: SystemCallAnswer) => this.#answered(answer));
    worker.on('error', (error) => this.#log.error({ err: error }, 'system call thread failed'));
    worker.on('exit', () => this.#lost());
    return worker;
  }

  #answered({ id, failure, unavailable }: SystemCallAnswer): void {
    const job = this.#current;
    if (job === undefined || job.request.id !== id) return;
    this.#current = undefined;
    if (unavailable !== undefined) {
      this.#unavailable = true;
      this.#log.info({ reason: unavailable }, 'no system calls from here: programs are used');
      job.done.resolve(false);
    } else if (failure === undefined) {
      job.done.resolve(true);
    } else {
      const { step, systemCode } = failure;
      const error = Object.assign(new Error(`${step}: ${systemCode}`), { code: systemCode });
      job.done.reject(RuntimeError.from(error, describe(job.request.call)));
    }
    this.#next();
  }

  #lost(): void {
    this.#worker = undefined;
    const job = this.#current;
    this.#current = undefined;
    job?.done.reject(new RuntimeError('UNAVAILABLE', `${describe(job.request.call)}: lost, its outcome is unknown`));
    this.#next();
  }
}

function describe(call: SystemCall): string {
  switch (call.kind) {
    case 'networkNamespace':
      return `make network namespace ${call.path}`;
    case 'mountOverlay':
      return `mount overlay on ${call.target}`;
    case 'unmount':
      return `unmount ${call.path}`;
  }
}
