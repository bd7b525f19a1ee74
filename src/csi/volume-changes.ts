/** What is done to volumes that are there, beside moving them: they are made larger, and given other parameters. */
import type { Logger } from 'pino';
import { gathered } from '../errors.ts';
import type { VolumeRecord } from './volume.ts';
import { VolumeExpansion, type VolumeExpansionOptions } from './volume-expansion.ts';
import { VolumeModification } from './volume-modification.ts';

export class VolumeChanges {
  readonly expansion: VolumeExpansion;
  readonly modification: VolumeModification;
  readonly #options: VolumeExpansionOptions & { readonly log: Logger };

  constructor(options: VolumeExpansionOptions) {
    this.#options = options;
    this.expansion = new VolumeExpansion(options);
    this.modification = new VolumeModification(options);
  }

  /** Does what is due of both; one that fails does not hold up the other. @throws {RuntimeError} what failed */
  async resume(record: VolumeRecord, signal: AbortSignal): Promise<void> {
    const errors: unknown[] = [];
    await this.expansion.resume(record, signal).catch((error: unknown) => errors.push(error));
    await this.modification
      .resume(this.#options.journal.current(record), signal)
      .catch((error: unknown) => errors.push(error));
    const failure = gathered(errors, `volume ${record.name}`);
    if (failure !== undefined) throw failure;
  }
}
