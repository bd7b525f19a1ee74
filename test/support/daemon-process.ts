/**
 * The berthd process of a test: started as a user starts it, its log kept, watched for named lines, killed on the spot
 * when one appears. It is the source run by Node, or the built program when BERTH_TEST_DIST is set.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));

/** A line of the daemon's log: pino's fields and those of the message. */
export interface LogLine {
  readonly msg?: string;
  readonly level?: number;
  readonly [field: string]: unknown;
}

/** Says whether a line is the one that is waited for. */
export type LineMatch = (line: LogLine) => boolean;

/** A program of Berth and the arguments that come before its own. */
export function program(name: 'berthd' | 'berth'): readonly [string, ...string[]] {
  const built = (process.env['BERTH_TEST_DIST'] ?? '') !== '';
  if (built) return [`${REPOSITORY}/bin/${name}`];
  return [process.execPath, `${REPOSITORY}/src/${name === 'berthd' ? 'main.ts' : 'cli/main.ts'}`];
}

/** One run of the daemon, from start to exit. */
export class DaemonProcess {
  readonly child: ChildProcess;
  /** Every line so far; what is no JSON appears as `msg`. */
  readonly lines: LogLine[];
  readonly exited: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  readonly #watchers = new Set<(line: LogLine | undefined) => void>();
  readonly #onLine: (line: LogLine) => void;

  /** `lines` is appended to, so that one list holds the log of all runs. */
  constructor(flags: readonly string[], lines: LogLine[], onLine: (line: LogLine) => void) {
    this.lines = lines;
    this.#onLine = onLine;
    const [file, ...before] = program('berthd');
    // A test process that is killed takes its daemon with it; setpriv becomes the program, with the same pid.
    const args = ['--pdeathsig', 'SIGKILL', file, ...before, ...flags];
    this.child = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' });
    this.exited = once(this.child, 'close').then(([code, signal]) => {
      this.#tell(undefined);
      return { code, signal };
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      if (stream !== null) createInterface({ input: stream }).on('line', (text) => this.#take(parsed(text)));
    }
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error('berthd did not start');
    return this.child.pid;
  }

  get alive(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  /** The next line that matches. @throws with the end of the log when the daemon exits first or time is up */
  line(matches: LineMatch, timeoutMs: number): Promise<LogLine> {
    const { promise, resolve, reject } = Promise.withResolvers<LogLine>();
    const done = (): void => {
      clearTimeout(timer);
      this.#watchers.delete(watch);
    };
    const fail = (reason: string): void => {
      done();
      reject(new Error(`${reason}; end of its log:\n${formatLog(this.lines, 30)}`));
    };
    const watch = (line: LogLine | undefined): void => {
      if (line === undefined) fail('berthd exited');
      else if (matches(line)) {
        done();
        resolve(line);
      }
    };
    const timer = setTimeout(() => fail(`berthd did not log the line within ${timeoutMs} ms`), timeoutMs);
    this.#watchers.add(watch);
    if (!this.alive) watch(undefined);
    return promise;
  }

  /** Sends SIGKILL in the same turn in which a matching line is read. Resolves with the line when it is dead. */
  async killAt(matches: LineMatch, timeoutMs: number): Promise<LogLine> {
    const line = await this.line((candidate) => {
      if (!matches(candidate)) return false;
      this.child.kill('SIGKILL');
      return true;
    }, timeoutMs);
    await this.exited;
    return line;
  }

  /** Signals and waits; SIGKILL after `patienceMs`. Returns the exit code, undefined when a signal ended it. */
  async end(signalName: NodeJS.Signals, patienceMs = 20_000): Promise<number | undefined> {
    if (this.alive) this.child.kill(signalName);
    const timer = setTimeout(() => this.child.kill('SIGKILL'), patienceMs);
    const { code } = await this.exited;
    clearTimeout(timer);
    return code ?? undefined;
  }

  #take(line: LogLine): void {
    this.lines.push(line);
    this.#onLine(line);
    this.#tell(line);
  }

  #tell(line: LogLine | undefined): void {
    for (const watch of [...this.#watchers]) watch(line);
  }
}

/** The last `count` lines as text. */
export function formatLog(lines: readonly LogLine[], count: number): string {
  return lines
    .slice(-count)
    .map((line) => `  ${JSON.stringify(line)}`)
    .join('\n');
}

function parsed(text: string): LogLine {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return { ...value };
  } catch {
    // Not JSON: a crash report of Node. It is kept as it is.
  }
  return { msg: text };
}
