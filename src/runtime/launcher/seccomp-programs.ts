/**
 * Seccomp filters that crun has compiled already. Turning a profile of some 350 system calls into a program takes crun
 * five milliseconds, a third of its create, and gives the same program every time. It leaves the program beside its
 * state and takes it back by an annotation; other runtimes do neither and compile as ever. The profile stays in the
 * configuration all the same. Kept in memory only: what crun of this host made for this daemon.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { systemCode } from '../../errors.ts';
import type { OciSpec } from '../oci-spec.ts';

/** crun's name for a compiled filter in base64. */
const ANNOTATION = 'run.oci.seccomp_bpf_data';
/** File in a container's state directory. */
export const COMPILED_FILTER = 'seccomp.bpf';
/** Profiles in use are few; a daemon that is handed new ones all the time keeps the latest. */
const MAX_PROGRAMS = 16;

export class SeccompPrograms {
  readonly #programs = new Map<string, string>();

  /** The configuration with the compiled filter beside its profile, if it is known. */
  applied(spec: OciSpec): OciSpec {
    const program = this.#programs.get(keyOf(spec));
    if (program === undefined) return spec;
    return { ...spec, annotations: { [ANNOTATION]: program } };
  }

  /** Remembers what the runtime compiled for a configuration that it has just created a container from. */
  learn(spec: OciSpec, compiledFilter: string): void {
    const key = keyOf(spec);
    if (key === '' || this.#programs.has(key)) return;
    try {
      this.#programs.set(key, readFileSync(compiledFilter).toString('base64'));
    } catch (error) {
      // Not crun.
      if (systemCode(error) !== 'ENOENT') throw error;
    }
    const [oldest] = this.#programs.keys();
    if (this.#programs.size > MAX_PROGRAMS && oldest !== undefined) this.#programs.delete(oldest);
  }
}

/** Everything the program depends on; empty without a filter. */
function keyOf({ linux }: OciSpec): string {
  const profile = typeof linux === 'object' && linux !== null && 'seccomp' in linux ? linux.seccomp : undefined;
  return profile === undefined ? '' : createHash('sha256').update(JSON.stringify(profile)).digest('hex');
}
