/**
 * Where plugin executables are: the directories of CNI_PATH. A configuration names a plugin by a plain name; what is
 * run under that name is a regular, executable file that lies inside one of the directories, belongs to root and is
 * writable by nobody else, so that whoever can write a configuration cannot choose any other program of the host.
 */
import { lstatSync, realpathSync, type Stats, statSync } from 'node:fs';
import { delimiter, dirname, join, sep } from 'node:path';
import { RuntimeError, systemCode } from '../errors.ts';
import { CNI_NAME, printable } from './protocol.ts';

/** The plugin directories of a daemon, in order of search. */
export class PluginPath {
  /** Those of the host, without the daemon's own. */
  readonly given: readonly string[];
  readonly #binDirs: readonly string[];

  /**
   * `ownDirs` hold the plugins that come with Berth. They are searched first: a copy somewhere else may belong to
   * another daemon.
   */
  constructor(given: readonly string[], ownDirs: readonly string[] = []) {
    this.given = given;
    this.#binDirs = [...ownDirs, ...given];
  }

  /** The value of CNI_PATH. */
  get value(): string {
    return this.#binDirs.join(delimiter);
  }

  /**
   * The absolute path of a plugin's executable, looked up anew at each call.
   * @throws {RuntimeError} INVALID_ARGUMENT when the name is none, NOT_FOUND when no directory has it,
   * PERMISSION_DENIED when what is there must not be run
   */
  find(type: string): string {
    if (!CNI_NAME.test(type)) {
      throw new RuntimeError('INVALID_ARGUMENT', `plugin type ${JSON.stringify(printable(type))} is no plain name`);
    }
    for (const dir of this.#binDirs) {
      const path = join(dir, type);
      const entry = lookUp(path, lstatSync);
      const stats = entry?.isSymbolicLink() === true ? lookUp(path, statSync) : entry;
      if (stats === undefined || stats.isDirectory()) continue;
      this.#refuseUnsafe(path, stats, entry !== stats);
      return path;
    }
    throw new RuntimeError('NOT_FOUND', `CNI plugin ${type} is not in ${this.#binDirs.join(', ') || 'any directory'}`);
  }

  #refuseUnsafe(path: string, stats: Stats, isLink: boolean): void {
    const reason = this.#unsafe(path, stats, isLink);
    if (reason !== undefined) throw new RuntimeError('PERMISSION_DENIED', `CNI plugin ${path} ${reason}`);
  }

  #unsafe(path: string, stats: Stats, isLink: boolean): string | undefined {
    if (!stats.isFile()) return 'is not a regular file';
    if (!isOwn(stats)) return `belongs to uid ${stats.uid}, not to root`;
    if (isWritableByOthers(stats)) return 'can be written by others';
    if ((stats.mode & 0o111) === 0) return 'is not executable';
    // A file of its own is where its name says; a link may lead from one plugin directory into another.
    const target = isLink ? realpathSync.native(path) : path;
    const home = !isLink || this.#binDirs.some((dir) => target.startsWith(`${realDir(dir)}${sep}`));
    if (!home) return `leads out of the plugin directories, to ${target}`;
    const directories = [...new Set([dirname(path), dirname(target)])].map((dir) => statSync(dir));
    const unsafe = directories.some((directory) => !isOwn(directory) || isWritableByOthers(directory));
    return unsafe ? 'lies in a directory that others can write' : undefined;
  }
}

/** Root's, or of whoever runs the daemon. */
function isOwn(stats: Stats): boolean {
  return stats.uid === 0 || stats.uid === process.getuid?.();
}

/** By everybody, or by a group that is not root's. */
function isWritableByOthers(stats: Stats): boolean {
  return (stats.mode & 0o002) !== 0 || ((stats.mode & 0o020) !== 0 && stats.gid !== 0);
}

/** What is at a path; undefined when nothing is. */
function lookUp(path: string, look: (path: string) => Stats): Stats | undefined {
  try {
    return look(path);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw RuntimeError.from(error, `look up CNI plugin ${path}`);
  }
}

function realDir(dir: string): string {
  try {
    return realpathSync.native(dir);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return dir;
    throw RuntimeError.from(error, `resolve plugin directory ${dir}`);
  }
}
