/**
 * The system call filter of a container: Berth's own profile, one from a file of the host, or none for "unconfined".
 * A profile that is missing or broken refuses the container; it never means "no filter".
 */
import { readFileSync, statSync } from 'node:fs';
import { RuntimeError } from '../../errors.ts';
import type { ContainerRecord } from '../container.ts';
import type { Contribution, Isolator } from '../isolator.ts';
import { effectiveCapabilities } from './capabilities.ts';
import { defaultSeccompProfile } from './seccomp-default-profile.ts';
import { parseSeccompProfile, resolveSeccompProfile, type SeccompProfile } from './seccomp-profile.ts';

const MAX_PROFILE_BYTES = 1024 * 1024;

/** Contributes the filter. Holds nothing. */
export class SeccompIsolator implements Isolator {
  readonly name = 'linux/seccomp';

  /** @throws {RuntimeError} INVALID_ARGUMENT when the profile is missing, unreadable or broken */
  validate({ spec }: ContainerRecord): void {
    profileOf(spec.seccompProfile);
  }

  async recover(): Promise<void> {
    // Nothing outlives a run.
  }

  async prepare({ spec }: ContainerRecord): Promise<Contribution> {
    const profile = profileOf(spec.seccompProfile);
    if (profile === 'unconfined') return { seccomp: 'unconfined' };
    return { seccomp: resolveSeccompProfile(profile, { capabilities: effectiveCapabilities(spec) }) };
  }

  async cleanup(): Promise<void> {
    // Nothing was taken.
  }
}

function profileOf(path: string | undefined): SeccompProfile | 'unconfined' {
  if (path === undefined) return defaultSeccompProfile();
  if (path === 'unconfined') return path;
  try {
    const status = statSync(path);
    if (!status.isFile()) throw new Error('it is no regular file');
    if (status.size > MAX_PROFILE_BYTES) throw new Error(`it is longer than ${MAX_PROFILE_BYTES} bytes`);
    return parseSeccompProfile(readFileSync(path, 'utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new RuntimeError('INVALID_ARGUMENT', `seccomp: profile ${path} cannot be used: ${reason}`, { cause: error });
  }
}
