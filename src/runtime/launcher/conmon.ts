/**
 * conmon, the supervisor of one container: it runs the OCI runtime's create, owns the standard streams, writes the log
 * and the exit file, and outlives the daemon. It is spawned once for each run, in a session of its own and as our direct
 * child (--sync), so that its end is an event. Its exit code says nothing: the sync pipe tells whether create succeeded.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { Readable } from 'node:stream';
import { z } from 'zod';
import { RuntimeError } from '../../errors.ts';
import { HOST_ENV } from '../../host-command.ts';
import { identify, type ProcessIdentity } from '../../process-identity.ts';
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

/** First descriptor after the standard streams. */
const SYNC_FD = 3;
/** Most bytes of conmon's words that are kept. */
const MAX_TEXT_BYTES = 64 * 1024;

const syncSchema = z.object({ data: z.int(), message: z.string().optional() });

/** A running supervisor that this process has started. */
export class Conmon {
  /** Undefined when it could not be spawned. */
  readonly identity: ProcessIdentity | undefined;
  /** Settles when the process has ended. Never rejects. */
  readonly ended: Promise<void>;
  readonly #child: ChildProcess;
  readonly #outcome: Promise<string>;

  constructor(options: ConmonOptions) {
    this.#child = spawn(options.conmonPath, conmonArguments(options), {
      cwd: '/',
      detached: true,
      env: { ...HOST_ENV, _OCI_SYNCPIPE: String(SYNC_FD) },
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    });
    this.identity = this.#child.pid === undefined ? undefined : identify(this.#child.pid);
    const ended = Promise.withResolvers<void>();
    const spawnFailed = Promise.withResolvers<never>();
    this.#child.once('exit', () => ended.resolve());
    this.#child.once('error', (error) => {
      ended.resolve();
      spawnFailed.reject(RuntimeError.from(error, `start ${options.conmonPath}`));
    });
    this.ended = ended.promise;
    this.#outcome = Promise.race([spawnFailed.promise, this.#firstLine()]);
    this.#outcome.catch(() => undefined);
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
      return initPidOf(await Promise.race([aborted.promise, this.#outcome]));
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#release();
    }
  }

  /** Ends conmon; the runtime it is running, if any, dies with it (conmon sets the parent death signal). */
  async kill(): Promise<void> {
    this.#child.ref();
    this.#child.kill('SIGKILL');
    await this.ended;
  }

  /** Lets this process end while conmon goes on. */
  #release(): void {
    for (const stream of this.#child.stdio) stream?.destroy();
    this.#child.unref();
  }

  /** What the sync pipe says; what conmon says on stderr when it ends without a word there. */
  async #firstLine(): Promise<string> {
    const [, , errors, sync] = this.#child.stdio;
    const complaints = errors instanceof Readable ? collect(errors, () => false) : Promise.resolve('');
    const text = sync instanceof Readable ? await collect(sync, (part) => part.includes('\n')) : '';
    if (text !== '') return text;
    return JSON.stringify({ data: -1, message: (await complaints) || 'conmon ended without a word' });
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

/** Text of a stream until it ends or `enough` is said, cut at a bound. */
async function collect(stream: Readable, enough: (text: string) => boolean): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let text = '';
  const finish = (): void => resolve(text);
  stream.setEncoding('utf8');
  stream.on('data', (part: string) => {
    if (text.length < MAX_TEXT_BYTES) text += part;
    if (enough(text)) finish();
  });
  for (const event of ['end', 'error', 'close']) stream.once(event, finish);
  return promise;
}

function initPidOf(text: string): number {
  const [line = ''] = text.split('\n', 1);
  const { data, message } = syncSchema.parse(JSON.parse(line));
  if (data > 0) return data;
  throw new RuntimeError('FAILED_PRECONDITION', `runtime create: ${runtimeWords(message ?? '')}`);
}
