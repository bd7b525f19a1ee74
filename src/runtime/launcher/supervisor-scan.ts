/**
 * Processes that belong to a container by their command line: conmon, and an OCI runtime in the middle of create. Read
 * from /proc of all processes, so this is for recovery and for half-made containers only.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { systemCode } from '../../errors.ts';
import { identify, type ProcessIdentity } from '../../process-identity.ts';
import type { ContainerId } from '../container.ts';

/** Who works on one container. */
export interface Supervisors {
  /** Its conmon; several only when one was spawned by a daemon that died and another after it. */
  readonly conmons: readonly ProcessIdentity[];
  /** Everything else that names the bundle: the runtime's create, and the init process before its exec. */
  readonly others: readonly ProcessIdentity[];
}

/** Processes that name a bundle below `bundles` ("RUN/bundles") as one of their arguments, by container id. */
export function findSupervisors(bundles: string): Map<ContainerId, Supervisors> {
  const found = new Map<ContainerId, { conmons: ProcessIdentity[]; others: ProcessIdentity[] }>();
  for (const name of readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(name) || Number(name) === process.pid) continue;
    const argv = commandLine(name);
    const bundle = argv.find((argument) => argument.startsWith(`${bundles}/`) && !argument.endsWith('/pidfile'));
    const identity = bundle === undefined ? undefined : identify(Number(name));
    if (bundle === undefined || identity === undefined) continue;
    const id = basename(bundle);
    const entry = found.get(id) ?? { conmons: [], others: [] };
    const isConmon = basename(argv[0] ?? '') === 'conmon' || argv.includes('--exit-dir');
    (isConmon ? entry.conmons : entry.others).push(identity);
    found.set(id, entry);
  }
  return found;
}

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ESRCH') return [];
    throw error;
  }
}
