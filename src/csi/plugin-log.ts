/**
 * What a plugin that Berth runs as a process wrote: two files of bounded size. The plugin holds the newer one open for
 * appending, also while no daemon runs, so that one is copied and cut rather than renamed.
 *
 *   NAME.log      the newer part, O_APPEND
 *   NAME.log.1    the part before it
 */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError, systemCode } from '../errors.ts';
import type { LogOptions } from '../runtime/launcher.ts';

const MAX_BYTES = 8 * 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;
const LOOK_MS = 200;
const LF = 0x0a;

/** The log of one plugin. */
export class PluginLog {
  readonly #path: string;
  readonly #maxBytes: number;

  /** @param path of the newer file; its directory is there */
  constructor(path: string, maxBytes: number = MAX_BYTES) {
    this.#path = path;
    this.#maxBytes = maxBytes;
  }

  /** A descriptor to append to; the caller closes it. */
  open(): number {
    const { O_APPEND, O_CREAT, O_WRONLY, O_NOFOLLOW } = constants;
    try {
      return openSync(this.#path, O_APPEND | O_CREAT | O_WRONLY | O_NOFOLLOW, 0o600);
    } catch (error) {
      throw RuntimeError.from(error, `open log ${this.#path}`);
    }
  }

  /**
   * Cuts the newer file when it is too long. Of one that grew far beyond, while no daemon cut it, only the end is kept.
   * What is written between copy and cut is lost.
   */
  rotate(): void {
    if ((statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0) <= this.#maxBytes) return;
    const { O_CREAT, O_WRONLY, O_TRUNC, O_NOFOLLOW } = constants;
    const end = this.#endOf(this.#path);
    const fd = openSync(`${this.#path}.1`, O_CREAT | O_WRONLY | O_TRUNC | O_NOFOLLOW, 0o600);
    try {
      writeFileSync(fd, end);
    } finally {
      closeSync(fd);
    }
    truncateSync(this.#path);
  }

  remove(): void {
    for (const path of [this.#path, `${this.#path}.1`]) {
      try {
        unlinkSync(path);
      } catch (error) {
        if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove log ${path}`);
      }
    }
  }

  /** What was written, in pieces of any length; with `follow` until the signal aborts or the log is removed. */
  async *read({ follow, tailLines }: Omit<LogOptions, 'since'>, signal: AbortSignal): AsyncGenerator<Buffer> {
    const fd = openIfThere(this.#path);
    if (fd === undefined) return;
    try {
      const end = fstatSync(fd).size;
      const all = Buffer.concat([this.#endOf(`${this.#path}.1`), bytesOf(fd, this.#startOfEnd(end), end)]);
      const wanted = tailLines === undefined ? all : all.subarray(startOfTail(all, tailLines));
      for (let from = 0; from < wanted.length; from += CHUNK_BYTES) yield wanted.subarray(from, from + CHUNK_BYTES);
      if (follow) yield* grown(fd, end, signal);
    } finally {
      closeSync(fd);
    }
  }

  /** What is kept of a file; empty when it is not there. */
  #endOf(path: string): Buffer {
    const fd = openIfThere(path);
    if (fd === undefined) return Buffer.alloc(0);
    try {
      const { size } = fstatSync(fd);
      return bytesOf(fd, this.#startOfEnd(size), size);
    } finally {
      closeSync(fd);
    }
  }

  /** Twice the bound: a file is looked at from time to time, and may be longer than the bound by then. */
  #startOfEnd(size: number): number {
    return Math.max(0, size - 2 * this.#maxBytes);
  }
}

/** What is appended from `from` on, until the signal aborts or the file has lost its name. */
async function* grown(fd: number, from: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  let position = from;
  while (!signal.aborted) {
    const { size, nlink } = fstatSync(fd);
    if (size < position) position = 0;
    if (size > position) {
      const chunk = bytesOf(fd, position, Math.min(size, position + CHUNK_BYTES));
      position += chunk.length;
      yield chunk;
    } else if (nlink === 0 || !(await pause(signal))) return;
  }
}

/** Where the last `lines` lines begin; a last line without line feed counts. */
function startOfTail(text: Buffer, lines: number): number {
  if (lines === 0) return text.length;
  let position = text.length - (text.at(-1) === LF ? 1 : 0);
  for (let left = lines; left > 0; left -= 1) {
    position = position <= 0 ? -1 : text.lastIndexOf(LF, position - 1);
    if (position < 0) return 0;
  }
  return position + 1;
}

function bytesOf(fd: number, from: number, to: number): Buffer {
  const buffer = Buffer.alloc(Math.max(0, to - from));
  let filled = 0;
  while (filled < buffer.length) {
    const count = readSync(fd, buffer, filled, buffer.length - filled, from + filled);
    if (count === 0) break;
    filled += count;
  }
  return buffer.subarray(0, filled);
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw RuntimeError.from(error, `open log ${path}`);
  }
}

async function pause(signal: AbortSignal): Promise<boolean> {
  try {
    await sleep(LOOK_MS, undefined, { signal });
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  }
}
