/**
 * conmon, the supervisor of one container: it runs the OCI runtime's create, owns the standard streams, writes the log
 * and the exit file, and outlives the daemon. It is started once for each run, in a session of its own and as a direct
 * child (--sync), so that its end is an event. Its exit code says nothing: the sync pipe tells whether create succeeded.
 */
import * as z from 'zod';
import { RuntimeError } from '../../errors.ts';
import { HOST_ENV } from '../../host-command.ts';
import { identify, type ProcessIdentity, signalProcess } from '../../process-identity.ts';
import { REPORT_FD, type StartedProgram, type StartProgram } from '../../start-program.ts';
import type { ContainerId } from '../container.ts';
import { runtimeWords } from './runtime-command.ts';

/** What conmon is told. */
export interface ConmonOptions {
  readonly id: ContainerId;
  readonly conmonPath: string;
  readonly runtimePath: string;
  /** Options of the runtime that stand before its verb. */
  readonly runtimeArgs: readonly string[];
  readonly bundle: string;
  readonly pidFile: string;
  readonly exitDir: string;
  readonly logPath: string;
}

const syncSchema = z.object({ data: z.int(), message: z.string().optional() });

/** A running supervisor that this daemon has started. */
export class Conmon {
  readonly #path: string;
  readonly #started: StartedProgram;

  constructor(start: StartProgram, options: ConmonOptions) {
    this.#path = options.conmonPath;
    this.#started = start({
      file: options.conmonPath,
      args: conmonArguments(options),
      env: { ...HOST_ENV, _OCI_SYNCPIPE: String(REPORT_FD) },
    });
  }

  /** Settles when the process has ended, or when nobody can tell any more. Never rejects. */
  get ended(): Promise<void> {
    return this.#started.ended;
  }

  /** Undefined when it could not be started, or has ended. */
  async identity(): Promise<ProcessIdentity | undefined> {
    const pid = await this.#started.pid;
    return pid === undefined ? undefined : identify(pid);
  }

  /**
   * The pid of the container's init process.
   * @throws {RuntimeError} FAILED_PRECONDITION with the runtime's own words when it refused
   */
  async created(signal: AbortSignal): Promise<number> {
    signal.throwIfAborted();
    const aborted = Promise.withResolvers<never>();
    const onAbort = (): void => aborted.reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return initPidOf(await Promise.race([aborted.promise, this.#report()]));
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Ends conmon; the runtime it is running, if any, dies with it (conmon sets the parent death signal). */
  async kill(): Promise<void> {
    const identity = await this.identity();
    if (identity === undefined) return;
    signalProcess(identity, 'SIGKILL');
    await this.ended;
  }

  /** What the sync pipe says; what conmon says on stderr when it ends without a word there. */
  async #report(): Promise<string> {
    const text = await this.#started.report;
    if (text !== '') return text;
    const message = (await this.#started.complaints) || 'conmon ended without a word';
    return JSON.stringify({ data: -1, message: `${this.#path}: ${message}` });
  }
}

function conmonArguments(options: ConmonOptions): string[] {
  return [
    ...['--api-version', '1', '--cid', options.id, '--cuuid', options.id, '--name', options.id],
    ...['--runtime', options.runtimePath, '--bundle', options.bundle],
    ...['--container-pidfile', options.pidFile, '--exit-dir', options.exitDir],
    ...['--log-path', `k8s-file:${options.logPath}`, '--log-level', 'error'],
    // The attach socket lies in the bundle; the log needs no fsync: it is no record.
    ...['--full-attach', '--no-sync-log', '--sync'],
    ...options.runtimeArgs.map((argument) => `--runtime-arg=${argument}`),
  ];
}

function initPidOf(text: string): number {
  const [line = ''] = text.split('\n', 1);
  const { data, message } = syncSchema.parse(JSON.parse(line));
  if (data > 0) return data;
  throw new RuntimeError('FAILED_PRECONDITION', `runtime create: ${runtimeWords(message ?? '')}`);
}
