/**
 * Where the launcher keeps what it knows, and what is found there. Everything below the run directory is void after a
 * reboot; the log alone lives under the root directory and outlives runs.
 *
 *   RUN/bundles/ID/config.json   the OCI bundle (0700); conmon adds pidfile, attach, ctl, winsz
 *   RUN/oci/ID                   the OCI runtime's own state
 *   RUN/exits/ID                 the exit code, written by conmon when the init process has ended
 *   ROOT/logs/ID.log             what the container wrote, in conmon's k8s-file format
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RuntimeError, systemCode } from '../../errors.ts';
import type { ContainerId } from '../container.ts';
import type { OciSpec } from '../oci-spec.ts';
import { EXEC_FIFO } from './exec-fifo.ts';
import { COMPILED_FILTER } from './seccomp-programs.ts';

const CONTAINER_ID = /^[0-9a-f]{32}$/;

const CRUN_STATUS = 'status';
/** Files that crun keeps of a container: its configuration, its status, what init waits at, the compiled filter. */
const CRUN_NOTES: ReadonlySet<string> = new Set([CRUN_STATUS, 'config.json', EXEC_FIFO, COMPILED_FILTER]);

/** Paths of one launcher. */
export class RuntimeRoot {
  readonly bundles: string;
  readonly state: string;
  readonly exits: string;
  readonly logs: string;

  constructor(options: { readonly rootDir: string; readonly runDir: string }) {
    this.bundles = join(options.runDir, 'bundles');
    this.state = join(options.runDir, 'oci');
    this.exits = join(options.runDir, 'exits');
    this.logs = join(options.rootDir, 'logs');
  }

  /** Makes the directories, readable by nobody else. Idempotent. */
  make(): void {
    for (const path of [this.bundles, this.state, this.exits, this.logs]) {
      mkdirSync(path, { recursive: true, mode: 0o700 });
    }
  }

  bundle(id: ContainerId): string {
    return join(this.bundles, checked(id));
  }

  /** Written by the runtime when the init process exists. */
  pidFile(id: ContainerId): string {
    return join(this.bundle(id), 'pidfile');
  }

  log(id: ContainerId): string {
    return join(this.logs, `${checked(id)}.log`);
  }

  /** Ids that have a bundle, runtime state or an exit file. */
  ids(): Set<ContainerId> {
    const names = [this.bundles, this.state, this.exits].flatMap((path) => readdirSync(path));
    return new Set(names.filter((name) => CONTAINER_ID.test(name)));
  }

  writeBundle(id: ContainerId, spec: OciSpec): void {
    const bundle = this.bundle(id);
    // Left by a run of another boot, if at all: a run of this boot was destroyed before.
    rmSync(bundle, { recursive: true, force: true });
    mkdirSync(bundle, { mode: 0o700 });
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec), { mode: 0o600, flag: 'wx' });
  }

  hasBundle(id: ContainerId): boolean {
    return existsSync(this.bundle(id));
  }

  /** What the runtime keeps about a container. */
  stateOf(id: ContainerId): string {
    return join(this.state, checked(id));
  }

  hasState(id: ContainerId): boolean {
    return existsSync(this.stateOf(id));
  }

  /**
   * True for state of crun that is nothing but its notes. Once no process and no cgroup is left its delete would do no
   * more than unlink them: hooks, resctrl groups and virtual machines are no part of a container here.
   */
  holdsNotesOnly(id: ContainerId): boolean {
    const names = readdirSync(this.stateOf(id));
    return names.includes(CRUN_STATUS) && names.every((name) => CRUN_NOTES.has(name));
  }

  removeBundle(id: ContainerId): void {
    rmSync(this.bundle(id), { recursive: true, force: true });
  }

  /** For state that is notes only, and for what the runtime cannot delete because it was killed while it wrote it. */
  removeState(id: ContainerId): void {
    rmSync(join(this.state, checked(id)), { recursive: true, force: true });
  }

  removeLog(id: ContainerId): void {
    rmSync(this.log(id), { force: true });
  }

  /** The pid the runtime wrote down, if it came to that. Who it is now is another question. */
  initPid(id: ContainerId): number | undefined {
    try {
      const pid = Number(readFileSync(this.pidFile(id), 'utf8').trim());
      return Number.isSafeInteger(pid) && pid > 1 ? pid : undefined;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  }
}

/** Ids become file names and arguments of programs that do not confine them. */
function checked(id: ContainerId): ContainerId {
  if (CONTAINER_ID.test(id)) return id;
  throw new RuntimeError('INVALID_ARGUMENT', `container id ${JSON.stringify(id)} is not 32 hex digits`);
}
