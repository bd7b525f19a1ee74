/**
 * Resource limits of a container's process. Without this it would inherit berthd's, and Node raises its own open-file
 * limit to the maximum: programs that loop over all possible descriptors become slow.
 */
import { readFileSync } from 'node:fs';
import type { Contribution, Isolator } from '../isolator.ts';

/** As docker gives since its units stopped raising the limit: select() works, those who need more may raise it. */
const SOFT_OPEN_FILES = 1024;
const HARD_OPEN_FILES = 524_288;

/** Contributes limits, clamped to what this host lets berthd hand on. Holds nothing. */
export class RlimitsIsolator implements Isolator {
  readonly name = 'posix/rlimits';

  async recover(): Promise<void> {
    // Nothing outlives a run.
  }

  async prepare(): Promise<Contribution> {
    // Raising a limit above the current hard one takes CAP_SYS_RESOURCE, which berthd may lack.
    const hard = Math.min(HARD_OPEN_FILES, hardOpenFiles());
    return { rlimits: [{ type: 'RLIMIT_NOFILE', soft: Math.min(SOFT_OPEN_FILES, hard), hard }] };
  }

  async cleanup(): Promise<void> {
    // Nothing was taken.
  }
}

function hardOpenFiles(): number {
  const line = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
  const value = Number(line?.[1]);
  return Number.isSafeInteger(value) ? value : Number.POSITIVE_INFINITY;
}
