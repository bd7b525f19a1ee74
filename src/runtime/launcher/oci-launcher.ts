/**
 * Containers as processes of an OCI runtime (crun, runc, or any other) under conmon. One run takes three programs:
 * conmon, which runs the runtime's create and stays; the runtime's start; the runtime's delete. With crun the first is
 * enough. Everything else is read from or written to the kernel and conmon's files directly. RuntimeRoot says where what
 * lies.
 *
 *   create:    log opened -> bundle written -> conmon spawned -> its sync pipe tells the init process's pid
 *   exit:      conmon writes the exit file; when conmon itself was killed, Supervision finds the init process gone
 *   terminate: init killed (the kernel ends its pid namespace with it), the rest of the cgroup after it
 *   destroy:   runtime state, cgroups, exit file, bundle. The log stays
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { gathered, RuntimeError, systemCode } from '../../errors.ts';
import { identify, isAlive, signalProcess } from '../../process-identity.ts';
import { type RunProgram, runProgram } from '../../run-program.ts';
import { type StartProgram, startProgram } from '../../start-program.ts';
import { CgroupTree } from '../cgroup-tree.ts';
import { hadOomKill } from '../cgroup-usage.ts';
import type { ContainerId, Exit } from '../container.ts';
import type { Contribution } from '../isolator.ts';
import type { InitProcess, Launcher, LogOptions, OutputChunk } from '../launcher.ts';
import { ociSpec } from '../oci-spec.ts';
import { Conmon } from './conmon.ts';
import { ContainerLog, prepareLog } from './container-log.ts';
import { EXEC_FIFO, releaseInit } from './exec-fifo.ts';
import { checkProcess } from './executable.ts';
import { ExitFiles } from './exit-files.ts';
import { runtimeCommand } from './runtime-command.ts';
import { RuntimeRoot } from './runtime-root.ts';
import { COMPILED_FILTER, SeccompPrograms } from './seccomp-programs.ts';
import { Supervision } from './supervision.ts';
import { findSupervisors } from './supervisor-scan.ts';

/** How long conmon may take to write the exit file and end once the container is gone. */
const CONMON_GRACE_MS = 5000;

export interface OciLauncherOptions {
  /** Path of the OCI runtime's executable. */
  readonly runtime: string;
  readonly conmonPath: string;
  /** Holds the logs. */
  readonly rootDir: string;
  /** Holds what is void after a reboot. */
  readonly runDir: string;
  /** "berth": name of the cgroup that holds all containers, in every hierarchy. */
  readonly cgroupParent: string;
  readonly log: Logger;
  /** Who starts the runtime's verbs; this process unless given. */
  readonly run?: RunProgram;
  /** Who starts conmon; this process unless given. */
  readonly start?: StartProgram;
}

export class OciLauncher implements Launcher {
  readonly #options: OciLauncherOptions;
  readonly #run: RunProgram;
  readonly #start: StartProgram;
  readonly #seccomp = new SeccompPrograms();
  readonly #root: RuntimeRoot;
  readonly #tree: CgroupTree;
  readonly #exits: ExitFiles;
  readonly #supervision: Supervision;
  readonly #log: Logger;
  #isOpen = false;

  constructor(options: OciLauncherOptions) {
    this.#options = options;
    this.#run = options.run ?? runProgram;
    this.#start = options.start ?? startProgram;
    this.#log = options.log.child({ component: 'launcher' });
    this.#root = new RuntimeRoot(options);
    this.#tree = new CgroupTree({ parent: options.cgroupParent });
    this.#exits = new ExitFiles({ directory: this.#root.exits, log: this.#log });
    this.#supervision = new Supervision({ exits: this.#exits, log: this.#log });
  }

  async recover(): Promise<ReadonlyMap<ContainerId, InitProcess | undefined>> {
    this.#open();
    const supervisors = findSupervisors(this.#root.bundles);
    const ids = new Set([...this.#root.ids(), ...this.#tree.ids(), ...supervisors.keys()]);
    const held = new Map<ContainerId, InitProcess | undefined>();
    for (const id of ids) {
      const init = this.#liveInit(id);
      this.#supervision.add(id, { init, conmon: supervisors.get(id)?.conmons[0] });
      held.set(id, init);
    }
    return held;
  }

  async create(id: ContainerId, contribution: Contribution, signal: AbortSignal): Promise<InitProcess> {
    signal.throwIfAborted();
    this.#open();
    checkProcess(contribution);
    const spec = this.#seccomp.applied(ociSpec(id, contribution));
    await prepareLog(this.#root.log(id));
    this.#exits.remove(id, new RuntimeError('ABORTED', `container ${id}: a new run begins`));
    this.#root.writeBundle(id, spec);
    const conmon = new Conmon(this.#start, {
      id,
      conmonPath: this.#options.conmonPath,
      runtimePath: this.#options.runtime,
      runtimeArgs: this.#runtimeArguments(),
      bundle: this.#root.bundle(id),
      pidFile: this.#root.pidFile(id),
      exitDir: this.#root.exits,
      logPath: this.#root.log(id),
    });
    try {
      const identity = await conmon.identity();
      this.#log.debug({ containerId: id, conmonPid: identity?.pid }, 'conmon started');
      const init = identify(await conmon.created(signal));
      if (init === undefined) throw new RuntimeError('INTERNAL', `container ${id}: its process ended at once`);
      this.#supervision.add(id, { init, conmon: identity, conmonEnded: conmon.ended });
      this.#seccomp.learn(spec, join(this.#root.stateOf(id), COMPILED_FILTER));
      return init;
    } catch (error) {
      await conmon.kill();
      throw error;
    }
  }

  async start(id: ContainerId, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (!releaseInit(join(this.#root.stateOf(id), EXEC_FIFO))) await this.#runtime('start', id, signal);
  }

  async kill(id: ContainerId, signalName: NodeJS.Signals, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { init } = this.#supervision.get(id);
    if (init !== undefined) signalProcess(init, signalName);
  }

  async wait(id: ContainerId, signal: AbortSignal): Promise<Exit> {
    this.#supervision.get(id);
    const exit = await this.#exits.wait(id, signal);
    return { ...exit, oomKilled: hadOomKill(this.#tree.pathOf(id)) };
  }

  async terminate(id: ContainerId, signal: AbortSignal): Promise<void> {
    const init = this.#supervision.find(id)?.init;
    // Create was cut short: somebody may still be making the container. With a pid on file conmon is past that, and
    // may be about to write the exit code.
    const isHalfMade = init === undefined && this.#root.hasBundle(id) && this.#root.initPid(id) === undefined;
    if (isHalfMade) await this.#endSupervisors(id, signal);
    if (init !== undefined) signalProcess(init, 'SIGKILL');
    await this.#tree.kill(id, signal);
    if (init !== undefined) await this.#supervision.gone(init, signal);
  }

  async destroy(id: ContainerId, signal: AbortSignal): Promise<void> {
    await this.terminate(id, signal);
    const results = await Promise.allSettled([this.#endConmon(id, signal), this.#deleteState(id, signal)]);
    const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    const failure = gathered(failures, `destroy container ${id}`);
    if (failure !== undefined) throw failure;
    await this.#tree.remove(id, signal);
    this.#root.removeBundle(id);
    this.#exits.remove(id, new RuntimeError('NOT_FOUND', `container ${id}: its run was taken away`));
    this.#supervision.remove(id);
  }

  async openLogs(id: ContainerId, options: LogOptions, signal: AbortSignal): Promise<AsyncIterable<OutputChunk>> {
    signal.throwIfAborted();
    const file = await logOf(this.#root.log(id));
    if (file === undefined) return noOutput();
    return file.read(options, options.follow ? this.#supervision.find(id)?.ended : undefined, signal);
  }

  async remove(id: ContainerId): Promise<void> {
    this.#root.removeLog(id);
  }

  /** Stops watching; containers go on. */
  close(): void {
    this.#exits.close();
    this.#supervision.close();
  }

  #open(): void {
    if (this.#isOpen) return;
    this.#root.make();
    this.#exits.open();
    this.#isOpen = true;
  }

  #runtimeArguments(): string[] {
    return [`--root=${this.#root.state}`, '--log-format=json'];
  }

  /** Runs a verb of the runtime. @throws {RuntimeError} FAILED_PRECONDITION with its own words */
  async #runtime(verb: 'start' | 'delete', id: ContainerId, signal: AbortSignal): Promise<void> {
    this.#log.debug({ containerId: id, verb }, 'runtime called');
    await runtimeCommand(this.#run, this.#options.runtime, [...this.#runtimeArguments(), verb, id], signal);
  }

  /** The init process of a recovered container: a pid on file may be a stranger's by now, one in our cgroup is not. */
  #liveInit(id: ContainerId): InitProcess | undefined {
    const pid = this.#root.initPid(id);
    const init = pid === undefined ? undefined : identify(pid);
    return init !== undefined && isInCgroup(init.pid, this.#tree.pathOf(id)) && isAlive(init) ? init : undefined;
  }

  /** Ends conmon and the runtime it runs, wherever create was. They are killed again until none is found. */
  async #endSupervisors(id: ContainerId, signal: AbortSignal): Promise<void> {
    for (;;) {
      const found = findSupervisors(this.#root.bundles).get(id);
      if (found === undefined) return;
      this.#log.info({ containerId: id, found }, 'ending what was making a container');
      const all = [...found.conmons, ...found.others];
      for (const identity of all) signalProcess(identity, 'SIGKILL');
      for (const identity of all) await this.#supervision.gone(identity, signal);
    }
  }

  /** conmon ends by itself shortly after its container; one that hangs is killed. */
  async #endConmon(id: ContainerId, signal: AbortSignal): Promise<void> {
    const conmon = this.#supervision.find(id)?.conmon;
    if (conmon === undefined) return;
    const patience = AbortSignal.any([signal, AbortSignal.timeout(CONMON_GRACE_MS)]);
    try {
      await this.#supervision.conmonGone(id, patience);
    } catch (error) {
      if (signal.aborted || !patience.aborted) throw error;
      this.#log.warn({ containerId: id, conmonPid: conmon.pid }, 'conmon outlives its container and is killed');
      signalProcess(conmon, 'SIGKILL');
      await this.#supervision.gone(conmon, signal);
    }
  }

  /** Removes the runtime's state. Nothing of the container lives, so state the runtime cannot delete may go as well. */
  async #deleteState(id: ContainerId, signal: AbortSignal): Promise<void> {
    if (!this.#root.hasState(id)) return;
    if (!this.#root.holdsNotesOnly(id)) await this.#runtimeDelete(id, signal);
    this.#root.removeState(id);
  }

  async #runtimeDelete(id: ContainerId, signal: AbortSignal): Promise<void> {
    try {
      await this.#runtime('delete', id, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      this.#log.warn({ containerId: id, err: error }, 'runtime could not delete its state, it is removed');
    }
  }
}

/** Undefined when no run has begun one. */
async function logOf(path: string): Promise<ContainerLog | undefined> {
  try {
    return await ContainerLog.open(path);
  } catch (error) {
    if (error instanceof RuntimeError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}

async function* noOutput(): AsyncGenerator<OutputChunk> {
  // A container that never ran has written nothing.
}

function isInCgroup(pid: number, path: string): boolean {
  try {
    const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n');
    return lines.some((line) => line.endsWith(`:${path}`) || line.includes(`:${path}/`));
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ESRCH') return false;
    throw error;
  }
}
