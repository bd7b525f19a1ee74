/**
 * Who supervises what: the init process and the conmon of each container this daemon has made or found again. The end
 * of a conmon we spawned is an event. One that was found after a restart is no child of ours, and the kernel offers
 * Node no event for it: those, and containers whose conmon was killed, are looked at once a second. A run that nobody
 * supervises any more ends when its init process is gone, with an unknown code.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { RuntimeError } from '../../errors.ts';
import { isAlive, type ProcessIdentity } from '../../process-identity.ts';
import type { ContainerId } from '../container.ts';
import type { InitProcess } from '../launcher.ts';
import type { ExitFiles } from './exit-files.ts';

const LOOK_INTERVAL_MS = 1000;
/** First and longest pause while a process that was killed leaves. */
const FIRST_PAUSE_MS = 1;
const LONGEST_PAUSE_MS = 50;

/** What is known of one run when it is added. */
export interface Supervised {
  readonly init: InitProcess | undefined;
  readonly conmon: ProcessIdentity | undefined;
  /** Settles when conmon has ended; absent when it is no child of ours. */
  readonly conmonEnded?: Promise<void>;
}

interface Entry extends Supervised {
  /** Settles when the run has ended or was taken away. */
  readonly ended: Promise<void>;
  readonly removal: AbortController;
}

export class Supervision {
  readonly #exits: ExitFiles;
  readonly #log: Logger;
  readonly #entries = new Map<ContainerId, Entry>();
  /** Containers whose end no event will tell. */
  readonly #looked = new Set<ContainerId>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: { readonly exits: ExitFiles; readonly log: Logger }) {
    this.#exits = options.exits;
    this.#log = options.log;
  }

  add(id: ContainerId, supervised: Supervised): void {
    this.remove(id);
    const removal = new AbortController();
    const settle = (): void => undefined;
    const ended = this.#exits.next(id, removal.signal).then(settle, settle);
    this.#entries.set(id, { ...supervised, ended, removal });
    if (supervised.conmonEnded === undefined) this.#look(id);
    else void supervised.conmonEnded.then(() => this.#look(id));
  }

  find(id: ContainerId): Entry | undefined {
    return this.#entries.get(id);
  }

  /** @throws {RuntimeError} NOT_FOUND for ids that have no run */
  get(id: ContainerId): Entry {
    const entry = this.#entries.get(id);
    if (entry === undefined) throw new RuntimeError('NOT_FOUND', `container ${id} has no process`);
    return entry;
  }

  remove(id: ContainerId): void {
    this.#entries.get(id)?.removal.abort();
    this.#entries.delete(id);
    this.#looked.delete(id);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    for (const { removal } of this.#entries.values()) removal.abort();
  }

  /** Settles when a process has ended; the caller has killed it. */
  async gone(identity: ProcessIdentity, signal: AbortSignal): Promise<void> {
    for (let pauseMs = FIRST_PAUSE_MS; isAlive(identity); pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
      await sleep(pauseMs, undefined, { signal });
    }
  }

  /** Settles when the container's conmon has ended, as it does by itself once the container is gone. */
  async conmonGone(id: ContainerId, signal: AbortSignal): Promise<void> {
    const conmon = this.#entries.get(id)?.conmon;
    if (conmon !== undefined) await this.gone(conmon, signal);
  }

  /** Looks at a container that no event tells about, now and from now on. */
  #look(id: ContainerId): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#exits.check(id);
    if (this.#isOver(id, entry)) {
      this.#looked.delete(id);
      return;
    }
    this.#looked.add(id);
    this.#timer ??= setInterval(() => this.#lookAtAll(), LOOK_INTERVAL_MS).unref();
  }

  #lookAtAll(): void {
    for (const id of this.#looked) this.#look(id);
    if (this.#looked.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** True when the end of the run is on file; writes it there when nobody else is left to do so. */
  #isOver(id: ContainerId, { conmon, init }: Entry): boolean {
    const isSupervised = conmon !== undefined && isAlive(conmon);
    const lives = init !== undefined && isAlive(init);
    // Asked last: conmon writes the file before it ends.
    if (this.#exits.read(id) !== undefined) return true;
    if (isSupervised || lives) return false;
    this.#log.warn({ containerId: id }, 'the supervisor was killed: the exit code is lost');
    this.#exits.writeUnknown(id);
    return true;
  }
}
