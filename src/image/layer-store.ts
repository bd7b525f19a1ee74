/**
 * Layers on disk, each a directory tree that overlayfs takes as it is, named by the SHA-256 of the archive it came from:
 *
 *   IMAGES/staging/RANDOM   being filled, or on its way out; never looked at, emptied at the start of the daemon
 *   IMAGES/layers/HEX       complete and on disk; never changed
 *
 * A layer appears and disappears by one rename, so a crash leaves whole layers and rubbish in staging, nothing between.
 * Which layers are needed is the image store's to know.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readdirSync, renameSync } from 'node:fs';
import { gathered, RuntimeError, systemCode } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import { removeTree } from '../remove-tree.ts';
import { ArchiveSource } from './archive-source.ts';
import type { ImageLimits } from './image-limits.ts';
import { type Unpacked, unpack } from './unpack.ts';

const HEX = /^[0-9a-f]{64}$/;
/** Flushing a large image to a slow disk takes its time. */
const SYNC_TIMEOUT_MS = 10 * 60_000;

/** A layer that is unpacked and durable, but not yet in its place. */
export interface StagedLayer extends Unpacked {
  readonly dir: string;
}

export class LayerStore {
  readonly #layersDir: string;
  readonly #stagingDir: string;

  /** `dir`: the directory of images, made with mode 0700 when missing. */
  constructor(dir: string) {
    this.#layersDir = `${dir}/layers`;
    this.#stagingDir = `${dir}/staging`;
    for (const path of [dir, this.#layersDir, this.#stagingDir]) mkdirSync(path, { recursive: true, mode: 0o700 });
  }

  /** The tree of a layer. @throws {RuntimeError} DATA_LOSS when it is not there */
  path(hex: string): string {
    const path = `${this.#layersDir}/${hex}`;
    if (!HEX.test(hex) || !existsSync(path)) {
      throw new RuntimeError('DATA_LOSS', `layer sha256:${hex} is missing at ${path}: import the image again`);
    }
    return path;
  }

  /** Hex digests of all layers. */
  list(): string[] {
    return readdirSync(this.#layersDir).filter((name) => HEX.test(name));
  }

  /**
   * Unpacks an archive and makes it durable. What it wrote is gone when it throws; otherwise `commit` or `discard` is due.
   * @throws {RuntimeError} as `unpack` and `ArchiveSource.open`
   */
  async stage(sourcePath: string, limits: ImageLimits, signal: AbortSignal): Promise<StagedLayer> {
    await using source = await ArchiveSource.open(sourcePath);
    const dir = this.#freshStagingPath();
    mkdirSync(dir, { mode: 0o700 });
    try {
      const unpacked = await unpack(source, dir, limits, signal);
      // One flush of the file system: thousands of single ones would take minutes.
      await hostCommand('sync', ['-f', dir], signal, { timeoutMs: SYNC_TIMEOUT_MS });
      return { ...unpacked, dir };
    } catch (error) {
      await this.#discardAfter(dir, error);
      throw error;
    }
  }

  /** Puts a layer in its place, where the same layer may be already. Durable, and in one step with what follows. */
  commit(staged: StagedLayer): void {
    try {
      renameSync(staged.dir, `${this.#layersDir}/${staged.digest}`);
      syncDirectory(this.#layersDir);
    } catch (error) {
      const code = systemCode(error);
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw RuntimeError.from(error, `store layer ${staged.digest}`);
    }
  }

  /** Removes what `stage` left behind. Idempotent. */
  async discard(staged: StagedLayer, signal: AbortSignal): Promise<void> {
    await removeTree(staged.dir, signal);
  }

  /** Takes layers out of their place in one step and returns where they lie now: `removeTree` is due for those. */
  retire(hexes: readonly string[]): string[] {
    return hexes.map((hex) => {
      const path = this.#freshStagingPath();
      renameSync(`${this.#layersDir}/${hex}`, path);
      return path;
    });
  }

  /** Start of the daemon: empties staging. */
  async recover(signal: AbortSignal): Promise<number> {
    const leftovers = readdirSync(this.#stagingDir);
    const results = await Promise.allSettled(
      leftovers.map((name) => removeTree(`${this.#stagingDir}/${name}`, signal)),
    );
    const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    const failure = gathered(failures, 'empty the staging directory of images');
    if (failure !== undefined) throw failure;
    return leftovers.length;
  }

  async #discardAfter(dir: string, cause: unknown): Promise<void> {
    try {
      await removeTree(dir, AbortSignal.timeout(SYNC_TIMEOUT_MS));
    } catch (error) {
      const failure = RuntimeError.from(cause, 'unpack archive');
      const left = RuntimeError.from(error, 'remove');
      const message = `${failure.message}; ${dir} is left until the next start: ${left.message}`;
      throw new RuntimeError(failure.code, message, { cause: new AggregateError([cause, error]) });
    }
  }

  #freshStagingPath(): string {
    return `${this.#stagingDir}/${randomBytes(12).toString('hex')}`;
  }
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
