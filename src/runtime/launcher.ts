/**
 * Processes of containers: create, start, kill, wait, destroy. A launcher knows what the machine really holds and
 * nothing of networks, volumes or images. Containers outlive the daemon, so everything a launcher needs to find a
 * container again lies in the file system and in the kernel.
 *
 *   create: the process exists, holds its namespaces and mounts, and waits before the first instruction of user code
 *   start:  user code runs
 *   wait:   the process has ended, its code is known
 *   destroy: no process, cgroup or runtime state is left
 */
import { RuntimeError } from '../errors.ts';
import type { ProcessIdentity } from '../process-identity.ts';
import type { ContainerId, Exit } from './container.ts';
import type { Contribution } from './isolator.ts';

/** The first process of a container. */
export type InitProcess = ProcessIdentity;

/** The command of a container cannot be executed: exit code 126 when it is there, 127 when it is not (as in docker). */
export class ExecutableError extends RuntimeError {
  readonly exitCode: 126 | 127;

  constructor(exitCode: 126 | 127, message: string, options?: ErrorOptions) {
    super(exitCode === 127 ? 'NOT_FOUND' : 'FAILED_PRECONDITION', message, options);
    this.exitCode = exitCode;
  }
}

/** Piece of a container's output. */
export interface OutputChunk {
  readonly stream: 'stdout' | 'stderr';
  readonly data: Uint8Array;
  /** Instant at which the supervisor received it. */
  readonly at: string;
}

/** Which part of the output is wanted. */
export interface LogOptions {
  /** Go on until the container has exited and everything it wrote was given out. */
  readonly follow: boolean;
  /** Only the last so many lines; all when absent. */
  readonly tailLines?: number | undefined;
  /** Only chunks received at or after this instant. */
  readonly since?: string | undefined;
}

/** See the module's head for the life of a process. Calls that change one container never overlap. */
export interface Launcher {
  /**
   * What the machine holds, by id: the init process where it is alive, undefined where only remains are left
   * (a supervisor without container, runtime state, a cgroup).
   */
  recover(signal: AbortSignal): Promise<ReadonlyMap<ContainerId, InitProcess | undefined>>;

  /**
   * Creates the process. When it throws or is aborted something may be left: destroy is due.
   * @throws {ExecutableError} when the command cannot be executed
   * @throws {RuntimeError} FAILED_PRECONDITION with the runtime's own words when it refused
   */
  create(id: ContainerId, contribution: Contribution, signal: AbortSignal): Promise<InitProcess>;

  /** @throws {RuntimeError} as create: some runtimes find out only here that the executable is missing */
  start(id: ContainerId, signal: AbortSignal): Promise<void>;

  /**
   * Signals the init process. A process that has ended is no error.
   * @throws {RuntimeError} NOT_FOUND for unknown ids
   */
  kill(id: ContainerId, signalName: NodeJS.Signals, signal: AbortSignal): Promise<void>;

  /** Settles when the init process has ended; settles at once when it had. */
  wait(id: ContainerId, signal: AbortSignal): Promise<Exit>;

  /**
   * Ends every process of the container. When it returns none is left, and what needed them (namespaces, mounts,
   * addresses) can be given back. Idempotent, unknown ids included.
   */
  terminate(id: ContainerId, signal: AbortSignal): Promise<void>;

  /** Removes runtime state, cgroups and supervisor; implies terminate. The log stays. Idempotent, unknown ids included. */
  destroy(id: ContainerId, signal: AbortSignal): Promise<void>;

  /**
   * Output of the current and earlier runs, oldest first. The log is open when the promise resolves: from then on
   * everything the run writes is given out, also when the container is destroyed and removed meanwhile. A container that
   * never ran has no output.
   */
  openLogs(id: ContainerId, options: LogOptions, signal: AbortSignal): Promise<AsyncIterable<OutputChunk>>;

  /** Removes what outlives a run: the log. Idempotent. */
  remove(id: ContainerId): Promise<void>;
}
