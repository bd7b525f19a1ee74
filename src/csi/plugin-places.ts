/**
 * Where plugins that Berth runs have their things, by the name of their drop-in file without ".toml":
 *
 *   RUN/plugins/NAME/csi.sock    where the plugin listens
 *   ROOT/plugin-logs/NAME.log    what it wrote, when it is a process (plugin-log.ts)
 */
import { mkdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { invalid, RuntimeError, systemCode } from '../errors.ts';
import { PluginLog } from './plugin-log.ts';
import { checkSocketPath } from './plugin-registration.ts';

export interface PluginPlacesOptions {
  /** Holds a directory for each plugin. */
  readonly socketsDir: string;
  readonly logsDir: string;
  readonly log: Logger;
}

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
  check(name: string): void {
    if (!NAME.test(name)) {
      throw invalid(
        'file',
        'a socket is named after it: call it 1 to 63 letters, digits, ".", "_" and "-", then .toml',
      );
    }
    checkSocketPath('file', this.socketPath(name));
  }

  socketDir(name: string): string {
    return join(this.#options.socketsDir, name);
  }

  socketPath(name: string): string {
    return join(this.socketDir(name), 'csi.sock');
  }

  log(name: string): PluginLog {
    return new PluginLog(join(this.#options.logsDir, `${name}.log`));
  }

  /** Takes the socket of a plugin away that does not run. */
  removeSocket(name: string): void {
    const path = this.socketPath(name);
    try {
      unlinkSync(path);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove ${path}`);
    }
  }

  /** Takes away what {@link make} made, unless the plugin put something of its own there. */
  remove(name: string): void {
    this.removeSocket(name);
    const dir = this.socketDir(name);
    try {
      rmdirSync(dir);
    } catch (error) {
      this.#options.log.warn({ err: error, dir }, 'directory of the plugin stays');
    }
  }
}
