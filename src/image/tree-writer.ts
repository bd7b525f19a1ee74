/**
 * Writes a tree of files below one directory. Each name is made in an open directory reached by a walk that follows no
 * link, so nothing is ever made, changed or linked outside. Directories on the way are kept open, a bounded number of
 * them. The directory is private to the writer: nobody else works in it.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  futimesSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  symlinkSync,
  unlinkSync,
  write,
  writeSync,
} from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { promisify } from 'node:util';
import { invalid } from '../errors.ts';
import { at, OpenDirectory, openDirectoryAt } from '../fd-walk.ts';
import type { Attributes, Components } from './archive-entry.ts';

const writeAt = promisify(write);
const NEW_FILE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
const DEFAULT_DIRECTORY_MODE = 0o755;
const MAX_SYNC_BYTES = 32 * 1024;
const MAX_OPEN_DIRECTORIES = 64;
/** Times of directories are set last. Above this much memory for them the rest keeps the time of writing. */
const MAX_REMEMBERED_BYTES = 32 * 1024 * 1024;
/** What a remembered directory costs beside its path. */
const REMEMBERED_OVERHEAD_BYTES = 160;
/** Work between two turns of the event loop. */
const TIMES_PER_TURN = 256;

export class TreeWriter implements Disposable {
  readonly #root: OpenDirectory;
  /** Open directories by path, the longest unused first. */
  readonly #open = new Map<string, number>();
  readonly #mtimes = new Map<string, number>();
  #rememberedBytes = 0;
  #directories = 0;

  /** `dir` exists and is empty. */
  constructor(dir: string) {
    this.#root = OpenDirectory.open(dir);
    fchmodSync(this.#root.fd, DEFAULT_DIRECTORY_MODE);
  }

  /** Directories made so far. */
  get directories(): number {
    return this.#directories;
  }

  /** Makes a directory, or gives an existing one these attributes. */
  directory(path: Components, attributes: Attributes): void {
    const fd = this.#walk(path);
    fchownSync(fd, attributes.uid, attributes.gid);
    fchmodSync(fd, attributes.mode);
    this.#remember(path, attributes.mtime);
  }

  /** Makes a file with this content; one that was there before is replaced. */
  async file(path: Components, attributes: Attributes, content: AsyncIterable<Uint8Array>): Promise<number> {
    const place = this.#vacate(path);
    const fd = openSync(place, NEW_FILE, 0o600);
    try {
      let sizeBytes = 0;
      for await (const chunk of content) sizeBytes += await writeAll(fd, chunk);
      // Giving a file away takes its set-user-ID bit, so the mode comes after the owner.
      fchownSync(fd, attributes.uid, attributes.gid);
      fchmodSync(fd, attributes.mode);
      futimesSync(fd, attributes.mtime, attributes.mtime);
      return sizeBytes;
    } finally {
      closeSync(fd);
    }
  }

  /** Makes a symbolic link; its target is text and is not looked at. */
  symlink(path: Components, target: string, attributes: Attributes): void {
    const place = this.#vacate(path);
    symlinkSync(target, place);
    lchownSync(place, attributes.uid, attributes.gid);
    lutimesSync(place, attributes.mtime, attributes.mtime);
  }

  /**
   * Gives a regular file of this tree another name.
   * @throws {RuntimeError} INVALID_ARGUMENT when there is no such file in the tree
   */
  hardlink(path: Components, target: Components): void {
    if (path.join('/') === target.join('/')) return;
    const shown = `hard link ${quoted(path)} to ${quoted(target)}`;
    const source = this.#existing(target);
    const stat = source === undefined ? undefined : lstatSync(source, { throwIfNoEntry: false });
    if (source === undefined || stat === undefined)
      throw invalid('archive', `${shown}: no entry before it has that name`);
    if (!stat.isFile()) throw invalid('archive', `${shown}: only regular files can be linked`);
    const place = this.#vacate(path);
    // The walk to `path` may have closed the directory of `target`.
    linkSync(this.#existing(target) ?? source, place);
  }

  /** Sets the times of directories: due once, after the last entry. */
  async finish(): Promise<void> {
    let count = 0;
    for (const [path, mtime] of this.#mtimes) {
      futimesSync(this.#walk(path === '' ? [] : path.split('/')), mtime, mtime);
      count += 1;
      if (count % TIMES_PER_TURN === 0) await setImmediate();
    }
  }

  [Symbol.dispose](): void {
    for (const fd of this.#open.values()) closeSync(fd);
    this.#open.clear();
    this.#root[Symbol.dispose]();
  }

  /** Where `path` is to be made: its directory is there and its name is free. */
  #vacate(path: Components): string {
    const place = at(this.#walk(path.slice(0, -1)), path.at(-1) ?? '');
    const stat = lstatSync(place, { throwIfNoEntry: false });
    if (stat?.isDirectory()) throw invalid('archive', `entry ${quoted(path)} would replace a directory`);
    if (stat !== undefined) unlinkSync(place);
    return place;
  }

  /** The place of a path whose directories exist; undefined when one is missing or is none. */
  #existing(path: Components): string | undefined {
    const fd = this.#walk(path.slice(0, -1), false);
    return fd === undefined ? undefined : at(fd, path.at(-1) ?? '');
  }

  /** An open directory; it and those above it are made when missing. Valid until the next walk. */
  #walk(path: Components): number;
  #walk(path: Components, make: false): number | undefined;
  #walk(path: Components, make = true): number | undefined {
    const key = path.join('/');
    if (key === '') return this.#root.fd;
    const cached = this.#open.get(key);
    if (cached !== undefined) {
      this.#open.delete(key);
      this.#open.set(key, cached);
      return cached;
    }
    const above = path.slice(0, -1);
    const parent = make ? this.#walk(above) : this.#walk(above, false);
    if (parent === undefined) return undefined;
    const fd = this.#enter(parent, path, make);
    if (fd !== undefined) this.#keep(key, fd);
    return fd;
  }

  #enter(parent: number, path: Components, make: boolean): number | undefined {
    const name = path.at(-1) ?? '';
    const stat = lstatSync(at(parent, name), { throwIfNoEntry: false });
    if (stat === undefined && !make) return undefined;
    if (stat !== undefined && !stat.isDirectory()) {
      throw invalid('archive', `${quoted(path)} is no directory, but an entry needs it to be one`);
    }
    if (stat !== undefined) return openDirectoryAt(parent, name);
    mkdirSync(at(parent, name), DEFAULT_DIRECTORY_MODE);
    this.#directories += 1;
    const fd = openDirectoryAt(parent, name);
    // The process's umask had its say.
    if (fd !== undefined) fchmodSync(fd, DEFAULT_DIRECTORY_MODE);
    return fd;
  }

  #keep(key: string, fd: number): void {
    this.#open.set(key, fd);
    if (this.#open.size <= MAX_OPEN_DIRECTORIES) return;
    const [oldest] = this.#open;
    if (oldest === undefined) return;
    this.#open.delete(oldest[0]);
    closeSync(oldest[1]);
  }

  #remember(path: Components, mtime: number): void {
    const key = path.join('/');
    if (!this.#mtimes.has(key)) this.#rememberedBytes += REMEMBERED_OVERHEAD_BYTES + 2 * key.length;
    if (this.#rememberedBytes <= MAX_REMEMBERED_BYTES) this.#mtimes.set(key, mtime);
  }
}

/** Small pieces are written at once: handing each to another thread takes longer than writing it. */
async function writeAll(fd: number, chunk: Uint8Array): Promise<number> {
  let written = 0;
  while (written < chunk.byteLength) {
    const length = chunk.byteLength - written;
    if (length <= MAX_SYNC_BYTES) written += writeSync(fd, chunk, written, length);
    else written += (await writeAt(fd, chunk, written, length)).bytesWritten;
  }
  return written;
}

function quoted(path: Components): string {
  const text = path.join('/');
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}...` : text);
}
