/**
 * The files of the class directory as they come, change and go. A class is what its file says at the moment when a volume
 * is asked for; a file that is not understood is told beside the others and makes no volumes until it is mended.
 */
import { globSync, readFileSync, statSync } from 'node:fs';
import type { Logger } from 'pino';
import type { Check } from '../check.ts';
import { invalid, RuntimeError } from '../errors.ts';
import {
  asksForDefault,
  mayBeDefault,
  parseVolumeClass,
  type VolumeClass,
  withClass,
  withoutClass,
} from './volume-class.ts';
import type { VolumeWish } from './volume-request.ts';
import { identity, WatchedDirectory } from './watched-directory.ts';

/** A file that makes no class. */
export interface BadVolumeClass {
  readonly name: string;
  readonly file: string;
  /** Begins with the key: "driver: ...". */
  readonly reason: string;
  /** Nobody can say that it is not meant to be the default class. */
  readonly mayBeDefault: boolean;
}

/** What all files of a directory say. */
export interface VolumeClassFiles {
  readonly good: readonly VolumeClass[];
  readonly bad: readonly BadVolumeClass[];
}

export interface VolumeClassDirectoryOptions {
  /** Need not be there. */
  readonly dir: string;
  readonly log: Logger;
  readonly rescanMs?: number;
}

const MAX_FILE_BYTES = 65_536;
const SUFFIX = '.toml';

/** Watches one directory until closed. */
export class VolumeClassDirectory {
  readonly #options: VolumeClassDirectoryOptions;
  readonly #watched: WatchedDirectory;
  #files: VolumeClassFiles = { good: [], bad: [] };

  constructor(options: VolumeClassDirectoryOptions) {
    this.#options = options;
    const { dir, log, rescanMs = 5000 } = options;
    this.#watched = new WatchedDirectory({ dir, log, rescanMs, look: () => this.#look() });
  }

  /** Reads all files and begins to watch. */
  async start(): Promise<void> {
    await this.#watched.start();
  }

  async close(): Promise<void> {
    await this.#watched.close();
  }

  /** What the files say now. */
  async files(): Promise<VolumeClassFiles> {
    await this.#watched.scan();
    return this.#files;
  }

  /** One class. @throws {RuntimeError} NOT_FOUND, FAILED_PRECONDITION with what is wrong with its file */
  async get(name: string): Promise<VolumeClass> {
    const { good, bad } = await this.files();
    const found = good.find((one) => one.name === name);
    if (found !== undefined) return found;
    const broken = bad.find((one) => one.name === name);
    if (broken !== undefined) {
      throw new RuntimeError('FAILED_PRECONDITION', `volume class ${name}: ${broken.file}: ${broken.reason}`);
    }
    const known = good.map((one) => one.name).join(', ') || 'none';
    throw new RuntimeError(
      'NOT_FOUND',
      `no such volume class: ${name.slice(0, 128)}; ${this.#options.dir} has ${known}`,
    );
  }

  /**
   * The request with what its class says, the default class where one is meant.
   * @throws {RuntimeError} as {@link get}, INVALID_ARGUMENT when request and class do not fit, FAILED_PRECONDITION when
   * several classes want to be the default, or none does and a file that is not understood may
   */
  async fill(wish: VolumeWish): Promise<VolumeWish> {
    if (wish.volumeClass !== undefined) return withClass(wish, await this.get(wish.volumeClass));
    if (!asksForDefault(wish)) return wish;
    const { good, bad } = await this.files();
    const defaults = good.filter(({ isDefault }) => isDefault);
    const [first, second] = defaults;
    if (first === undefined) {
      // Another driver's volume is not what was asked for.
      const broken = bad.find(({ mayBeDefault }) => mayBeDefault);
      if (broken !== undefined) throw perhapsDefault(broken);
      return withoutClass(wish);
    }
    if (second === undefined) return withClass(wish, first);
    throw new RuntimeError('FAILED_PRECONDITION', `class: ${manyDefaults(defaults)}; name the class`);
  }

  /** Lines of `berth doctor`: one for each file that is wrong. */
  async checks(): Promise<Check[]> {
    const { good, bad } = await this.files();
    const line = { area: 'volumes', state: 'warn' } as const;
    const defaults = good.filter(({ isDefault }) => isDefault);
    const refusing = defaults.length === 0 ? ', and no volume is made without naming class or driver' : '';
    return [
      ...bad.map(({ file, reason, mayBeDefault }) => ({
        ...line,
        name: file,
        detail: `this volume class cannot be used${mayBeDefault ? refusing : ''}: ${reason}`,
        remedy: `mend ${file}; it is read again at once`,
      })),
      ...(defaults.length < 2
        ? []
        : [
            {
              ...line,
              name: 'default volume class',
              detail: manyDefaults(defaults),
              remedy: `write default = true in one of ${defaults.map(({ file }) => file).join(', ')} only`,
            },
          ]),
    ];
  }

  async #look(): Promise<ReadonlyMap<string, string>> {
    const { dir, log } = this.#options;
    const id = identity(dir);
    const before = new Set(this.#files.bad.map(({ file, reason }) => `${file} ${reason}`));
    this.#files = readVolumeClasses(dir);
    for (const { file, reason } of this.#files.bad) {
      if (!before.has(`${file} ${reason}`)) log.error({ file, reason }, 'volume class is not understood');
    }
    return new Map(id === undefined ? [] : [[dir, id]]);
  }
}

function perhapsDefault({ file, reason }: BadVolumeClass): RuntimeError {
  const advice = 'it may be the default class: mend it, or name the class or the driver';
  return new RuntimeError('FAILED_PRECONDITION', `class: ${file} is not understood (${reason}), and ${advice}`);
}

function manyDefaults(defaults: readonly VolumeClass[]): string {
  return `classes ${defaults.map(({ name }) => name).join(' and ')} both say default = true, so none is the default`;
}

/** All files in `dir`, in byte order of their names; the bad ones apart. */
export function readVolumeClasses(dir: string): VolumeClassFiles {
  const good: VolumeClass[] = [];
  const bad: BadVolumeClass[] = [];
  for (const entry of globSync(`*${SUFFIX}`, { cwd: dir }).sort()) {
    const file = `${dir}/${entry}`;
    const name = entry.slice(0, -SUFFIX.length);
    let text: string | undefined;
    try {
      text = textOf(file);
      good.push(parseVolumeClass(name, file, text));
    } catch (error) {
      const { message: reason } = RuntimeError.from(error, 'file');
      bad.push({ name, file, reason, mayBeDefault: mayBeDefault(text) });
    }
  }
  return { good, bad };
}

/** Reads only what cannot block: a pipe of that name would hold up the daemon. */
function textOf(file: string): string {
  const stats = statSync(file);
  if (!stats.isFile()) throw invalid('file', 'it is no regular file');
  if (stats.size > MAX_FILE_BYTES) throw invalid('file', `it has ${stats.size} bytes, at most ${MAX_FILE_BYTES}`);
  return readFileSync(file, 'utf8');
}
