/**
 * The log of one container: opened for conmon, read back, followed. The file is never reached through a link (conmon
 * itself would follow one), and a reader keeps it open, so that it gets everything though the log is removed meanwhile.
 */
import { constants, type FSWatcher, watch } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { RuntimeError, systemCode } from '../../errors.ts';
import type { LogOptions, OutputChunk } from '../launcher.ts';
import { type LogEntry, LogParser } from './log-parser.ts';

const BUFFER_BYTES = 64 * 1024;
const LINE_FEED = 0x0a;
/** How long an opened log waits for its reader after the run has ended. */
const UNREAD_TIMEOUT_MS = 60_000;

/**
 * Makes the log where it is not there yet. Output of earlier runs stays; an entry that was cut off is closed.
 * @throws {RuntimeError} FAILED_PRECONDITION when something else lies in its place: a link, a device, a directory
 */
export async function prepareLog(path: string): Promise<void> {
  const { O_RDWR, O_CREAT, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = constants;
  const file = await openPlain(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK);
  try {
    const { size } = await file.stat();
    if (size === 0) return;
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, size - 1);
    if (buffer[0] !== LINE_FEED) await file.write('\n');
  } finally {
    await file.close();
  }
}

/** A log opened for reading. */
export class ContainerLog {
  readonly #file: FileHandle;
  readonly #path: string;

  private constructor(file: FileHandle, path: string) {
    this.#file = file;
    this.#path = path;
  }

  /** @throws {RuntimeError} NOT_FOUND when there is none; FAILED_PRECONDITION as {@link prepareLog} */
  static async open(path: string): Promise<ContainerLog> {
    const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
    return new ContainerLog(await openPlain(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK), path);
  }

  /**
   * Gives out what is wanted, then closes the file. With `ended` it goes on until that settles and the rest is read.
   * The iteration throws the signal's reason when it aborts. An iteration nobody begins is given up a minute after the
   * end, or at the abort.
   */
  read(options: LogOptions, ended: Promise<void> | undefined, signal: AbortSignal): AsyncIterable<OutputChunk> {
    // Watching begins now, not at the first step of the iteration.
    const change = ended === undefined ? undefined : new Change(this.#path, ended, signal);
    let isBegun = false;
    const giveUp = (): void => {
      if (isBegun) return;
      isBegun = true;
      change?.close();
      this.#closeQuietly();
    };
    signal.addEventListener('abort', giveUp, { once: true });
    const giveUpLater = (): void => {
      if (!isBegun) setTimeout(giveUp, UNREAD_TIMEOUT_MS).unref();
    };
    (ended ?? Promise.resolve()).then(giveUpLater, giveUpLater);
    return {
      [Symbol.asyncIterator]: () => {
        signal.removeEventListener('abort', giveUp);
        if (isBegun) throw new RuntimeError('FAILED_PRECONDITION', `log ${this.#path}: was read or given up already`);
        isBegun = true;
        return this.#chunks(options, change, signal);
      },
    };
  }

  #closeQuietly(): void {
    // The file was only read: closing it cannot lose anything.
    this.#file.close().catch(() => undefined);
  }

  async *#chunks(options: LogOptions, change: Change | undefined, signal: AbortSignal): AsyncGenerator<OutputChunk> {
    try {
      let offset = options.tailLines === undefined ? 0 : await this.#tailOffset(options.tailLines, signal);
      const parser = new LogParser();
      const buffer = Buffer.allocUnsafe(BUFFER_BYTES);
      for (;;) {
        signal.throwIfAborted();
        // Asked before reading: what was written before the end is read after it.
        const isLast = change === undefined || change.hasEnded;
        const bytesRead = await this.#fill(buffer, offset);
        offset += bytesRead;
        yield* merged(parser.push(buffer.subarray(0, bytesRead)), options.since);
        if (bytesRead > 0) continue;
        if (isLast) return;
        await change?.next();
      }
    } finally {
      change?.close();
      await this.#file.close();
    }
  }

  /** Where the last so many lines begin; a line is what one stream wrote up to a line feed. */
  async #tailOffset(lines: number, signal: AbortSignal): Promise<number> {
    const starts: number[] = [];
    const isMidLine = { stdout: false, stderr: false };
    const parser = new LogParser();
    const buffer = Buffer.allocUnsafe(BUFFER_BYTES);
    for (let size = 0; ; ) {
      signal.throwIfAborted();
      const bytesRead = await this.#fill(buffer, size);
      if (bytesRead === 0) return starts[0] ?? size;
      size += bytesRead;
      for (const entry of parser.push(buffer.subarray(0, bytesRead))) {
        if (!isMidLine[entry.stream]) starts.push(entry.offset);
        if (starts.length > lines) starts.shift();
        isMidLine[entry.stream] = !entry.endsLine;
      }
    }
  }

  async #fill(buffer: Buffer, offset: number): Promise<number> {
    const { bytesRead } = await this.#file.read(buffer, 0, buffer.length, offset);
    return bytesRead;
  }
}

/** Tells when there may be more to read. */
class Change {
  hasEnded = false;
  #watcher: FSWatcher | undefined;
  #waiting = Promise.withResolvers<void>();
  readonly #signal: AbortSignal;
  readonly #wake: () => void;

  constructor(path: string, ended: Promise<void>, signal: AbortSignal) {
    this.#signal = signal;
    this.#wake = (): void => this.#waiting.resolve();
    this.#watcher = watch(path, this.#wake);
    this.#watcher.on('error', this.#wake);
    signal.addEventListener('abort', this.#wake, { once: true });
    const finish = (): void => {
      this.hasEnded = true;
      this.#wake();
    };
    ended.then(finish, finish);
  }

  /** Settles at the next change since it settled last. */
  async next(): Promise<void> {
    await this.#waiting.promise;
    this.#waiting = Promise.withResolvers<void>();
  }

  close(): void {
    this.#signal.removeEventListener('abort', this.#wake);
    this.#watcher?.close();
    this.#watcher = undefined;
  }
}

/** Entries as chunks: neighbours of one stream and one instant, which conmon read in one piece, become one chunk. */
function* merged(entries: Iterable<LogEntry>, since: string | undefined): Generator<OutputChunk> {
  let pending: LogEntry[] = [];
  for (const entry of entries) {
    if (since !== undefined && isBefore(entry.at, since)) continue;
    const [first] = pending;
    if (first !== undefined && (first.stream !== entry.stream || first.at !== entry.at)) {
      yield chunkOf(first, pending);
      pending = [];
    }
    pending.push(entry);
  }
  const [first] = pending;
  if (first !== undefined) yield chunkOf(first, pending);
}

function chunkOf({ stream, at }: LogEntry, entries: readonly LogEntry[]): OutputChunk {
  return { stream, at, data: Buffer.concat(entries.map((entry) => entry.data)) };
}

/** conmon writes local time with an offset; an instant that cannot be read is kept rather than lost. */
function isBefore(at: string, since: string): boolean {
  return Date.parse(at) < Date.parse(since);
}

async function openPlain(path: string, flags: number): Promise<FileHandle> {
  let file: FileHandle;
  try {
    file = await open(path, flags, 0o600);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') throw new RuntimeError('NOT_FOUND', `log ${path} does not exist`);
    if (systemCode(error) === 'ELOOP') throw notPlain(path, 'is a symbolic link', error);
    throw RuntimeError.from(error, `open log ${path}`);
  }
  const stats = await file.stat();
  if (stats.isFile() && stats.nlink <= 1) return file;
  await file.close();
  throw notPlain(path, stats.isFile() ? 'has a second name' : 'is no regular file', undefined);
}

function notPlain(path: string, what: string, cause: unknown): RuntimeError {
  return new RuntimeError('FAILED_PRECONDITION', `log ${path} ${what}: refused, remove it first`, { cause });
}
