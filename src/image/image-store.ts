/**
 * Images by reference: what was imported, which layers it consists of, and which layers nobody needs any more. An image
 * is on record only when its layers are complete and durable; a layer goes only when neither a record nor a container
 * names it. Deciding that and acting on it is one synchronous step, so no lock is needed.
 */
import type { Logger } from 'pino';
import { invalid, RuntimeError } from '../errors.ts';
import { removeTree } from '../remove-tree.ts';
import type { Store } from '../store.ts';
import { type ImageConfig, parseChanges } from './image-config.ts';
import { DEFAULT_IMAGE_LIMITS, type ImageLimits } from './image-limits.ts';
import { decodeImageRecord as decode, hexOf, type ImageRecord, imageId } from './image-record.ts';
import { LayerStore, type StagedLayer } from './layer-store.ts';
import { formatReference, normalReference, parseReference } from './reference.ts';
import { WritableLayers } from './writable-layers.ts';

export type { ImageConfig } from './image-config.ts';
export type { ImageRecord } from './image-record.ts';

/** Decodes a stored record. @throws when the value does not have the shape of one */
export const decodeImageRecord: (value: unknown) => ImageRecord = decode;

const ID_PREFIX = /^(?:sha256:)?([0-9a-f]{4,64})$/;
/** Removing trees goes on when the caller has gone. */
const REMOVAL_TIMEOUT_MS = 10 * 60_000;

export interface ImageStoreOptions {
  /** Records by reference. */
  readonly store: Store<ImageRecord>;
  /** The daemon's root directory: images lie in ROOT/images, what containers hold in ROOT/containers. */
  readonly rootDir: string;
  readonly log: Logger;
  readonly limits?: Partial<ImageLimits>;
}

export class ImageStore {
  readonly #store: Store<ImageRecord>;
  readonly #layers: LayerStore;
  readonly #holders: WritableLayers;
  readonly #limits: ImageLimits;
  readonly #log: Logger;

  constructor(options: ImageStoreOptions) {
    this.#store = options.store;
    this.#layers = new LayerStore(`${options.rootDir}/images`);
    this.#holders = new WritableLayers(options.rootDir);
    this.#limits = { ...DEFAULT_IMAGE_LIMITS, ...options.limits };
    this.#log = options.log.child({ component: 'image-store' });
  }

  /**
   * Makes an image of one layer out of a tar archive of a root file system (plain, gzip or zstd). `changes` are
   * instructions of a Dockerfile: CMD, ENTRYPOINT, ENV, LABEL, USER, WORKDIR. A reference that exists moves to the new
   * image. Nothing is left when it throws.
   * @throws {RuntimeError} INVALID_ARGUMENT naming what is wrong with source, reference, changes or archive;
   * RESOURCE_EXHAUSTED when a limit is passed or the disk is full
   */
  async importTar(
    sourcePath: string,
    reference: string,
    changes: readonly string[],
    signal: AbortSignal,
  ): Promise<ImageRecord> {
    const parsed = parseReference(reference);
    if (parsed.digest !== undefined) throw invalid('image reference', 'an import cannot be given a digest');
    const config = parseChanges(changes);
    signal.throwIfAborted();
    const begunMs = performance.now();
    const staged = await this.#layers.stage(sourcePath, this.#limits, signal);
    try {
      signal.throwIfAborted();
      const record = this.#record(formatReference(parsed), staged, config);
      const { entries, droppedNodes, droppedAttributes } = staged;
      const durationMs = Math.round(performance.now() - begunMs);
      const what = { reference: record.reference, imageId: record.id, sizeBytes: record.sizeBytes };
      this.#log.info({ ...what, entries, droppedNodes, droppedAttributes, durationMs }, 'image imported');
      return record;
    } finally {
      await this.#layers.discard(staged, AbortSignal.timeout(REMOVAL_TIMEOUT_MS));
      await this.#collect();
    }
  }

  /** All images, newest first. */
  list(): ImageRecord[] {
    return [...this.#store.entries().values()].sort((a, b) => b.createdAt.localeCompare(a.createdAt));
  }

  /**
   * The image a reference names, or the beginning of an id (four digits or more, "sha256:" or not).
   * @throws {RuntimeError} NOT_FOUND saying what to do, INVALID_ARGUMENT for text that is neither or fits several ids
   */
  get(ref: string): ImageRecord {
    const [image] = this.#find(ref);
    if (image === undefined) throw absent(ref);
    return image;
  }

  /** The trees of an image's layers, the highest first as overlayfs wants them. @throws {RuntimeError} DATA_LOSS */
  layerPaths(image: ImageRecord): string[] {
    return image.layers.map((digest) => this.#layers.path(hexOf(digest))).reverse();
  }

  /**
   * Forgets a reference and removes the layers that nothing else needs. `inUse` says whether a container is meant to
   * run an image, by image id; containers that have run hold theirs anyway.
   * @throws {RuntimeError} NOT_FOUND; FAILED_PRECONDITION when a container uses it or an id has several references
   */
  async remove(ref: string, inUse: (id: string) => boolean, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const [image, ...others] = this.#find(ref);
    if (image === undefined) throw absent(ref);
    if (others.length > 0) {
      const names = [image, ...others].map(({ reference }) => reference).join(', ');
      throw new RuntimeError('FAILED_PRECONDITION', `image ${quoted(ref)} has several references: remove ${names}`);
    }
    const holder = [...this.#holders.images()].find(([, held]) => held.id === image.id)?.[0];
    if (holder !== undefined || inUse(image.id)) {
      const whose = holder === undefined ? 'a container' : `container ${holder.slice(0, 12)}`;
      throw new RuntimeError('FAILED_PRECONDITION', `image ${image.reference} is used by ${whose}: remove that first`);
    }
    this.#store.remove(image.reference);
    this.#log.info({ reference: image.reference, imageId: image.id }, 'image removed');
    await this.#collect();
  }

  /** Start of the daemon: removes what unfinished imports left and the layers that nothing needs. */
  async recover(signal: AbortSignal): Promise<void> {
    for (const [reference, reason] of this.#store.damaged()) {
      this.#log.error({ reference, reason }, 'image record does not decode: left alone, import the image again');
    }
    const layers = this.#layers.retire(this.#unneeded()).length;
    const leftovers = await this.#layers.recover(signal);
    if (leftovers > 0) this.#log.info({ leftovers, layers }, 'image remains removed');
  }

  /** A container gave up this image: its layers go when no reference leads to it any more. */
  async released(image: ImageRecord): Promise<void> {
    if (!this.list().some(({ id }) => id === image.id)) await this.#collect();
  }

  /**
   * Removes the layers that neither a record nor a container names. When one of those cannot be read every layer stays.
   * What cannot be removed now is out of its place, and is removed at the next start.
   */
  async #collect(): Promise<void> {
    for (const path of this.#layers.retire(this.#unneeded())) {
      try {
        await removeTree(path, AbortSignal.timeout(REMOVAL_TIMEOUT_MS));
      } catch (error) {
        this.#log.warn({ path, err: error }, 'remains of a layer are left until the next start');
      }
    }
  }

  #unneeded(): string[] {
    if (this.#store.damaged().size > 0) return [];
    try {
      const needed = [...this.list(), ...this.#holders.images().values()].flatMap(({ layers }) => layers.map(hexOf));
      const keep = new Set(needed);
      return this.#layers.list().filter((hex) => !keep.has(hex));
    } catch (error) {
      this.#log.error({ err: error }, 'no layer is removed while it is unknown what containers use');
      return [];
    }
  }

  #record(reference: string, staged: StagedLayer, config: ImageConfig): ImageRecord {
    const layers = [`sha256:${staged.digest}`];
    const record: ImageRecord = {
      id: imageId(layers, config),
      reference,
      layers,
      sizeBytes: staged.sizeBytes,
      createdAt: new Date().toISOString(),
      config,
    };
    this.#layers.commit(staged);
    this.#store.write(reference, record);
    return record;
  }

  /** Every record `ref` means: one by reference, else all of one id. */
  #find(ref: string): ImageRecord[] {
    const prefix = ID_PREFIX.exec(ref)?.[1];
    const named = ref.startsWith('sha256:') ? undefined : this.#store.read(this.#normal(ref, prefix !== undefined));
    if (named !== undefined) return [named];
    if (prefix === undefined) return [];
    const fitting = this.list().filter(({ id }) => hexOf(id).startsWith(prefix));
    if (new Set(fitting.map(({ id }) => id)).size > 1) {
      throw new RuntimeError('INVALID_ARGUMENT', `image ${quoted(ref)} fits several ids: give more digits`);
    }
    return fitting;
  }

  /** A full id has the shape of no reference; it names no record then. */
  #normal(ref: string, mayBeId: boolean): string {
    try {
      return normalReference(ref);
    } catch (error) {
      if (mayBeId) return '';
      throw error;
    }
  }
}

function absent(ref: string): RuntimeError {
  const advice = `make it with "berth image import FILE.tar ${ref}", or see "berth image ls"`;
  return new RuntimeError('NOT_FOUND', `no such image: ${ref}: ${advice}`);
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
}
