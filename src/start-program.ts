/**
 * Starts a program that stays: a supervisor that says one line about how it began and then goes on by itself, in a
 * session of its own, whether or not whoever started it does. The line comes on descriptor 3.
 */
import { Readable } from 'node:stream';
import { type Child, type SpawnChild, spawnByNode } from './child.ts';
import type { Program } from './run-program.ts';

/** The descriptor on which it says its line. */
export const REPORT_FD = 3;
/** Most bytes of its words that are kept. */
const MAX_TEXT_BYTES = 64 * 1024;

/** A program that was started. None of the promises rejects. */
export interface StartedProgram {
  /** Undefined when it could not be started. */
  readonly pid: Promise<number | undefined>;
  /** Text on the report descriptor up to its first line feed; empty when it ended without a word. */
  readonly report: Promise<string>;
  /** What it said on stderr until it reported, or why it could not be started. */
  readonly complaints: Promise<string>;
  /** Settles when it has ended, or when nobody can tell any more. */
  readonly ended: Promise<void>;
}

/** Starts a program. Input is not for those that stay. */
export type StartProgram = (program: Omit<Program, 'input'>) => StartedProgram;

/** Starts a program as a child of this process. */
export function startProgram(
  { file, args, env, cwd }: Omit<Program, 'input'>,
  spawnChild: SpawnChild = spawnByNode,
): StartedProgram {
  let child: Child;
  try {
    child = spawnChild(file, args, { env, cwd: cwd ?? '/', stdio: ['ignore', 'ignore', 'pipe', 'pipe'] });
  } catch (error) {
    return unstarted(error);
  }
  const ended = Promise.withResolvers<void>();
  const failed = Promise.withResolvers<string>();
  child.once('exit', () => ended.resolve());
  child.once('error', (error) => {
    ended.resolve();
    failed.resolve(error.message);
  });
  const [, , errors, sync] = child.stdio;
  const report = sync instanceof Readable ? collect(sync, (text) => text.includes('\n')) : Promise.resolve('');
  const said = errors instanceof Readable ? collect(errors, () => false) : Promise.resolve('');
  const complaints = Promise.race([said, failed.promise]);
  void report.then(async (text) => {
    // Without a report its complaints are of interest, to their end.
    if (text === '') await complaints;
    letGo(child);
  });
  return { pid: Promise.resolve(child.pid), report, complaints, ended: ended.promise };
}

/** A program that could not be started. */
function unstarted(error: unknown): StartedProgram {
  return {
    pid: Promise.resolve(undefined),
    report: Promise.resolve(''),
    complaints: Promise.resolve(error instanceof Error ? error.message : String(error)),
    ended: Promise.resolve(),
  };
}

/** Lets this process end while the program goes on. */
function letGo(child: Child): void {
  for (const stream of child.stdio) stream?.destroy();
  child.unref();
}

/** Text of a stream until it ends or `enough` is said, cut at a bound. */
function collect(stream: Readable, enough: (text: string) => boolean): Promise<string> {
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
