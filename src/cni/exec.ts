/**
 * Runs one plugin executable to its end (CNI 1.1.0 §2). The one seam between Berth and plugins: tests put a function in
 * its place.
 *
 * Unlike `hostCommand` it goes on once the plugin has exited although a process it left behind still holds its stdout.
 * A plugin leads a process group of its own, the whole group is killed when the signal aborts; what it did until then
 * is unknown, so a DEL is due. It gets a clean environment in which it finds iptables and the like, one JSON object on
 * stdin, and no descriptor beyond 2.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError, systemCode } from '../errors.ts';
import { HOST_ENV } from '../host-command.ts';
import { type CniCommand, CniError, failureIn, printable } from './protocol.ts';

/** One run of one plugin. */
export interface PluginCall {
  /** The plugin's `type`, for messages. */
  readonly plugin: string;
  /** Absolute path of the executable. */
  readonly path: string;
  readonly command: CniCommand;
  /** CNI_* variables. */
  readonly env: Readonly<Record<string, string>>;
  /** Written to stdin as JSON. */
  readonly request: unknown;
}

/**
 * Runs a plugin. Resolves with the decoded answer to ADD and VERSION, with undefined for the others.
 * @throws {CniError} when the plugin says that it failed
 * @throws {RuntimeError} CANCELLED or DEADLINE_EXCEEDED when it was killed, UNAVAILABLE while the file is being
 * written, INTERNAL when its answer makes no sense
 */
export type ExecPlugin = (call: PluginCall, signal: AbortSignal) => Promise<unknown>;

const MAX_OUTPUT_BYTES = 4 * 1024 * 1024;
/** Once the plugin has exited, output counts as complete when nothing came for so long, in at most so many rounds. */
const DRAIN_MS = 100;
const DRAIN_ROUNDS = 20;
/** How long a killed plugin may take to die; longer means that it hangs in the kernel. */
const KILL_MS = 2000;
/** Waits between attempts while the executable is being written (ETXTBSY): four seconds in all. */
const BUSY_DELAYS_MS = [10, 20, 50, 100, 200, 500, 1000, 2000] as const;

/** See {@link ExecPlugin}. */
export async function execPlugin(call: PluginCall, signal: AbortSignal): Promise<unknown> {
  const input = JSON.stringify(call.request);
  for (const delayMs of [...BUSY_DELAYS_MS, undefined]) {
    const outcome = await runOnce(call, input, signal);
    if (outcome !== 'busy') return answerOf(call, outcome);
    if (delayMs !== undefined) await sleep(delayMs, undefined, { signal }).catch((error) => abandon(call, error));
  }
  throw new RuntimeError('UNAVAILABLE', `CNI plugin ${call.path} cannot be run: the file is being written`);
}

interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number | null;
  readonly exitSignal: NodeJS.Signals | null;
}

async function runOnce(call: PluginCall, input: string, signal: AbortSignal): Promise<Outcome | 'busy'> {
  if (signal.aborted) abandon(call, signal.reason);
  try {
    return (await runToEnd(call, input, signal)) ?? abandon(call, signal.reason);
  } catch (error) {
    if (systemCode(error) === 'ETXTBSY') return 'busy';
    throw RuntimeError.from(error, `CNI plugin ${call.path} cannot be run`);
  }
}

/** Undefined when it was killed because the signal aborted. */
async function runToEnd(call: PluginCall, input: string, signal: AbortSignal): Promise<Outcome | undefined> {
  // Some failures to start are thrown here (ETXTBSY, ENOEXEC), others are told by an event.
  const child = spawn(call.path, [], {
    env: { ...HOST_ENV, ...call.env },
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const run = new PluginRun(child, input);
  try {
    const outcome = await run.settled(signal);
    if (typeof outcome === 'object') return outcome;
    await run.kill();
    if (outcome === 'overflow') throw new RuntimeError('INTERNAL', tooMuch(call));
    return undefined;
  } finally {
    run.close();
  }
}

/** A child process with what it has written so far. */
class PluginRun {
  readonly #child: ChildProcess;
  readonly #stdout = new Output();
  readonly #stderr = new Output();
  readonly #exited: Promise<Outcome>;
  #drain: NodeJS.Timeout | undefined;

  constructor(child: ChildProcess, input: string) {
    this.#child = child;
    child.stdout?.on('data', (chunk: Buffer) => this.#stdout.push(chunk));
    child.stderr?.on('data', (chunk: Buffer) => this.#stderr.push(chunk));
    const { promise, resolve, reject } = Promise.withResolvers<Outcome>();
    this.#exited = promise;
    // Streams report errors of their own; a plugin that does not read its stdin (EPIPE) is free not to.
    for (const stream of child.stdio) stream?.on('error', () => undefined);
    child.on('error', reject);
    child.once('close', (exitCode, exitSignal) => {
      clearTimeout(this.#drain);
      resolve(this.#outcome(exitCode, exitSignal));
    });
    // 'close' follows at once unless a descendant holds the pipes.
    child.once('exit', (exitCode, exitSignal) => {
      this.#awaitSilence(DRAIN_ROUNDS, () => resolve(this.#outcome(exitCode, exitSignal)));
    });
    child.stdin?.end(input);
  }

  #awaitSilence(rounds: number, done: () => void): void {
    const before = this.#stdout.bytes;
    this.#drain = setTimeout(() => {
      if (rounds === 0 || this.#stdout.bytes === before) done();
      else this.#awaitSilence(rounds - 1, done);
    }, DRAIN_MS);
  }

  /** Settles when the plugin has exited, the signal has aborted, or it wrote too much. */
  async settled(signal: AbortSignal): Promise<Outcome | 'aborted' | 'overflow'> {
    const { promise: aborted, resolve } = Promise.withResolvers<'aborted'>();
    const onAbort = () => resolve('aborted');
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([this.#exited, aborted, this.#stdout.overflow]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Kills the whole group and waits until its leader is dead. */
  async kill(): Promise<void> {
    const pid = this.#child.pid;
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

  #outcome(exitCode: number | null, exitSignal: NodeJS.Signals | null): Outcome {
    return { stdout: this.#stdout.text(), stderr: this.#stderr.text(), exitCode, exitSignal };
  }
}

/** The first bytes of a stream, up to the cap. */
class Output {
  readonly overflow: Promise<'overflow'>;
  readonly #overflowed: (value: 'overflow') => void;
  readonly #chunks: Buffer[] = [];
  /** All that came, dropped bytes included. */
  bytes = 0;

  constructor() {
    const { promise, resolve } = Promise.withResolvers<'overflow'>();
    this.overflow = promise;
    this.#overflowed = resolve;
  }

  push(chunk: Buffer): void {
    this.bytes += chunk.length;
    if (this.bytes <= MAX_OUTPUT_BYTES) this.#chunks.push(chunk);
    else this.#overflowed('overflow');
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString('utf8');
  }
}

/** What the plugin said, or its failure thrown. */
function answerOf(call: PluginCall, outcome: Outcome): unknown {
  const failed = outcome.exitCode !== 0;
  const wanted = call.command === 'ADD' || call.command === 'VERSION';
  if (!failed && !wanted) return undefined;
  const value = jsonIn(outcome.stdout);
  if (failed) throw failureOf(call, outcome, value);
  if (value === undefined) {
    const said = outcome.stdout.trim() === '' ? 'nothing' : JSON.stringify(printable(outcome.stdout));
    throw new RuntimeError('INTERNAL', `CNI plugin ${call.plugin} answered ${call.command} with no JSON: ${said}`);
  }
  return value;
}

/** Failed without a code of the protocol. */
const NO_CODE = 0;

function failureOf(call: PluginCall, outcome: Outcome, value: unknown): CniError {
  const failure = failureIn(value);
  if (failure !== undefined) return new CniError({ plugin: call.plugin, command: call.command, failure });
  const end = outcome.exitSignal === null ? `exit code ${outcome.exitCode}` : `ended by ${outcome.exitSignal}`;
  const details = outcome.stdout.trim() || outcome.stderr.trim();
  return new CniError({ plugin: call.plugin, command: call.command, failure: { code: NO_CODE, msg: end, details } });
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The caller says what is wrong with the text.
    return undefined;
  }
}

function tooMuch(call: PluginCall): string {
  return `CNI plugin ${call.plugin} wrote more than ${MAX_OUTPUT_BYTES} bytes during ${call.command}: killed`;
}

function abandon(call: PluginCall, reason: unknown): never {
  throw RuntimeError.from(reason, `CNI plugin ${call.plugin} was stopped during ${call.command}`);
}
