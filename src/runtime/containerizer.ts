/**
 * The life of every container: an ordered list of isolators around a launcher, with durable state and recovery.
 *
 *   launch:  intent recorded -> prepare of all isolators at once -> launcher.create beside isolate of all isolators
 *            -> launcher.start once every one succeeded -> startedAt recorded -> watched until it exits
 *   any end: src/runtime/teardown.ts
 *
 * It knows nothing of networks, volumes, images or the OCI spec. One lane per container; kill alone goes past it.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { Serial } from '../serial.ts';
import type { Store } from '../store.ts';
import {
  type ContainerId,
  type ContainerRecord,
  type ContainerSpec,
  type ContainerState,
  type Exit,
  stateOf,
} from './container.ts';
import { freshName } from './container-name.ts';
import { ContainerTable } from './container-table.ts';
import { ExitBoard } from './exit-board.ts';
import type { Isolator, IsolatorStatus, Usage } from './isolator.ts';
import { type Launched, type LaunchOptions, launchSequence } from './launch-sequence.ts';
import { ExecutableError, type Launcher, type LogOptions, type OutputChunk } from './launcher.ts';
import { recoverContainers } from './recovery.ts';
import { RunWatch } from './run-watch.ts';
import { validateSpec } from './spec-validation.ts';
import { incomplete, Teardown } from './teardown.ts';
import { UnderWay } from './under-way.ts';

export interface ContainerizerOptions {
  readonly launcher: Launcher;
  /** In list order; cleaned up in reverse. */
  readonly isolators: readonly Isolator[];
  readonly store: Store<ContainerRecord>;
  /** This boot's id (src/process-identity.ts). */
  readonly bootId: string;
  readonly log: Logger;
}

/** A container as people see it. */
export interface ContainerView {
  readonly record: ContainerRecord;
  readonly state: ContainerState;
  readonly status: IsolatorStatus;
}

export class Containerizer {
  readonly #launcher: Launcher;
  readonly #isolators: readonly Isolator[];
  readonly #table: ContainerTable;
  readonly #teardown: Teardown;
  readonly #watch: RunWatch;
  readonly #bootId: string;
  readonly #log: Logger;
  readonly #lanes = new Serial();
  readonly #board = new ExitBoard();
  readonly #underWay = new UnderWay();
  readonly #closing = new AbortController();

  constructor(options: ContainerizerOptions) {
    this.#launcher = options.launcher;
    this.#isolators = options.isolators;
    this.#table = new ContainerTable(options.store);
    this.#bootId = options.bootId;
    this.#log = options.log.child({ component: 'containerizer' });
    const { launcher, isolators } = options;
    const shared = { lanes: this.#lanes, board: this.#board, log: this.#log };
    this.#teardown = new Teardown({ launcher, isolators, table: this.#table, ...shared });
    this.#watch = new RunWatch({
      launcher,
      isolators,
      exited: (id, exit) => this.#lanes.run(id, () => this.#finish(id, exit)),
      signal: this.#closing.signal,
      log: this.#log,
    });
  }

  /**
   * Finds every container again: running ones are watched, finished ones get their exit code, half-made ones and
   * everything without a record is torn down. Due once, before any other call.
   */
  async recover(signal: AbortSignal): Promise<void> {
    const running = await recoverContainers(
      {
        launcher: this.#launcher,
        isolators: this.#isolators,
        table: this.#table,
        teardown: this.#teardown,
        board: this.#board,
        bootId: this.#bootId,
        log: this.#log,
      },
      signal,
    );
    for (const id of running) this.#watch.follow(id);
  }

  /**
   * Records a container. `provisional`: it exists only if its launch succeeds. An empty name gets a fresh one.
   * @throws {RuntimeError} INVALID_ARGUMENT or NOT_FOUND naming the field, ALREADY_EXISTS when the name is taken
   */
  create(spec: ContainerSpec, options: { readonly provisional: boolean }): ContainerRecord {
    const name = spec.name === '' ? freshName((taken) => this.#table.hasName(taken)) : spec.name;
    const valid = validateSpec({ ...spec, name });
    this.#validate({ id: '', spec: valid, createdAt: now(), provisional: true, cleanupFailures: [] });
    const record = this.#table.create(valid, options.provisional);
    this.#log.info({ containerId: record.id, name, to: 'created' }, 'container state changed');
    return record;
  }

  /**
   * Starts a container that is created or exited. With `attach` its output is open before user code runs.
   * @throws {ExecutableError} when the command cannot be executed
   * @throws {RuntimeError} FAILED_PRECONDITION when it runs; otherwise what made the launch fail, with all undone
   */
  async launch(ref: string, signal: AbortSignal, options: LaunchOptions = {}): Promise<Launched> {
    const { id } = this.#table.resolve(ref);
    return this.#underWay.run(
      id,
      (joint) => this.#lanes.run(id, () => this.#launch(id, options, joint), joint),
      signal,
    );
  }

  /**
   * Ends a container: `signalName` first, SIGKILL after `timeoutMs`. Returns when no process is left and what it held
   * was given back; a container that does not run is no error.
   */
  async stop(
    ref: string,
    options: { readonly signalName?: NodeJS.Signals; readonly timeoutMs: number },
    signal: AbortSignal,
  ): Promise<void> {
    const { id } = this.#table.resolve(ref);
    const work = async (joint: AbortSignal): Promise<void> => {
      if (stateOf(this.#table.get(id)) !== 'running') return;
      const exit = await this.#end(id, options.signalName ?? 'SIGTERM', options.timeoutMs, joint);
      await this.#finish(id, exit);
    };
    await this.#underWay.run(id, (joint) => this.#lanes.run(id, () => work(joint), joint), signal);
  }

  /**
   * Does something to a running container while nothing else is done to it. A forced removal cuts it short.
   * @throws {RuntimeError} FAILED_PRECONDITION when it does not run
   */
  async inLane<T>(
    ref: string,
    work: (container: ContainerRecord, joint: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const { id } = this.#table.resolve(ref);
    const turn = (joint: AbortSignal) => (): Promise<T> => work(this.#running(id), joint);
    return this.#underWay.run(id, (joint) => this.#lanes.run(id, turn(joint), joint), signal);
  }

  /** Tries at once what is left of a run that is over, without a record included. Returns false when something is left. */
  async retryCleanup(id: ContainerId, signal: AbortSignal): Promise<boolean> {
    const work = async (): Promise<boolean> => {
      const record = this.#table.find(id);
      if (record === undefined) return this.#teardown.releaseOrphan(id);
      const state = stateOf(record);
      return state === 'stopping' || state === 'removing' ? this.#teardown.release(id) : true;
    };
    return this.#lanes.run(id, work, signal);
  }

  /** Signals a running container. @throws {RuntimeError} FAILED_PRECONDITION when it does not run */
  async kill(ref: string, signalName: NodeJS.Signals, signal: AbortSignal): Promise<void> {
    const { id } = this.#running(this.#table.resolve(ref).id);
    await this.#launcher.kill(id, signalName, signal);
  }

  /**
   * Removes a container and everything it has. `force` ends it first, whatever it does.
   * @throws {RuntimeError} FAILED_PRECONDITION when it runs; UNAVAILABLE when something is left, which is tried again
   */
  async remove(ref: string, options: { readonly force: boolean }, signal: AbortSignal): Promise<void> {
    const { id, spec } = this.#table.resolve(ref);
    if (options.force) {
      this.#underWay.interrupt(id, new RuntimeError('ABORTED', `container ${spec.name} is being removed`));
    }
    await this.#lanes.run(
      id,
      async () => {
        const record = this.#table.find(id);
        if (record === undefined) return;
        const state = stateOf(record);
        if (state === 'running' && !options.force) {
          const advice = 'stop it first, or remove it by force';
          throw new RuntimeError('FAILED_PRECONDITION', `container ${record.spec.name} is ${state}: ${advice}`);
        }
        this.#table.write({ ...record, removedAt: record.removedAt ?? now() }, 'power');
        if (record.run !== undefined && record.run.exit === undefined && record.run.startedAt !== undefined) {
          await this.#finish(id, await this.#end(id, 'SIGKILL', 0, AbortSignal.timeout(60_000)));
        } else {
          await this.#teardown.release(id);
        }
        const left = this.#table.find(id);
        if (left !== undefined) throw incomplete(left);
      },
      signal,
    );
  }

  /**
   * How the current run ends; at once when it has ended. For a container that has not run yet: its first run.
   * @throws {RuntimeError} NOT_FOUND for unknown containers
   */
  async wait(ref: string, signal: AbortSignal): Promise<Exit> {
    const remembered = this.#table.find(ref) === undefined ? this.#board.remembered(ref) : undefined;
    if (remembered !== undefined) return remembered;
    const record = this.#table.resolve(ref);
    return record.run?.exit ?? this.#board.nextExit(record.id, this.#untilClosed(signal));
  }

  /** Settles when the container with this full id is gone. */
  async removed(id: ContainerId, signal: AbortSignal): Promise<void> {
    if (this.#table.find(id) !== undefined) await this.#board.removal(id, this.#untilClosed(signal));
  }

  /** Output of all runs. @throws {RuntimeError} NOT_FOUND */
  async openLogs(ref: string, options: LogOptions, signal: AbortSignal): Promise<AsyncIterable<OutputChunk>> {
    return this.#launcher.openLogs(this.#table.resolve(ref).id, options, this.#untilClosed(signal));
  }

  /** What a running container uses. @throws {RuntimeError} FAILED_PRECONDITION when it does not run */
  async usage(ref: string, signal: AbortSignal): Promise<Usage> {
    const { id } = this.#running(this.#table.resolve(ref).id);
    const parts = await Promise.all(this.#isolators.map((isolator) => isolator.usage?.(id, signal)));
    return Object.assign({}, ...parts.filter((part) => part !== undefined));
  }

  get(ref: string): ContainerView {
    return this.#view(this.#table.resolve(ref));
  }

  /** All containers, newest first. */
  list(): ContainerView[] {
    return this.#table.list().map((record) => this.#view(record));
  }

  /** Ends watching and waiting; containers go on running. */
  async close(): Promise<void> {
    this.#closing.abort(new RuntimeError('UNAVAILABLE', 'berthd is shutting down'));
    this.#teardown.close();
    await Promise.all([this.#lanes.drain(), this.#watch.drain()]);
  }

  /** @throws {RuntimeError} FAILED_PRECONDITION when the container does not run */
  #running(id: ContainerId): ContainerRecord {
    const record = this.#table.get(id);
    const state = stateOf(record);
    if (state === 'running') return record;
    throw new RuntimeError('FAILED_PRECONDITION', `container ${record.spec.name} is ${state}, not running`);
  }

  #view(record: ContainerRecord): ContainerView {
    const parts = this.#isolators.map((isolator) => isolator.status?.(record.id));
    return {
      record,
      state: stateOf(record),
      status: {
        networks: parts.flatMap((part) => part?.networks ?? []),
        volumes: parts.flatMap((part) => part?.volumes ?? []),
      },
    };
  }

  #validate(container: ContainerRecord): void {
    for (const isolator of this.#isolators) isolator.validate?.(container);
  }

  async #launch(id: ContainerId, options: LaunchOptions, signal: AbortSignal): Promise<Launched> {
    const begunMs = performance.now();
    const record = this.#table.get(id);
    const state = stateOf(record);
    if (state !== 'created' && state !== 'exited') {
      throw new RuntimeError('FAILED_PRECONDITION', `container ${record.spec.name} is ${state}, it cannot be started`);
    }
    this.#table.write({ ...record, run: { launchedAt: now(), bootId: this.#bootId } });
    try {
      this.#validate(record);
      const outputSignal = options.attach === true ? this.#untilClosed(options.outputSignal) : undefined;
      const parts = { launcher: this.#launcher, isolators: this.#isolators, table: this.#table, log: this.#log };
      const output = await launchSequence(parts, this.#table.get(id), outputSignal, signal);
      this.#table.started(id, now());
      const durationMs = Math.round(performance.now() - begunMs);
      this.#log.info({ containerId: id, from: state, to: 'running', durationMs }, 'container state changed');
      this.#watch.follow(id);
      return { record: this.#table.get(id), ...(output === undefined ? {} : { output }) };
    } catch (error) {
      throw await this.#launchFailed(id, RuntimeError.from(error, `start container ${record.spec.name}`));
    }
  }

  async #launchFailed(id: ContainerId, failure: RuntimeError): Promise<RuntimeError> {
    this.#log.warn({ containerId: id, err: failure }, 'launch failed');
    const code = failure instanceof ExecutableError ? failure.exitCode : 128;
    const exit: Exit = { code, oomKilled: false, exitedAt: now() };
    this.#table.amendRun(id, { launchError: failure.message, exit });
    await this.#teardown.release(id);
    this.#board.exited(id, exit);
    return failure;
  }

  /** Records an exit once and releases the run. */
  async #finish(id: ContainerId, exit: Exit): Promise<void> {
    const record = this.#table.find(id);
    if (record?.run === undefined || record.run.releasedAt !== undefined) return;
    if (record.run.exit === undefined) {
      this.#table.amendRun(id, { exit });
      this.#log.info(
        { containerId: id, from: 'running', to: 'stopping', exitCode: exit.code },
        'container state changed',
      );
    }
    this.#board.exited(id, record.run.exit ?? exit);
    await this.#teardown.release(id);
  }

  /** Signals, waits, and after `timeoutMs` kills. Returns how the init process ended. */
  async #end(id: ContainerId, signalName: NodeJS.Signals, timeoutMs: number, signal: AbortSignal): Promise<Exit> {
    await this.#launcher.kill(id, signalName, signal);
    const patience = AbortSignal.timeout(timeoutMs);
    try {
      if (timeoutMs > 0) return await this.#launcher.wait(id, AbortSignal.any([signal, patience]));
    } catch (error) {
      if (signal.aborted || !patience.aborted) throw error;
    }
    await this.#launcher.terminate(id, AbortSignal.timeout(60_000));
    return this.#launcher.wait(id, AbortSignal.timeout(60_000));
  }

  #untilClosed(signal: AbortSignal | undefined): AbortSignal {
    return signal === undefined ? this.#closing.signal : AbortSignal.any([signal, this.#closing.signal]);
  }
}

function now(): string {
  return new Date().toISOString();
}
