/**
 * Brings volumes to rest: what is due for one is done, a volume half made is made or forgotten, one half unmade is
 * unmade, one that containers gave back comes down. Callers hold the volume's lane, and try again what failed.
 */
import type { Store } from '../store.ts';
import type { VolumeRecord } from './volume.ts';
import type { VolumeChanges } from './volume-changes.ts';
import { remainingClaims, survivingClaims } from './volume-claims.ts';
import type { VolumeJournal } from './volume-journal.ts';
import type { VolumeLadder } from './volume-ladder.ts';
import type { VolumeProvisioning } from './volume-provisioning.ts';
import { neededKeys } from './volume-states.ts';

export interface VolumeSettlementOptions {
  readonly store: Store<VolumeRecord>;
  readonly journal: VolumeJournal;
  readonly ladder: VolumeLadder;
  readonly provisioning: VolumeProvisioning;
  readonly changes: VolumeChanges;
  /** This boot. */
  readonly bootId: string;
}

const NONE: ReadonlySet<string> = new Set();

export class VolumeSettlement {
  readonly #options: VolumeSettlementOptions;

  constructor(options: VolumeSettlementOptions) {
    this.#options = options;
  }

  /** Finishes what is due: a volume half made, half unmade, or no longer used. Nothing is due for one in use. */
  async settle(name: string, signal: AbortSignal): Promise<void> {
    const { store, provisioning, ladder } = this.#options;
    const record = store.read(name);
    if (record === undefined) return;
    if (record.state === 'creating') {
      await provisioning.makeOrForget(record, signal);
      return;
    }
    if (record.state === 'deleting') return provisioning.unmake(record, signal);
    try {
      this.#forgetEnded(await ladder.lower(record, neededKeys(record), signal));
    } catch (error) {
      const left = store.read(name);
      if (left !== undefined) this.#forgetEnded(left);
      throw error;
    }
  }

  /** The same, and what was to be done to the volume itself: nobody who gives a volume back waits for that. */
  async settleAll(name: string, signal: AbortSignal): Promise<void> {
    await this.settle(name, signal);
    const record = this.#options.store.read(name);
    if (record !== undefined) await this.#options.changes.resume(record, signal);
  }

  /** Down from wherever it stands, and gone. */
  async unmake(record: VolumeRecord, signal: AbortSignal): Promise<void> {
    const { ladder, provisioning } = this.#options;
    const mounted = record.state !== 'creating' && record.state !== 'deleting';
    const start = mounted ? await ladder.lower(record, NONE, signal) : record;
    await provisioning.unmake({ ...start, claims: [] }, signal);
  }

  /** Ends claims of containers that cannot be running: of another boot, or on a volume that had not come up. */
  endVoidClaims(name: string): void {
    const { store, journal, bootId } = this.#options;
    const record = store.read(name);
    if (record === undefined) return;
    const claims = survivingClaims(record, bootId);
    if (claims !== record.claims) journal.write(record, { claims });
  }

  #forgetEnded(record: VolumeRecord): void {
    const claims = remainingClaims(record);
    if (claims.length < record.claims.length) this.#options.journal.write(record, { claims }, 'process');
  }
}
