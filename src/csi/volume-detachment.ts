/** Takes a volume off this machine whatever its plugin says, and names what was not done. */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { VolumeRecord } from './volume.ts';
import { ended } from './volume-claims.ts';
import type { VolumeJournal } from './volume-journal.ts';
import type { VolumeLadder } from './volume-ladder.ts';
import type { VolumeMounts } from './volume-mounts.ts';
import type { Step } from './volume-states.ts';

/** Longest time to give up the mounts of one step. */
const ABANDON_MS = 30_000;
const NONE: ReadonlySet<string> = new Set();

export interface VolumeDetachmentOptions {
  readonly journal: VolumeJournal;
  readonly ladder: VolumeLadder;
  readonly mounts: VolumeMounts;
  readonly log: Logger;
}

export class VolumeDetachment {
  readonly #options: VolumeDetachmentOptions;

  constructor(options: VolumeDetachmentOptions) {
    this.#options = options;
  }

  /**
   * Ends all claims, passes over each step down that fails, and gives its mounts up. The record says what was skipped.
   * Callers hold the volume's lane.
   */
  async force(record: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord> {
    const { journal, ladder } = this.#options;
    const start = journal.write(record, { claims: ended(record, () => true), skipped: [] });
    const down = await ladder.lower(start, NONE, signal, (at, step, error) => this.#skip(at, step, error));
    return journal.write(down, { claims: [], failure: undefined });
  }

  async #skip(record: VolumeRecord, { rung, key }: Step, error: unknown): Promise<VolumeRecord> {
    const { journal, log, mounts } = this.#options;
    log.error({ volume: record.name, step: rung.down, err: error }, 'a step of a forced detachment is skipped');
    if (rung.rung !== 'attachment') {
      await mounts.abandon(mounts.pathsOf(record), key, AbortSignal.timeout(ABANDON_MS));
    }
    const reason = RuntimeError.from(error, rung.down).message;
    const skipped = { step: rung.down, reason, skippedAt: new Date().toISOString() };
    return journal.write(record, { skipped: [...record.skipped, skipped] });
  }
}
