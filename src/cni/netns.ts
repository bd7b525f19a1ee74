/**
 * Named network namespaces: one file for each container, DIR/ID, with the namespace bind-mounted on it. The mount keeps
 * the namespace alive without any process, so it is there before the container's first process and until the last DEL.
 * Only these files ever reach a plugin, never /proc/PID paths: a pid may be reused, a name may not.
 *
 * Making and removing one are system calls where this Node can make them. Otherwise making one takes one process: unshare
 * mounts the namespace on the file and becomes a shell that sets up what no plugin does, and ends by raising the loopback
 * interface.
 */
import { closeSync, mkdirSync, openSync, readdirSync, statfsSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { RuntimeError, systemCode } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import { type RunProgram, runProgram } from '../run-program.ts';
import type { PerformSystemCall } from '../system-calls.ts';
import { CNI_NAME, printable } from './protocol.ts';

/** File system type of namespaces (NSFS_MAGIC of linux/magic.h). */
const NSFS_MAGIC = 0x6e736673;
/**
 * Constants: nothing of a request ever becomes part of them. Router advertisements are refused on interfaces to come,
 * since a neighbour could reroute the container with one. Inside its own namespace any user may ask for echoes without
 * raw sockets, which containers do not get, and listen on low ports. A kernel without one of them is no failure.
 */
const SETTINGS: readonly (readonly [name: string, value: string])[] = [
  ['ipv6/conf/default/accept_ra', '0'],
  ['ipv4/ping_group_range', '0 2147483647'],
  ['ipv4/ip_unprivileged_port_start', '0'],
];
const SETUP = [
  ...SETTINGS.map(([name, value]) => `echo ${value} 2>/dev/null >/proc/sys/net/${name}`),
  'exec ip link set lo up',
].join('; ');
/** Mounts that can lie on one another at one file, at most, before something is badly wrong. */
const MAX_STACKED = 8;

/** Who does what namespaces need; this process, by programs, unless given. */
export interface NamespaceTools {
  readonly run?: RunProgram | undefined;
  readonly systemCall?: PerformSystemCall | undefined;
}

/** The named namespaces of one daemon. */
export class NetworkNamespaces {
  readonly #dir: string;
  readonly #run: RunProgram;
  readonly #systemCall: PerformSystemCall;

  constructor(dir: string, { run = runProgram, systemCall = async () => false }: NamespaceTools = {}) {
    this.#dir = dir;
    this.#run = run;
    this.#systemCall = systemCall;
  }

  /** The absolute path of a namespace, whether it exists or not. @throws {RuntimeError} INVALID_ARGUMENT */
  path(id: string): string {
    if (!CNI_NAME.test(id)) {
      throw new RuntimeError('INVALID_ARGUMENT', `namespace id ${JSON.stringify(printable(id))} is no plain name`);
    }
    return join(this.#dir, id);
  }

  /**
   * Makes a namespace with its loopback interface up and returns its path. When it throws a part may be there: `remove`
   * is due.
   * @throws {RuntimeError} ALREADY_EXISTS when the name is taken
   */
  async create(id: string, signal: AbortSignal): Promise<string> {
    const path = this.path(id);
    mkdirSync(this.#dir, { recursive: true, mode: 0o711 });
    try {
      closeSync(openSync(path, 'wx', 0o600));
    } catch (error) {
      throw RuntimeError.from(error, `create network namespace ${path}`);
    }
    if (await this.#systemCall({ kind: 'networkNamespace', path, settings: SETTINGS }, signal)) return path;
    await hostCommand('unshare', [`--net=${path}`, '/bin/sh', '-c', SETUP], signal, { run: this.#run });
    return path;
  }

  /** True when the name stands for a live namespace. */
  exists(id: string): boolean {
    try {
      return statfsSync(this.path(id)).type === NSFS_MAGIC;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return false;
      throw RuntimeError.from(error, `look at network namespace ${id}`);
    }
  }

  /** Takes a namespace away, whatever part of it is there. Idempotent. */
  async remove(id: string, signal: AbortSignal): Promise<void> {
    const path = this.path(id);
    for (let mounts = 0; this.exists(id); mounts += 1) {
      if (mounts === MAX_STACKED) throw new RuntimeError('INTERNAL', `network namespace ${path} does not go away`);
      // Detached: a plugin that was killed may still hold the file for a moment.
      if (await this.#systemCall({ kind: 'unmount', path, lazy: true }, signal)) continue;
      await hostCommand('umount', ['-l', path], signal, { run: this.#run });
    }
    try {
      unlinkSync(path);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove network namespace ${path}`);
    }
  }

  /** Names of all files, live namespaces or remains. */
  list(): string[] {
    try {
      return readdirSync(this.#dir).filter((name) => CNI_NAME.test(name));
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return [];
      throw RuntimeError.from(error, `list network namespaces in ${this.#dir}`);
    }
  }
}
