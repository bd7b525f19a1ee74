/**
 * The files of networks that Berth was asked to create, in the first configuration directory:
 *
 *   80-berth-NAME.conflist            the network; it appears whole or not at all
 *   80-berth-NAME.conflist.removing   nobody can be attached any more, what it has on the host is being taken away
 *   .80-berth-NAME.conflist.tmp       being written
 *
 * Only the first is a configuration for whoever reads the directory.
 */
import {
  closeSync,
  constants,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { createdFileName, createdNetwork, isCreatedFile } from '../cni/config-files.ts';
import { RuntimeError, systemCode } from '../errors.ts';

const REMOVING = '.removing';
const WRITING = '.tmp';

/** See the module's head. */
export class CreatedFiles {
  readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
  }

  path(network: string): string {
    return join(this.dir, createdFileName(network));
  }

  /** Writes a network's file. @throws {RuntimeError} ALREADY_EXISTS when it is there */
  write(network: string, text: string): void {
    const path = this.path(network);
    const draft = join(this.dir, `.${createdFileName(network)}${WRITING}`);
    try {
      mkdirSync(this.dir, { recursive: true, mode: 0o755 });
      removeFile(draft);
      writeDurably(draft, text);
      // Unlike a rename this replaces nothing.
      linkSync(draft, path);
      this.#sync();
    } catch (error) {
      throw RuntimeError.from(error, `write ${path}`);
    } finally {
      removeFile(draft);
    }
  }

  /** From now on nobody can be attached to the network. */
  retire(network: string): void {
    const path = this.path(network);
    try {
      renameSync(path, `${path}${REMOVING}`);
      this.#sync();
    } catch (error) {
      throw RuntimeError.from(error, `retire ${path}`);
    }
  }

  /** True when the network's removal was begun. */
  isRetired(network: string): boolean {
    return this.beingRemoved().includes(network);
  }

  /** Nothing of the network is left but its retired file: now it goes too. Idempotent. */
  forget(network: string): void {
    removeFile(`${this.path(network)}${REMOVING}`);
    this.#sync();
  }

  /** Names of networks whose removal was begun. */
  beingRemoved(): string[] {
    return this.#names().flatMap((name) => {
      return name.endsWith(REMOVING) ? (createdNetwork(name.slice(0, -REMOVING.length)) ?? []) : [];
    });
  }

  /** Removes drafts that nobody will finish. */
  sweep(): void {
    for (const name of this.#names()) {
      const file = name.startsWith('.') && name.endsWith(WRITING) ? name.slice(1, -WRITING.length) : '';
      if (isCreatedFile(file)) removeFile(join(this.dir, name));
    }
  }

  #names(): string[] {
    try {
      return readdirSync(this.dir);
    } catch (error) {
      if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
      throw RuntimeError.from(error, `read ${this.dir}`);
    }
  }

  /** The names in the directory outlive a power failure. */
  #sync(): void {
    const fd = openSync(this.dir, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  }
}

function writeDurably(path: string, text: string): void {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const fd = openSync(path, flags, 0o644);
  try {
    writeFileSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove ${path}`);
  }
}
