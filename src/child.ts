/** A process that was started, as far as those who run programs care; Node's ChildProcess is one. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';

/** What each of its first descriptors is. "pipe": a stream of ours. */
export type ChildStdio = readonly ('ignore' | 'pipe')[];

export interface ChildOptions {
  /** The whole environment; its PATH is searched for names without a slash. */
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly stdio: ChildStdio;
}

export interface Child {
  /** Undefined when it could not be started: "error" says why. */
  readonly pid?: number | undefined;
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  readonly stdio: readonly (Readable | Writable | null | undefined)[];
  once(event: 'error', listener: (error: Error) => void): unknown;
  /** "close" follows "exit" when its streams have ended as well. */
  once(
    event: 'exit' | 'close',
    listener: (exitCode: number | null, signalName: NodeJS.Signals | null) => void,
  ): unknown;
  /** Lets this process end while the child goes on. */
  unref(): void;
}

/** Starts a program in a session of its own. Some failures are thrown, others are an event. */
export type SpawnChild = (file: string, args: readonly string[], options: ChildOptions) => Child;

/** By Node: it copies the page tables of this process and stops it meanwhile. */
export const spawnByNode: SpawnChild = (file, args, { env, cwd, stdio }): ChildProcess =>
  spawn(file, args, { env, cwd, detached: true, stdio: [...stdio] });
