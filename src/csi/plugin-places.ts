/**
 * Where plugins that Berth runs have their things, by the name of their drop-in file without ".toml":
 *
 *   RUN/plugins/NAME/csi.sock    where the plugin listens; controller.sock and node.sock when it is told so
 *   ROOT/plugin-logs/NAME.log    what it wrote, when it is a process (plugin-log.ts)
 */
import { mkdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { invalid, RuntimeError, systemCode } from '../errors.ts';
import { PluginLog } from './plugin-log.ts';
import { checkSocketPath, type PluginSocket } from './plugin-registration.ts';
import { type SupervisedSocketName, type Supervision, supervisedSockets } from './plugin-supervision.ts';

export interface PluginPlacesOptions {
  /** Holds a directory for each plugin. */
  readonly socketsDir: string;
  readonly logsDir: string;
  readonly log: Logger;
}

const SOCKETS: readonly SupervisedSocketName[] = ['csi', 'controller', 'node'];
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** See the module's head. */
export class PluginPlaces {
  readonly #options: PluginPlacesOptions;

  constructor(options: PluginPlacesOptions) {
    this.#options = options;
  }

  /** Makes the directory of a plugin's socket. */
  make(name: string): void {
    for (const dir of [this.socketDir(name), this.#options.logsDir]) mkdirSync(dir, { recursive: true, mode: 0o700 });
  }

  /** @throws {RuntimeError} INVALID_ARGUMENT when no socket can be named after the file */
  check(name: string, supervision: Supervision): void {
    if (!NAME.test(name)) {
      throw invalid(
        'file',
        'a socket is named after it: call it 1 to 63 letters, digits, ".", "_" and "-", then .toml',
      );
    }
    for (const { path } of this.sockets(name, supervision)) checkSocketPath('file', path);
  }

  socketDir(name: string): string {
    return join(this.#options.socketsDir, name);
  }

  socketPath(name: string, socket: SupervisedSocketName = 'csi'): string {
    return join(this.socketDir(name), `${socket}.sock`);
  }

  /** The sockets of a plugin, and what each is used for. */
  sockets(name: string, supervision: Supervision): PluginSocket[] {
    return supervisedSockets(supervision).map(({ name: socket, ...role }) => {
      return { path: this.socketPath(name, socket), ...role };
    });
  }

  log(name: string): PluginLog {
    return new PluginLog(join(this.#options.logsDir, `${name}.log`));
  }

  /** Takes the sockets of a plugin away that does not run. */
  removeSockets(name: string): void {
    for (const socket of SOCKETS) {
      const path = this.socketPath(name, socket);
      try {
        unlinkSync(path);
      } catch (error) {
        if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove ${path}`);
      }
    }
  }

  /** Takes away what {@link make} made, unless the plugin put something of its own there. */
  remove(name: string): void {
    this.removeSockets(name);
    const dir = this.socketDir(name);
    try {
      rmdirSync(dir);
    } catch (error) {
      this.#options.log.warn({ err: error, dir }, 'directory of the plugin stays');
    }
  }
}
