/**
 * ControllerModifyVolume: what may change about a volume while it is used. That is `allocation`, see allocation.ts. Limits
 * of I/O are not among it: they belong to the cgroups of those who use the volume, which are not the driver's.
 */
import type { Logger } from 'pino';
import { invalid, RuntimeError } from '../../errors.ts';
import type { ControllerDefinition } from '../generated/csi/v1/Controller.ts';
import type { ControllerModifyVolumeRequest__Output } from '../generated/csi/v1/ControllerModifyVolumeRequest.ts';
import { type ControllerCapability, checkMap } from '../protocol.ts';
import { allocate, requireRoom } from './allocation.ts';
import type { InFlight } from './in-flight.ts';
import { type MutableParameters, parseMutableParameters } from './mutable-parameters.ts';
import type { Handlers } from './rpc.ts';
import type { VolumeFiles } from './volume-files.ts';
import { checkVolumeId } from './volume-path.ts';
import type { VolumeRecord } from './volume-record.ts';

/** What this adds to the controller's capabilities. */
export const MODIFY_CAPABILITIES: readonly ControllerCapability[] = ['MODIFY_VOLUME'];

export interface ModificationParts {
  readonly files: VolumeFiles;
  readonly inFlight: InFlight;
  readonly log: Logger;
}

/** See the module's head. */
export class Modification {
  readonly #parts: ModificationParts;

  constructor(parts: ModificationParts) {
    this.#parts = parts;
  }

  handlers(): Handlers<ControllerDefinition> {
    return { ControllerModifyVolume: (request) => this.#modify(request) };
  }

  /** Ends what a killed driver began. One that fails is reported, and tried again when the volume is staged. */
  async finish(): Promise<void> {
    for (const volume of this.#parts.files.list()) await this.complete(volume);
  }

  /** Takes again what was discarded of a reserved volume. A failure is only reported: the volume can be used without. */
  async complete(volume: VolumeRecord): Promise<void> {
    const { files, log } = this.#parts;
    try {
      await allocate(files, volume);
    } catch (error) {
      log.error({ volumeId: volume.id, err: error }, 'volume has not all its blocks');
    }
  }

  /**
   * A new volume, with what was asked for when it was created. One that cannot be had so is removed.
   * @throws {RuntimeError} RESOURCE_EXHAUSTED when the disk does not have the blocks
   */
  async ofNew(volume: VolumeRecord, wanted: MutableParameters): Promise<VolumeRecord> {
    try {
      return await this.apply(volume, wanted);
    } catch (error) {
      await this.#parts.files.remove(volume);
      throw error;
    }
  }

  /** Gives a volume what nobody has decided yet: an earlier CreateVolume was cut off. */
  async ofExisting(volume: VolumeRecord, wanted: MutableParameters): Promise<VolumeRecord> {
    return volume.allocation === undefined ? this.apply(volume, wanted) : volume;
  }

  /** Settles when the volume is as wanted; what is not named stays. The caller holds the volume. */
  async apply(volume: VolumeRecord, { allocation }: MutableParameters): Promise<VolumeRecord> {
    const { files } = this.#parts;
    if (allocation === undefined) return volume;
    if (allocation === 'reserved' && volume.type === 'directory') {
      throw invalid(
        'mutable_parameters.allocation',
        `volume ${volume.id} is a directory, which has no blocks of its own`,
      );
    }
    if (allocation === 'reserved') await requireRoom(files, volume);
    const wanted = volume.allocation === allocation ? volume : await files.rewrite({ ...volume, allocation });
    try {
      await allocate(files, wanted);
      return wanted;
    } catch (error) {
      // CSI ControllerModifyVolume: a refusal changes nothing. Blocks it has taken are claimed by the volume anyway.
      if (error instanceof RuntimeError && error.code === 'RESOURCE_EXHAUSTED') await files.rewrite(volume);
      throw error;
    }
  }

  #modify(request: ControllerModifyVolumeRequest__Output): Promise<object> {
    const id = checkVolumeId(request.volumeId);
    checkMap('secrets', request.secrets);
    return this.#parts.inFlight.run(id, async () => {
      const volume = this.#parts.files.get(id);
      await this.apply(volume, parseMutableParameters(request.mutableParameters));
      return {};
    });
  }
}
