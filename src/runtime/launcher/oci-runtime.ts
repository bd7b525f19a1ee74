/**
 * Which OCI runtime launches containers here. "auto" prefers crun (its create is quicker) where it takes the host's
 * cgroup layout, and runc otherwise; a name or an absolute path is taken at its word.
 */
import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { invalid, RuntimeError } from '../../errors.ts';
import { HOST_ENV, hostCommand } from '../../host-command.ts';
import { type CgroupLayout, readCgroupLayout } from '../cgroup-layout.ts';

/** A runtime that can be used. */
export interface OciRuntime {
  /** "crun" */
  readonly name: string;
  /** Absolute path of the executable. */
  readonly path: string;
  /** First line of its --version: "crun version 1.8.1". */
  readonly version: string;
  /** Why this one, for people. */
  readonly reason: string;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/;
const VERSION_TIMEOUT_MS = 10_000;
/** Bit of the capability in /proc/PID/status (linux/capability.h). */
const CAP_SYS_RESOURCE = 1n << 24n;

/**
 * The runtime to use.
 * @param requested "auto", a program name ("crun") or an absolute path
 * @throws {RuntimeError} INVALID_ARGUMENT for anything else; NOT_FOUND when it is not installed; FAILED_PRECONDITION
 * when it does not run
 */
export async function selectRuntime(requested: string, signal: AbortSignal): Promise<OciRuntime> {
  if (requested === 'auto') return selectAutomatically(signal);
  const isPath = requested.startsWith('/');
  if (!isPath && !NAME.test(requested)) {
    throw invalid('runtime', `${JSON.stringify(requested)} is neither "auto" nor a program name nor an absolute path`);
  }
  const path = isPath ? requested : findProgram(requested);
  if (path === undefined || !isExecutable(path)) throw new RuntimeError('NOT_FOUND', `runtime ${requested}: not found`);
  return described(path, isPath ? 'its path was given' : 'its name was given', signal);
}

/** Path of a program of the host, if it is installed. */
export function findProgram(name: string): string | undefined {
  return (HOST_ENV['PATH'] ?? '')
    .split(':')
    .map((directory) => join(directory, name))
    .find(isExecutable);
}

/** Why crun would refuse every container on this host; undefined when it would not. */
export function crunObjection(layout: CgroupLayout, mayRaise: boolean = mayRaiseLockedMemory()): string | undefined {
  if (layout.mode === 'none') return 'no cgroup hierarchy is mounted';
  // Device rules of v2 are BPF programs, for which crun lifts the limit on locked memory first.
  if (layout.mode === 'v2' && !mayRaise) return 'cgroups are v2 and the limit on locked memory cannot be raised';
  const unified = layout.hierarchies.find((hierarchy) => hierarchy.kind === 'v2');
  // crun's own rule: with v1 controllers in use the v2 tree must not offer any.
  if (layout.mode !== 'hybrid' || unified === undefined || unified.controllers.length === 0) return undefined;
  return `cgroups are hybrid and the v2 tree offers ${unified.controllers.join(', ')}`;
}

/** Raising a hard limit takes CAP_SYS_RESOURCE, unless there is no limit. */
function mayRaiseLockedMemory(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const hard = /^Max locked memory\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return hard === 'unlimited' || (BigInt(`0x${effective}`) & CAP_SYS_RESOURCE) !== 0n;
}

async function selectAutomatically(signal: AbortSignal): Promise<OciRuntime> {
  const crun = findProgram('crun');
  const runc = findProgram('runc');
  const objection = crunObjection(readCgroupLayout());
  if (crun !== undefined && objection === undefined) {
    return described(crun, 'crun is installed and takes the cgroup layout of this host', signal);
  }
  const whyNotCrun = crun === undefined ? 'crun is not installed' : `crun refuses this host: ${objection}`;
  if (runc !== undefined) return described(runc, whyNotCrun, signal);
  throw new RuntimeError('NOT_FOUND', `no OCI runtime: ${whyNotCrun}, and runc is not installed`);
}

async function described(path: string, reason: string, signal: AbortSignal): Promise<OciRuntime> {
  const options = { timeoutMs: VERSION_TIMEOUT_MS };
  try {
    const said = await hostCommand(path, ['--version'], signal, options);
    return { name: basename(path), path, version: said.split('\n', 1)[0] ?? '', reason };
  } catch (error) {
    if (signal.aborted) throw error;
    throw new RuntimeError('FAILED_PRECONDITION', `runtime ${path}: --version fails`, { cause: error });
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    // Not there, or not for us: either way it cannot be used.
    return false;
  }
}
