/**
 * Who a pid is: the pid with the kernel's start time of the process. A pid alone may be reused by a stranger after a
 * restart; the pair is unique until the machine boots again. Nothing is ever signalled on the strength of a pid alone.
 */
import { readFileSync } from 'node:fs';
import { RuntimeError, systemCode } from './errors.ts';

/** A process that cannot be mistaken for another one of the same boot. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks after boot. */
  readonly startTicks: number;
}

/** The identity of a live pid; undefined when there is no such process or it is a zombie. */
export function identify(pid: number): ProcessIdentity | undefined {
  const fields = statFields(pid);
  if (fields === undefined || fields[0] === 'Z' || fields[0] === 'X') return undefined;
  return { pid, startTicks: Number(fields[19]) };
}

/** True while this very process lives. A zombie counts as dead. */
export function isAlive(identity: ProcessIdentity): boolean {
  return identify(identity.pid)?.startTicks === identity.startTicks;
}

/** Signals this very process. Returns false when it is gone already. */
export function signalProcess(identity: ProcessIdentity, signalName: NodeJS.Signals): boolean {
  if (!isAlive(identity)) return false;
  try {
    process.kill(identity.pid, signalName);
    return true;
  } catch (error) {
    if (systemCode(error) === 'ESRCH') return false;
    throw RuntimeError.from(error, `signal ${signalName} to pid ${identity.pid}`);
  }
}

/** This boot's id: facts from another boot (pids, mounts, namespaces) are void. */
export function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** Fields of /proc/PID/stat from the state on; the command name may hold anything, so it is cut at the last ")". */
function statFields(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw RuntimeError.from(error, `read state of pid ${pid}`);
  }
}
