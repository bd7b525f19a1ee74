/**
 * Starts programs by posix_spawn(3) of the C library (node:ffi). The new process shares the memory of this one until it
 * becomes the program, so that nothing is copied: a tenth of what Node's way costs, which is a fork.
 *
 *   descriptors   only those asked for; all others close with exec(2), as Node opens them
 *   signals       all at their defaults, none blocked, as Node does it
 *   exit          SIGCHLD, then waitpid(2) for each process started here and for no other
 */
import { EventEmitter } from 'node:events';
import { accessSync, constants, statSync } from 'node:fs';
import { Socket } from 'node:net';
import { constants as osConstants } from 'node:os';
import { isAbsolute, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { getSystemErrorName } from 'node:util';
import type { Child, ChildOptions, SpawnChild } from './child.ts';

/** The C library by the name it has with glibc. */
const LIBRARY = 'libc.so.6';
/** Larger than posix_spawnattr_t, posix_spawn_file_actions_t and sigset_t are on any machine. */
const STRUCT_BYTES = 1024;
/** Flags of spawn.h. */
const SETSIGDEF = 0x04;
const SETSIGMASK = 0x08;
const SETSID = 0x80;
const O_CLOEXEC = 0o200_0000;
const WNOHANG = 1;
const POINTER_BYTES = 8;

const SIGNAL_NAMES: ReadonlyMap<number, NodeJS.Signals> = new Map(
  Object.entries(osConstants.signals).map(([name, number]) => [number, name as NodeJS.Signals]),
);

/** @throws when this Node cannot call the C library */
export async function posixSpawner(): Promise<SpawnChild> {
  const library = await loadLibrary();
  const children = new Children(library);
  return (file, args, options) => children.start(file, args, options);
}

type Library = Awaited<ReturnType<typeof loadLibrary>>;

/** The functions that are needed, and the attributes that all children have. Each returns an error number or 0. */
async function loadLibrary() {
  const { dlopen, getRawPointer } = await import('node:ffi');
  const { functions: c } = dlopen(LIBRARY, {
    pipe2: { arguments: ['buffer', 'int32'], return: 'int32' },
    close: { arguments: ['int32'], return: 'int32' },
    waitpid: { arguments: ['int32', 'buffer', 'int32'], return: 'int32' },
    posix_spawn: { arguments: ['buffer', 'string', 'buffer', 'buffer', 'buffer', 'buffer'], return: 'int32' },
    posix_spawnattr_init: { arguments: ['buffer'], return: 'int32' },
    posix_spawnattr_setflags: { arguments: ['buffer', 'int16'], return: 'int32' },
    posix_spawnattr_setsigdefault: { arguments: ['buffer', 'buffer'], return: 'int32' },
    posix_spawnattr_setsigmask: { arguments: ['buffer', 'buffer'], return: 'int32' },
    posix_spawn_file_actions_init: { arguments: ['buffer'], return: 'int32' },
    posix_spawn_file_actions_destroy: { arguments: ['buffer'], return: 'int32' },
    posix_spawn_file_actions_adddup2: { arguments: ['buffer', 'int32', 'int32'], return: 'int32' },
    posix_spawn_file_actions_addopen: { arguments: ['buffer', 'int32', 'string', 'int32', 'uint32'], return: 'int32' },
    posix_spawn_file_actions_addchdir_np: { arguments: ['buffer', 'string'], return: 'int32' },
  });
  const attributes = Buffer.alloc(STRUCT_BYTES);
  c.posix_spawnattr_init(attributes);
  c.posix_spawnattr_setflags(attributes, SETSIGDEF | SETSIGMASK | SETSID);
  // A set has a bit for each signal. sigfillset(3) would leave out the library's own two, which it then has ignored.
  c.posix_spawnattr_setsigdefault(attributes, Buffer.alloc(STRUCT_BYTES, 0xff));
  c.posix_spawnattr_setsigmask(attributes, Buffer.alloc(STRUCT_BYTES));
  return { c, attributes, address: (buffer: Buffer): bigint => getRawPointer(buffer) };
}

/** The processes started here that have not been waited for. */
class Children {
  readonly #library: Library;
  readonly #alive = new Map<number, SpawnedChild>();

  constructor(library: Library) {
    this.#library = library;
    process.on('SIGCHLD', () => this.#reap());
  }

  start(file: string, args: readonly string[], options: ChildOptions): Child {
    const { c, attributes } = this.#library;
    const env = Object.entries(options.env).map(([name, value]) => `${name}=${value}`);
    // The C library would take what is before it for all of the word.
    if ([file, options.cwd, ...args, ...env].some((word) => word.includes('\0'))) {
      throw failure('ERR_INVALID_ARG_VALUE', JSON.stringify(file));
    }
    const path = executable(file, options.env['PATH'] ?? '');
    if (path === undefined) throw failure('ENOENT', file);
    const ends: PipeEnds[] = [];
    const actions = Buffer.alloc(STRUCT_BYTES);
    c.posix_spawn_file_actions_init(actions);
    try {
      const pipes = options.stdio.map((kind, fd) => {
        if (kind === 'ignore') {
          c.posix_spawn_file_actions_addopen(actions, fd, '/dev/null', constants.O_RDWR, 0);
          return undefined;
        }
        const pipe = this.#pipe(file, fd === 0);
        ends.push(pipe);
        c.posix_spawn_file_actions_adddup2(actions, pipe.theirs, fd);
        return pipe;
      });
      c.posix_spawn_file_actions_addchdir_np(actions, options.cwd);
      const pid = Buffer.alloc(4);
      const argv = this.#vector([file, ...args]);
      const envp = this.#vector(env);
      const errno = c.posix_spawn(pid, path, actions, attributes, argv, envp);
      if (errno !== 0) throw failure(getSystemErrorName(-errno), file);
      for (const { theirs } of ends) c.close(theirs);
      return this.#follow(pid.readInt32LE(0), pipes);
    } catch (error) {
      for (const { ours, theirs } of ends) for (const fd of [ours, theirs]) c.close(fd);
      throw error;
    } finally {
      c.posix_spawn_file_actions_destroy(actions);
    }
  }

  #follow(pid: number, pipes: readonly (PipeEnds | undefined)[]): SpawnedChild {
    const child = new SpawnedChild(
      pid,
      pipes.map((pipe, fd) => {
        if (pipe === undefined) return null;
        return new Socket({ fd: pipe.ours, readable: fd !== 0, writable: fd === 0 });
      }),
    );
    this.#alive.set(pid, child);
    // It may have ended before it was known here.
    setImmediate(() => this.#reap());
    return child;
  }

  /** SIGCHLD says only that some have ended. */
  #reap(): void {
    const status = Buffer.alloc(4);
    for (const [pid, child] of this.#alive) {
      if (this.#library.c.waitpid(pid, status, WNOHANG) !== pid) continue;
      this.#alive.delete(pid);
      const word = status.readInt32LE(0);
      const signal = word & 0x7f;
      if (signal === 0) child.ended((word >> 8) & 0xff, null);
      else child.ended(null, SIGNAL_NAMES.get(signal) ?? 'SIGKILL');
    }
  }

  #pipe(file: string, isInput: boolean): PipeEnds {
    const fds = Buffer.alloc(8);
    if (this.#library.c.pipe2(fds, O_CLOEXEC) !== 0) throw failure('EMFILE', file);
    const [read, write] = [fds.readInt32LE(0), fds.readInt32LE(4)];
    return isInput ? { ours: write, theirs: read } : { ours: read, theirs: write };
  }

  /** A NULL-terminated array of pointers with the strings they point to behind it, in one piece of memory. */
  #vector(words: readonly string[]): Buffer {
    const texts = words.map((word) => Buffer.from(`${word}\0`));
    const head = (words.length + 1) * POINTER_BYTES;
    const memory = Buffer.alloc(head + texts.reduce((bytes, { length }) => bytes + length, 0));
    const base = this.#library.address(memory);
    let at = head;
    for (const [index, text] of texts.entries()) {
      memory.writeBigUInt64LE(base + BigInt(at), index * POINTER_BYTES);
      at += text.copy(memory, at);
    }
    return memory;
  }
}

interface PipeEnds {
  readonly ours: number;
  readonly theirs: number;
}

class SpawnedChild extends EventEmitter implements Child {
  readonly pid: number;
  readonly stdio: readonly (Socket | null)[];
  #open: number;
  #end: [number | null, NodeJS.Signals | null] | undefined;

  constructor(pid: number, stdio: readonly (Socket | null)[]) {
    super();
    this.pid = pid;
    this.stdio = stdio;
    this.#open = 0;
    for (const stream of stdio) {
      if (stream === null) continue;
      this.#open += 1;
      stream.once('close', () => {
        this.#open -= 1;
        this.#settle();
      });
    }
  }

  get stdin(): Writable | null {
    return this.stdio[0] ?? null;
  }

  get stdout(): Readable | null {
    return this.stdio[1] ?? null;
  }

  get stderr(): Readable | null {
    return this.stdio[2] ?? null;
  }

  /** Nothing of it keeps this process running but its streams. */
  unref(): void {
    for (const stream of this.stdio) stream?.unref();
  }

  ended(exitCode: number | null, signalName: NodeJS.Signals | null): void {
    this.#end = [exitCode, signalName];
    // Nobody reads what is written to it now.
    this.stdio[0]?.destroy();
    this.emit('exit', exitCode, signalName);
    this.#settle();
  }

  #settle(): void {
    if (this.#end !== undefined && this.#open === 0) this.emit('close', ...this.#end);
  }
}

/** Where a program is. Names without a slash are looked for in the directories of `path`. */
function executable(file: string, path: string): string | undefined {
  if (file.includes('/')) return file;
  return path
    .split(':')
    .filter((dir) => isAbsolute(dir))
    .map((dir) => join(dir, file))
    .find(isExecutable);
}

function isExecutable(path: string): boolean {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) return false;
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    // The search goes on, as that of a shell does.
    return false;
  }
}

function failure(code: string, file: string): Error {
  return Object.assign(new Error(`spawn ${file} ${code}`), { code });
}
