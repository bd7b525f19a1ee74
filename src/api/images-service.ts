/** The Images service: calls of the API as calls of the image store. */
import { RuntimeError } from '../errors.ts';
import type { ImageRecord } from '../image/image-record.ts';
import type { ImageStore } from '../image/image-store.ts';
import type { ContainerView } from '../runtime/containerizer.ts';
import type { Image } from './generated/berth/v1/Image.ts';
import type { ImageRequest__Output } from './generated/berth/v1/ImageRequest.ts';
import type { ImagesDefinition } from './generated/berth/v1/Images.ts';
import type { ImportImageRequest__Output } from './generated/berth/v1/ImportImageRequest.ts';
import type { ListImagesResponse } from './generated/berth/v1/ListImagesResponse.ts';
import type { RemoveImageResponse } from './generated/berth/v1/RemoveImageResponse.ts';
import { checkHostPath, checkImageRef } from './object-ref.ts';
import type { Call, ServiceMethods } from './protocol.ts';

/** What the service asks of the image store. */
export type Images = Pick<ImageStore, 'importTar' | 'list' | 'get' | 'remove'>;

export interface ImagesServiceOptions {
  readonly images: Images;
  /** Whose images must stay. */
  readonly containers: { list(): readonly ContainerView[] };
}

export class ImagesService implements ServiceMethods<ImagesDefinition> {
  readonly #images: Images;
  readonly #containers: ImagesServiceOptions['containers'];

  constructor(options: ImagesServiceOptions) {
    this.#images = options.images;
    this.#containers = options.containers;
  }

  async import({ sourcePath, reference, changes }: ImportImageRequest__Output, { signal }: Call): Promise<Image> {
    const source = checkHostPath('source_path', sourcePath);
    return imageMessage(await this.#images.importTar(source, checkImageRef('reference', reference), changes, signal));
  }

  async list(): Promise<ListImagesResponse> {
    return { images: this.#images.list().map(imageMessage) };
  }

  async inspect({ ref }: ImageRequest__Output): Promise<Image> {
    return imageMessage(this.#images.get(checkImageRef('ref', ref)));
  }

  async remove({ ref }: ImageRequest__Output, { signal }: Call): Promise<RemoveImageResponse> {
    const inUse = (id: string): boolean =>
      this.#containers.list().some(({ record }) => this.#means(record.spec.image, id));
    await this.#images.remove(checkImageRef('ref', ref), inUse, signal);
    return {};
  }

  /** True when a container's word for its image leads to this very one; a word that leads nowhere holds nothing. */
  #means(reference: string, id: string): boolean {
    try {
      return this.#images.get(reference).id === id;
    } catch (error) {
      if (error instanceof RuntimeError) return false;
      throw error;
    }
  }
}

function imageMessage({ id, reference, sizeBytes, createdAt, config }: ImageRecord): Image {
  return {
    id,
    reference,
    sizeBytes: String(sizeBytes),
    createdAt,
    config: {
      entrypoint: [...config.entrypoint],
      command: [...config.command],
      env: [...config.env],
      workingDir: config.workingDir ?? '',
      user: config.user ?? '',
      labels: Object.entries(config.labels).map(([key, value]) => ({ key, value })),
    },
  };
}
