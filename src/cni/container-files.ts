/**
 * The three files every container gets of Berth: /etc/hosts, /etc/hostname, /etc/resolv.conf.
 *
 *   DIR/ID/hosts  DIR/ID/hostname  DIR/ID/resolv.conf     0644, in a directory that only root can write
 *
 * They are made before the process, which binds their inodes, and filled when the addresses are known, before user code
 * runs: so they are written in place then, never replaced. The container sees them read-only, since what it appends to
 * a bound file would fill the host's disk (CVE-2020-8557).
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { RuntimeError, systemCode } from '../errors.ts';
import type { Mount } from '../runtime/isolator.ts';
import { CNI_NAME, printable } from './protocol.ts';

const NAMES = ['hosts', 'hostname', 'resolv.conf'] as const;

/** One of the files, by its name in /etc. */
export type ContainerFile = (typeof NAMES)[number];

const MOUNT_OPTIONS = ['bind', 'ro', 'nosuid', 'nodev', 'noexec', 'rprivate'] as const;

/** The files of all containers of one daemon. */
export class ContainerFiles {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Makes the files, empty where no text is given, and replaces those of an earlier run. */
  create(id: string, texts: Readonly<Partial<Record<ContainerFile, string>>>): void {
    this.remove(id);
    try {
      mkdirSync(this.#path(id), { recursive: true, mode: 0o711 });
      for (const name of NAMES) this.#write(id, name, texts[name] ?? '', constants.O_CREAT | constants.O_EXCL);
    } catch (error) {
      throw RuntimeError.from(error, `create files of container ${id}`);
    }
  }

  /** Fills files that `create` made, in place. */
  fill(id: string, texts: Readonly<Partial<Record<ContainerFile, string>>>): void {
    try {
      for (const name of NAMES) {
        const text = texts[name];
        if (text !== undefined) this.#rewrite(id, name, text);
      }
    } catch (error) {
      throw RuntimeError.from(error, `write files of container ${id}`);
    }
  }

  /** Read-only mounts of the files, less those whose place is `taken` by a mount the user asked for. */
  mounts(id: string, taken: ReadonlySet<string>): readonly Mount[] {
    return NAMES.map((name) => ({
      destination: `/etc/${name}`,
      type: 'bind',
      source: join(this.#path(id), name),
      options: MOUNT_OPTIONS,
    })).filter((mount) => !taken.has(mount.destination));
  }

  /** Idempotent. */
  remove(id: string): void {
    try {
      rmSync(this.#path(id), { recursive: true, force: true });
    } catch (error) {
      throw RuntimeError.from(error, `remove files of container ${id}`);
    }
  }

  /** Ids that have files. */
  list(): string[] {
    try {
      return readdirSync(this.#dir).filter((name) => CNI_NAME.test(name));
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return [];
      throw RuntimeError.from(error, `list ${this.#dir}`);
    }
  }

  #path(id: string): string {
    if (!CNI_NAME.test(id)) {
      throw new RuntimeError('INVALID_ARGUMENT', `container id ${JSON.stringify(printable(id))} is no plain name`);
    }
    return join(this.#dir, id);
  }

  /**
   * Whoever reads meanwhile finds the old text or the new one, maybe with empty lines after it, never a part of a line
   * that could be read as another: the new text goes over the old one in one call, and only then the rest is cut off.
   */
  #rewrite(id: string, name: ContainerFile, text: string): void {
    const fd = openSync(join(this.#path(id), name), constants.O_WRONLY | constants.O_NOFOLLOW);
    try {
      const stats = fstatSync(fd);
      if (!stats.isFile()) throw new RuntimeError('FAILED_PRECONDITION', `${name} is not a regular file`);
      const length = Buffer.byteLength(text);
      const padded = Buffer.alloc(Math.max(length, stats.size), '\n');
      padded.write(text);
      for (let done = 0; done < padded.length; ) done += writeSync(fd, padded, done, padded.length - done, done);
      ftruncateSync(fd, length);
    } finally {
      closeSync(fd);
    }
  }

  #write(id: string, name: ContainerFile, text: string, flags: number): void {
    const fd = openSync(join(this.#path(id), name), constants.O_WRONLY | constants.O_NOFOLLOW | flags, 0o644);
    try {
      if (!fstatSync(fd).isFile()) throw new RuntimeError('FAILED_PRECONDITION', `${name} is not a regular file`);
      // Every user of the container reads them, whatever the daemon's umask says.
      fchmodSync(fd, 0o644);
      writeFileSync(fd, text);
    } finally {
      closeSync(fd);
    }
  }
}
