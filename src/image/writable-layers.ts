/**
 * What a container keeps of its own from run to run:
 *
 *   ROOT/containers/ID/image.json   the image it was first started from: it keeps it when the reference moves on
 *   ROOT/containers/ID/upper        what it wrote
 *   ROOT/containers/ID/work         overlayfs's own
 *
 * image.json is also what holds the layers: they stay while a container names them.
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { RuntimeError, systemCode } from '../errors.ts';
import { removeTree } from '../remove-tree.ts';
import type { ContainerId } from '../runtime/container.ts';
import { decodeImageRecord, type ImageRecord } from './image-record.ts';

const ID = /^[0-9a-f]{32}$/;

/** Directories of an overlay mount. */
export interface OverlayDirs {
  readonly upper: string;
  readonly work: string;
}

export class WritableLayers {
  readonly #dir: string;

  /** `rootDir`: the daemon's root directory. */
  constructor(rootDir: string) {
    this.#dir = `${rootDir}/containers`;
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
  }

  /** Containers that have something here. */
  ids(): ContainerId[] {
    return readdirSync(this.#dir).filter((name) => ID.test(name));
  }

  /**
   * The image a container was started from; undefined before its first start.
   * @throws {RuntimeError} DATA_LOSS when it is on record but cannot be read
   */
  image(id: ContainerId): ImageRecord | undefined {
    const path = `${this.#place(id)}/image.json`;
    try {
      return decodeImageRecord(JSON.parse(readFileSync(path, 'utf8')));
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw new RuntimeError('DATA_LOSS', `${path} does not tell the image of container ${id}: remove the container`, {
        cause: error,
      });
    }
  }

  /**
   * Images of all containers, by container.
   * @throws {RuntimeError} DATA_LOSS when one cannot be read
   */
  images(): Map<ContainerId, ImageRecord> {
    const pairs = this.ids().flatMap((id) => {
      const image = this.image(id);
      return image === undefined ? [] : [[id, image] as const];
    });
    return new Map(pairs);
  }

  /** Ties a container to an image. In one step: no layer can go between looking it up and holding it. */
  hold(id: ContainerId, image: ImageRecord): void {
    const dir = this.#place(id);
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    writeFileSync(`${dir}/image.json.new`, JSON.stringify(image), { mode: 0o600 });
    renameSync(`${dir}/image.json.new`, `${dir}/image.json`);
  }

  /** Makes `hold` durable: due before the container writes anything. */
  async sync(id: ContainerId): Promise<void> {
    for (const path of [`${this.#place(id)}/image.json`, this.#place(id), this.#dir]) {
      const file = await open(path, 'r');
      try {
        await file.sync();
      } finally {
        await file.close();
      }
    }
  }

  /** The overlay directories, made when missing; the root of the container looks like `base`, the root of its image. */
  overlayDirs(id: ContainerId, base: string): OverlayDirs {
    const dirs = { upper: `${this.#place(id)}/upper`, work: `${this.#place(id)}/work` };
    mkdirSync(dirs.work, { recursive: true, mode: 0o700 });
    if (!existsSync(dirs.upper)) {
      const fresh = `${dirs.upper}.new`;
      mkdirSync(fresh, { recursive: true, mode: 0o700 });
      const { uid, gid, mode } = statSync(base);
      chownSync(fresh, uid, gid);
      chmodSync(fresh, mode & 0o7777);
      renameSync(fresh, dirs.upper);
    }
    return dirs;
  }

  /** Gives back what the container wrote. Idempotent. */
  async remove(id: ContainerId, signal: AbortSignal): Promise<void> {
    await removeTree(this.#place(id), signal);
  }

  #place(id: ContainerId): string {
    if (!ID.test(id)) throw new RuntimeError('INVALID_ARGUMENT', `container id ${JSON.stringify(id)} is none`);
    return `${this.#dir}/${id}`;
  }
}
