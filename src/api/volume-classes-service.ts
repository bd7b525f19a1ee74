/** The VolumeClasses service: what kinds of volumes the files of the class directory offer. */
import { type VolumeClass as Class, modeWord } from '../csi/volume-class.ts';
import type { VolumeClassDirectory } from '../csi/volume-class-directory.ts';
import type { ListVolumeClassesResponse } from './generated/berth/v1/ListVolumeClassesResponse.ts';
import type { Parameter } from './generated/berth/v1/Parameter.ts';
import type { VolumeClass } from './generated/berth/v1/VolumeClass.ts';
import type { VolumeClassesDefinition } from './generated/berth/v1/VolumeClasses.ts';
import type { VolumeClassRequest__Output } from './generated/berth/v1/VolumeClassRequest.ts';
import { checkRef } from './object-ref.ts';
import type { ServiceMethods } from './protocol.ts';
import { withoutValue } from './volume-use.ts';

export class VolumeClassesService implements ServiceMethods<VolumeClassesDefinition> {
  readonly #classes: Pick<VolumeClassDirectory, 'files' | 'get'>;

  constructor(classes: Pick<VolumeClassDirectory, 'files' | 'get'>) {
    this.#classes = classes;
  }

  async list(): Promise<ListVolumeClassesResponse> {
    const { good, bad } = await this.#classes.files();
    return { classes: good.map(classMessage), bad: bad.map(({ name, file, reason }) => ({ name, file, reason })) };
  }

  async inspect({ name }: VolumeClassRequest__Output): Promise<VolumeClass> {
    return classMessage(await this.#classes.get(checkRef('name', name)));
  }
}

const ACCESS = { mount: 'VOLUME_ACCESS_MOUNT', block: 'VOLUME_ACCESS_BLOCK' } as const;

function classMessage(found: Class): VolumeClass {
  const { name, file, driver, isDefault, sizeBytes, access, fsType, group } = found;
  return {
    ...{ name, file, driver, isDefault },
    sizeBytes: String(sizeBytes ?? 0n),
    access: access === undefined ? 'VOLUME_ACCESS_UNSPECIFIED' : ACCESS[access],
    accessModes: found.accessModes.map(modeWord),
    ...(fsType === undefined ? {} : { fsType }),
    mountFlags: found.mountFlags.map(withoutValue),
    ...(group === undefined ? {} : { group }),
    ownership: found.ownership ?? '',
    reclaim: found.reclaim ?? '',
    secrets: found.secretsName ?? '',
    allowedTopologies: found.allowedTopologies.map((place) => ({ segments: pairs(place) })),
    parameters: pairs(found.parameters),
    mutableParameters: pairs(found.mutableParameters),
  };
}

function pairs(map: Readonly<Record<string, string>>): Parameter[] {
  return Object.entries(map).map(([key, value]) => ({ key, value }));
}
