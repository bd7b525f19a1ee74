/**
 * Freezes mounted file systems (FIFREEZE) while they are copied. Whoever writes to a frozen file system hangs, so it must
 * thaw whatever happens to the driver:
 *
 *   volumes/ID/frozen    written before, removed after: the next driver thaws what it finds
 *   a child per volume   freezes, says so, and thaws when its stdin ends: with the copy, with the driver, or in the end
 *                        with the clock
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { unlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { RuntimeError, systemCode } from '../../errors.ts';
import { HOST_ENV, hostCommand } from '../../host-command.ts';
import { syncDirectory, writeDurably } from './durable-file.ts';

/** Longest time a file system stays frozen, unless the caller says less. */
export const FROZEN_MS = 60_000;
/** How long the kernel may take to write out what is dirty before. */
const FREEZE_MS = 30_000;
const THAW_MS = 20_000;

/**
 * $1 is the mount, $2 the longest time in seconds. Signals of a terminal or a broken pipe must not end it half way; so
 * cat, which inherits that, is ended by the one signal that it cannot ignore.
 */
const HOLD = `
trap '' HUP INT TERM PIPE
fsfreeze --freeze "$1" || exit 3
echo frozen
timeout --signal=KILL "$2" cat >/dev/null
held=$?
fsfreeze --unfreeze "$1" || exit 4
exit $held
`;

/** A file system to freeze. */
export interface Freezable {
  readonly volumeId: string;
  /** Where the file system is mounted. */
  readonly path: string;
  /** The marker that the next driver finds. */
  readonly marker: string;
}

/**
 * Runs `work` while all of these stand still; with none of them, it just runs.
 * @throws {RuntimeError} FAILED_PRECONDITION when the work took longer than they may be frozen: what it did is void;
 * UNAVAILABLE when one does not freeze
 */
export async function whileFrozen<T>(
  log: Logger,
  targets: readonly Freezable[],
  work: (signal: AbortSignal | undefined) => Promise<T>,
  frozenMs: number = FROZEN_MS,
): Promise<T> {
  if (targets.length === 0) return work(undefined);
  const holds: Hold[] = [];
  try {
    for (const target of targets) {
      await writeDurably(target.marker, target.path);
      holds.push(new Hold(target, frozenMs));
    }
    await Promise.all(holds.map((hold) => hold.frozen()));
    return await work(AbortSignal.any(holds.map((hold) => hold.lost)));
  } finally {
    // Every one, whatever the others come to.
    await Promise.all(holds.map((hold) => thawed(log, hold)));
    // Of no consequence when the work failed by itself: then nobody believes in its result.
    for (const hold of holds) hold.lost.throwIfAborted();
  }
}

async function thawed(log: Logger, hold: Hold): Promise<void> {
  const { marker, volumeId } = hold.target;
  try {
    await hold.thaw();
    await unlink(marker);
  } catch (error) {
    log.error({ volumeId, err: error }, 'file system may still be frozen');
  }
}

/**
 * Thaws a file system that a killed driver may have left frozen. `path` is where it is mounted now, undefined when it is
 * not. Without effect on one that is not frozen.
 */
export async function thawLeftover(marker: string, path: string | undefined): Promise<'thawed' | 'not frozen'> {
  const result = path === undefined ? 'not frozen' : await thaw(path);
  try {
    await unlink(marker);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
  await syncDirectory(marker.slice(0, marker.lastIndexOf('/')));
  return result;
}

async function thaw(path: string): Promise<'thawed' | 'not frozen'> {
  try {
    await hostCommand('fsfreeze', ['--unfreeze', path], AbortSignal.timeout(THAW_MS));
    return 'thawed';
  } catch (error) {
    // The usual case: the child of the killed driver thawed it. The kernel has no other way to ask.
    if (error instanceof RuntimeError && error.code === 'INTERNAL') return 'not frozen';
    throw error;
  }
}

/** One frozen file system: its child, from freeze to thaw. */
class Hold {
  readonly target: Freezable;
  readonly #frozenMs: number;
  readonly #child: ChildProcess;
  readonly #said: Promise<string>;
  readonly #ended: Promise<number | null>;
  readonly #lost = new AbortController();
  #isWanted = true;
  #complaint = '';

  constructor(target: Freezable, frozenMs: number) {
    this.target = target;
    this.#frozenMs = frozenMs;
    const seconds = String(frozenMs / 1000);
    this.#child = spawn('sh', ['-c', HOLD, 'sh', target.path, seconds], {
      env: HOST_ENV,
      cwd: '/',
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    for (const stream of this.#child.stdio) stream?.on('error', () => undefined);
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (this.#complaint.length < 1000) this.#complaint += text;
    });
    this.#said = firstWords(this.#child);
    this.#ended = ended(this.#child).then((code) => {
      if (this.#isWanted) this.#lost.abort(this.#reasonOf(code));
      return code;
    });
  }

  /** Aborts when the file system is frozen no longer although it should be. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Settles once the file system stands still. */
  async frozen(): Promise<void> {
    const { path } = this.target;
    const late = sleep(FREEZE_MS, undefined, { ref: false });
    const words = await Promise.race([this.#said, late]);
    if (words === 'frozen\n') return;
    if (words !== undefined) throw this.#reasonOf(await this.#ended);
    throw new RuntimeError('UNAVAILABLE', `freeze ${path}: what is dirty was not written in ${FREEZE_MS} ms`);
  }

  /** @throws {RuntimeError} when nobody knows whether it is thawed */
  async thaw(): Promise<void> {
    this.#isWanted = false;
    this.#child.stdin?.end();
    const late = sleep(THAW_MS, undefined, { ref: false });
    const code = await Promise.race([this.#ended, late]);
    // 3: it never froze. Perhaps somebody else froze it, who will thaw it.
    if (code === 0 || code === 3) return;
    // It was not frozen to the end: the wait ran out, or somebody else thawed it.
    this.#lost.abort(this.#reasonOf(code ?? null));
    await thaw(this.target.path);
    if (code === undefined) throw new RuntimeError('DEADLINE_EXCEEDED', `thaw ${this.target.path}: ${this.#complaint}`);
  }

  #reasonOf(code: number | null): RuntimeError {
    const { path, volumeId } = this.target;
    if (code === 3) return new RuntimeError('UNAVAILABLE', `freeze ${path}: ${this.#complaint.trim()}`);
    const limit = `the file system of volume ${volumeId} did not stay frozen while it was copied, for at most ${this.#frozenMs} ms`;
    return new RuntimeError(
      'FAILED_PRECONDITION',
      `${limit}: stop the containers that use it, or keep volumes on xfs or btrfs, where a copy takes no time`,
    );
  }
}

async function firstWords(child: ChildProcess): Promise<string> {
  if (child.stdout === null) return '';
  child.stdout.setEncoding('utf8');
  try {
    const [text] = await Promise.race([once(child.stdout, 'data'), once(child.stdout, 'close')]);
    return String(text ?? '');
  } catch {
    // The child's end says more.
    return '';
  }
}

function ended(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => {
    child.once('exit', (code) => resolve(code));
    child.once('error', () => resolve(null));
  });
}
