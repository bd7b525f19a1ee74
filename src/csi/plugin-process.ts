/**
 * Plugins as processes of this host. Each leads a session of its own, has /dev/null as its standard input and a log file
 * for its output, and so outlives the daemon. The next daemon finds it by pid and start time; one whose pid was not yet
 * on record is found by the CSI_ENDPOINT in its environment, which is no other process's.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError, systemCode } from '../errors.ts';
import { HOST_ENV } from '../host-command.ts';
import { identify, isAlive, type ProcessIdentity, signalProcess } from '../process-identity.ts';
import type { LogOptions } from '../runtime/launcher.ts';
import type { PluginLog } from './plugin-log.ts';
import type { PluginRun, PluginRunner } from './plugin-run.ts';
import { environmentFor, filledIn, type PluginPlace } from './plugin-supervision.ts';
import type { PluginEnd, PluginRunRecord, SupervisedRecord } from './supervised-record.ts';

/** Pause between looks at a process that is no child of this daemon. */
const LOOK_MS = 250;
/** How long a killed process may take to die; longer means that it hangs in the kernel. */
const KILL_MS = 5000;

type End = Omit<PluginEnd, 'at'>;

export interface PluginProcessesOptions {
  readonly placeOf: (record: SupervisedRecord) => PluginPlace;
  readonly logOf: (record: SupervisedRecord) => PluginLog;
}

/** See the module's head. */
export class PluginProcesses implements PluginRunner {
  readonly #options: PluginProcessesOptions;

  constructor(options: PluginProcessesOptions) {
    this.#options = options;
  }

  async start(record: SupervisedRecord): Promise<PluginRun> {
    const { supervision, name } = record;
    if (supervision.kind !== 'process') throw new RuntimeError('INTERNAL', `plugin ${name} is no process`);
    const place = this.#options.placeOf(record);
    const [file = '', ...args] = supervision.command.map((word) => filledIn(word, place));
    const env = { ...HOST_ENV, ...environmentFor(supervision, place) };
    const log = this.#options.logOf(record).open();
    try {
      const child = spawn(file, args, { env, cwd: '/', detached: true, stdio: ['ignore', log, log] });
      child.unref();
      return await runOf(child, file);
    } finally {
      closeSync(log);
    }
  }

  async find(record: SupervisedRecord, run: PluginRunRecord): Promise<PluginRun | undefined> {
    if (run.process !== undefined) return isAlive(run.process) ? new ProcessRun(run.process) : undefined;
    const leader = this.#processes(record).find(({ leads }) => leads);
    return leader === undefined ? undefined : new ProcessRun(leader.identity);
  }

  async sweep(record: SupervisedRecord): Promise<void> {
    for (const { identity } of this.#processes(record)) signalProcess(identity, 'SIGKILL');
    this.#options.logOf(record).remove();
  }

  logs(record: SupervisedRecord, options: LogOptions, signal: AbortSignal): AsyncIterable<Uint8Array> {
    return this.#options.logOf(record).read(options, signal);
  }

  #processes(record: SupervisedRecord): readonly { identity: ProcessIdentity; leads: boolean }[] {
    return processesWith(`CSI_ENDPOINT=${this.#options.placeOf(record).endpoint}`);
  }
}

/** Settles once it is known whether the program could be started. */
async function runOf(child: ChildProcess, file: string): Promise<PluginRun> {
  const end = new Promise<End>((resolve) => {
    child.once('exit', (exitCode, signalName) => resolve(endOf(exitCode, signalName)));
  });
  const failure = new Promise<Error>((resolve) => child.on('error', resolve));
  const { pid } = child;
  if (pid === undefined) {
    const reason = reasonOf(await failure);
    throw new RuntimeError('FAILED_PRECONDITION', `${file} cannot be started: ${reason}`);
  }
  const identity = identify(pid);
  // It may be gone already; nobody else can have the pid before its end was told.
  return new ProcessRun(identity ?? { pid, startTicks: 0 }, end);
}

function reasonOf(error: Error): string {
  const code = systemCode(error);
  if (code === 'ENOENT') return 'it is not there, or the interpreter it names is not';
  return code === 'EACCES' ? 'it is no program that can be executed' : (code ?? error.message);
}

function endOf(exitCode: number | null, signalName: string | null): End {
  if (signalName !== null) return { signalName, reason: `it was ended by ${signalName}` };
  return { exitCode: exitCode ?? 0, reason: `it ended with exit code ${exitCode ?? 0}` };
}

const UNSEEN: End = { reason: 'it ended; its exit code is lost, since another berthd had started it' };

class ProcessRun implements PluginRun {
  readonly process: ProcessIdentity;
  /** Only known of a child. */
  readonly #end: Promise<End> | undefined;

  constructor(identity: ProcessIdentity, end?: Promise<End>) {
    this.process = identity;
    this.#end = end;
  }

  async ended(signal: AbortSignal): Promise<End | undefined> {
    if (this.#end !== undefined) return Promise.race([this.#end, aborted(signal)]);
    while (isAlive(this.process)) {
      if (!(await pause(LOOK_MS, signal))) return undefined;
    }
    return UNSEEN;
  }

  async stop(graceMs: number, signal: AbortSignal): Promise<void> {
    if (!signalProcess(this.process, 'SIGTERM')) return;
    if (await this.#goneWithin(graceMs, signal)) return;
    this.#killSession();
    if (await this.#goneWithin(KILL_MS, signal)) return;
    const { pid } = this.process;
    throw new RuntimeError('DEADLINE_EXCEEDED', `pid ${pid} does not die of SIGKILL: it hangs in the kernel`);
  }

  async #goneWithin(ms: number, signal: AbortSignal): Promise<boolean> {
    const late = AbortSignal.any([signal, AbortSignal.timeout(ms)]);
    while (isAlive(this.process)) {
      if (await pause(20, late)) continue;
      signal.throwIfAborted();
      return !isAlive(this.process);
    }
    return true;
  }

  /** The process and all that share its group. */
  #killSession(): void {
    if (!isAlive(this.process)) return;
    try {
      process.kill(-this.process.pid, 'SIGKILL');
    } catch (error) {
      if (systemCode(error) !== 'ESRCH') throw RuntimeError.from(error, `kill process group ${this.process.pid}`);
    }
  }
}

/** Live processes that have this line in their environment, and whether they lead a session. */
function processesWith(line: string): { identity: ProcessIdentity; leads: boolean }[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => {
    if (Number(pid) === process.pid || !textOf(`/proc/${pid}/environ`).split('\0').includes(line)) return [];
    const identity = identify(Number(pid));
    return identity === undefined ? [] : [{ identity, leads: sessionOf(pid) === Number(pid) }];
  });
}

/** Field 6 of /proc/PID/stat; the command's name before it may hold anything. */
function sessionOf(pid: string): number {
  const text = textOf(`/proc/${pid}/stat`);
  return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[3]);
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return '';
    throw RuntimeError.from(error, `read ${path}`);
  }
}

function aborted(signal: AbortSignal): Promise<undefined> {
  if (signal.aborted) return Promise.resolve(undefined);
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(undefined), { once: true }));
}

/** False when the signal came first. */
async function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  try {
    await sleep(ms, undefined, { signal, ref: false });
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  }
}
