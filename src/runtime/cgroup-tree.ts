/**
 * The cgroups of containers as directories and processes: which exist, who is in them, how all of them end, how the
 * directories go. Works on every hierarchy at once, since a runtime puts a container into all of them. Limits and
 * usage are elsewhere (isolators/cgroups.ts, cgroup-usage.ts).
 *
 *   <hierarchy>/<parent>/<container id>[/...]
 */
import { readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gathered, RuntimeError, systemCode } from '../errors.ts';
import { identify, signalProcess } from '../process-identity.ts';
import { type CgroupHierarchy, readCgroupLayout } from './cgroup-layout.ts';

const PARENT = /^[A-Za-z0-9_][A-Za-z0-9_.-]*(\/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$/;
const CONTAINER_ID = /^[0-9a-f]{32}$/;
/** First and longest pause between two looks at processes that are about to end. */
const FIRST_PAUSE_MS = 1;
const LONGEST_PAUSE_MS = 50;
/** How often a directory that is still busy is tried again: a process leaves its cgroup shortly after it was reaped. */
const REMOVAL_ATTEMPTS = 50;
/** Freezing that takes longer is given up; killing works without it too. */
const FREEZE_ATTEMPTS = 10;

/** All cgroups below one parent ("berth"). */
export class CgroupTree {
  readonly #parent: string;

  /** @throws {RuntimeError} INVALID_ARGUMENT when the parent is no plain relative path: runtimes do not confine it */
  constructor(options: { readonly parent: string }) {
    if (!PARENT.test(options.parent)) {
      throw new RuntimeError('INVALID_ARGUMENT', `cgroup parent ${JSON.stringify(options.parent)} is no relative path`);
    }
    this.#parent = options.parent;
  }

  /** Path of a container's cgroup below each hierarchy: "/berth/ID". */
  pathOf(id: string): string {
    return `/${this.#parent}/${id}`;
  }

  /** Containers that have a directory in any hierarchy, with or without processes. */
  ids(): Set<string> {
    const names = readCgroupLayout().hierarchies.flatMap(({ mountPoint }) =>
      subdirectories(join(mountPoint, this.#parent)),
    );
    return new Set(names.filter((name) => CONTAINER_ID.test(name)));
  }

  /** Pids in a container's cgroups, each once, whatever hierarchy or nested cgroup holds them. */
  pids(id: string): number[] {
    const found = this.#directories(id).flatMap(({ path }) => descendants(path).flatMap(pidsIn));
    return [...new Set(found)];
  }

  /**
   * Kills until no process is left. `cgroup.kill` ends them in one step where a v2 tree is; the v1 freezer pins them
   * (a frozen process cannot exit, so its pid cannot be reused) while each is signalled.
   * @throws the signal's reason when it aborts before the last one is gone
   */
  async kill(id: string, signal: AbortSignal): Promise<void> {
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
      if (this.pids(id).length === 0) return;
      signal.throwIfAborted();
      this.#killUnified(id);
      // Most end at once; the freezer is for those that fork faster than they are killed.
      await sleep(pauseMs, undefined, { signal });
      if (pauseMs > FIRST_PAUSE_MS) await this.#killFrozen(id, signal);
    }
  }

  /** Settles when no process is left; kills nothing. */
  async waitUntilEmpty(id: string, timeoutMs: number, signal: AbortSignal): Promise<boolean> {
    const endMs = performance.now() + timeoutMs;
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
      if (this.pids(id).length === 0) return true;
      if (performance.now() > endMs) return false;
      await sleep(pauseMs, undefined, { signal });
    }
  }

  /**
   * Removes a container's directories from every hierarchy. Idempotent.
   * @throws {RuntimeError} UNAVAILABLE when one is still in use
   */
  async remove(id: string, signal: AbortSignal): Promise<void> {
    const failures: unknown[] = [];
    for (const directory of this.#directories(id)) {
      try {
        await removeDirectory(directory, signal);
      } catch (error) {
        failures.push(RuntimeError.from(error, `remove cgroup ${directory.path}`));
      }
    }
    const failure = gathered(failures, `remove cgroups of container ${id}`);
    if (failure !== undefined) throw failure;
  }

  #directories(id: string): CgroupDirectory[] {
    if (!CONTAINER_ID.test(id)) throw new RuntimeError('INVALID_ARGUMENT', `${JSON.stringify(id)} is no container id`);
    return readCgroupLayout().hierarchies.flatMap((hierarchy): CgroupDirectory[] => {
      const path = join(hierarchy.mountPoint, this.#parent, id);
      return exists(path) ? [{ path, hierarchy }] : [];
    });
  }

  #killUnified(id: string): void {
    for (const { path, hierarchy } of this.#directories(id)) {
      if (hierarchy.kind === 'v2') writeIfThere(join(path, 'cgroup.kill'), '1');
    }
  }

  async #killFrozen(id: string, signal: AbortSignal): Promise<void> {
    const directories = this.#directories(id);
    const freezer = directories.find(({ hierarchy }) => hierarchy.controllers.includes('freezer'))?.path;
    if (freezer !== undefined) await freeze(freezer, signal);
    try {
      for (const { path } of directories) for (const cgroup of descendants(path)) killIn(cgroup);
    } finally {
      if (freezer !== undefined) writeIfThere(join(freezer, 'freezer.state'), 'THAWED');
    }
  }
}

interface CgroupDirectory {
  readonly path: string;
  readonly hierarchy: CgroupHierarchy;
}

/** Signals everything in one cgroup. Who is signalled was identified first and seen in the cgroup after that. */
function killIn(cgroup: string): void {
  const seen = pidsIn(cgroup).flatMap((pid) => identify(pid) ?? []);
  const still = new Set(pidsIn(cgroup));
  for (const identity of seen) if (still.has(identity.pid)) signalProcess(identity, 'SIGKILL');
}

async function freeze(path: string, signal: AbortSignal): Promise<void> {
  const state = join(path, 'freezer.state');
  for (let attempt = 0; attempt < FREEZE_ATTEMPTS; attempt += 1) {
    if (!writeIfThere(state, 'FROZEN') || readIfThere(state).trim() === 'FROZEN') return;
    await sleep(FIRST_PAUSE_MS, undefined, { signal });
  }
}

async function removeDirectory({ path, hierarchy }: CgroupDirectory, signal: AbortSignal): Promise<void> {
  if (hierarchy.kind === 'plain') {
    rmSync(path, { recursive: true, force: true });
    return;
  }
  for (const cgroup of descendants(path).reverse()) {
    for (let attempt = 1; !removed(cgroup, attempt); attempt += 1) {
      await sleep(Math.min(attempt, LONGEST_PAUSE_MS), undefined, { signal });
    }
  }
}

/** False while the cgroup is busy; the last attempt throws instead. */
function removed(cgroup: string, attempt: number): boolean {
  try {
    rmdirSync(cgroup);
    return true;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return true;
    if (systemCode(error) !== 'EBUSY' || attempt >= REMOVAL_ATTEMPTS) throw error;
    return false;
  }
}

/** A cgroup and all below it, parents first. */
function descendants(path: string): string[] {
  return [path, ...subdirectories(path).flatMap((name) => descendants(join(path, name)))];
}

function pidsIn(cgroup: string): number[] {
  return readIfThere(join(cgroup, 'cgroup.procs'))
    .split('\n')
    .flatMap((line) => (line === '' ? [] : [Number(line)]))
    .filter((pid) => pid > 0);
}

function subdirectories(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

function exists(path: string): boolean {
  try {
    readdirSync(path);
    return true;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isGone(error)) return '';
    throw error;
  }
}

function writeIfThere(path: string, text: string): boolean {
  try {
    writeFileSync(path, text, { flag: 'r+' });
    return true;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

/** ENODEV: the cgroup was removed while its file was open. */
function isGone(error: unknown): boolean {
  return ['ENOENT', 'ENODEV', 'ENOTDIR'].includes(systemCode(error) ?? '');
}
