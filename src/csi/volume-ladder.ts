/**
 * Moves one volume up and down its ladder (volume.ts), one call at a time, the state written before each call. Callers
 * hold the volume's lane.
 *
 *   up:    state "raising" written -> call -> answer checked -> state "raised" written
 *          refused: back to the rung below.  anything else: the state stays "raising", the next move repeats or reverses it
 *   down:  state "lowering" written -> call -> what the plugin left is cleared -> state below written
 *          any failure: the state stays "lowering", the next move repeats it
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { mountAt } from '../mountinfo.ts';
import { isRefusal } from './error-reactions.ts';
import type { PluginCaller } from './plugin-caller.ts';
import { CsiError } from './protocol.ts';
import {
  positionOf,
  type Rung,
  rungAbove,
  rungsFor,
  stateBelow,
  type VolumeRecord,
  type VolumeState,
} from './volume.ts';
import * as calls from './volume-calls.ts';
import type { VolumeJournal } from './volume-journal.ts';
import type { VolumeMounts } from './volume-mounts.ts';

export interface VolumeLadderOptions {
  readonly caller: PluginCaller;
  readonly journal: VolumeJournal;
  readonly mounts: VolumeMounts;
  readonly bootId: string;
  readonly log: Logger;
}

export class VolumeLadder {
  readonly #options: VolumeLadderOptions;
  readonly #caller: PluginCaller;
  readonly #journal: VolumeJournal;

  constructor(options: VolumeLadderOptions) {
    this.#options = options;
    this.#caller = options.caller;
    this.#journal = options.journal;
  }

  /** Climbs to the top. @throws {RuntimeError} what stopped it; the record says where */
  async raise(start: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord> {
    let record = this.#mayClimb(start) ? start : await this.lower(start, signal);
    if (record.state === 'created') record = await this.#beginClimb(record, signal);
    for (let rung = rungAbove(record); rung !== undefined; rung = rungAbove(record)) {
      record = await this.#climb(record, rung, signal);
    }
    return record;
  }

  /** Goes down until the volume merely exists; reverses what is half done. @throws {RuntimeError} what stopped it */
  async lower(start: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord> {
    let record = start;
    while (record.state !== 'created') {
      const { rung } = positionOf(record.state);
      if (rung.rung === 'volume') throw new RuntimeError('INTERNAL', `volume ${record.name} is ${record.state}`);
      record = await this.#descend(record, rung, signal);
    }
    return record;
  }

  /** What is on its way down goes down; what another boot left is void. */
  #mayClimb(record: VolumeRecord): boolean {
    if (record.state === 'created') return true;
    return positionOf(record.state).phase !== 'lowering' && record.bootId === this.#options.bootId;
  }

  /** Which rungs there are is asked once per climb: the way down must be the way up. */
  async #beginClimb(record: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord> {
    const plugin = await this.#caller.plugin(record.driver, signal);
    const rungs = rungsFor(plugin.capabilities);
    const nodeId = rungs.includes('attachment') ? calls.nodeIdOf(plugin) : undefined;
    return this.#journal.write(record, { rungs, nodeId, publishContext: {}, bootId: this.#options.bootId });
  }

  async #climb(start: VolumeRecord, rung: Rung, signal: AbortSignal): Promise<VolumeRecord> {
    const below = stateBelow(start, rung);
    const fresh = start.state === below;
    const record = this.#journal.write(start, { state: rung.raising });
    try {
      const learned = await this.#up(record, rung, signal);
      return this.#journal.write(record, { ...learned, state: rung.raised, failure: undefined });
    } catch (error) {
      // Only the plugin's own answer to a call that was never sent before proves that nothing was done.
      const untouched = fresh && error instanceof CsiError && isRefusal(error.code) && error.rpc === rung.up;
      if (!untouched || below === undefined) throw this.#journal.fail(record, error);
      await this.#journal.noting(record, () => this.#clear(record, rung, signal));
      throw this.#journal.fail(record, error, { state: below });
    }
  }

  async #up(record: VolumeRecord, { up }: Rung, signal: AbortSignal): Promise<Partial<VolumeRecord>> {
    const { mounts } = this.#options;
    const secrets = this.#caller.secrets(record, up);
    const paths = mounts.pathsOf(record);
    switch (up) {
      case 'CreateVolume':
        throw new RuntimeError('INTERNAL', `volume ${record.name} is ${record.state}`);
      case 'ControllerPublishVolume': {
        const answer = await this.#caller.call(record, up, calls.attachRequest(record, secrets), signal);
        return { publishContext: calls.readAttached(record, answer) };
      }
      case 'NodeStageVolume':
        mounts.makeStage(paths);
        await this.#caller.call(record, up, calls.stageRequest(record, paths, secrets), signal);
        return {};
      case 'NodePublishVolume':
        mounts.makeTargetParent(paths);
        await this.#caller.call(record, up, calls.publishRequest(record, paths, secrets), signal);
        await this.#verified(record);
        return {};
    }
  }

  /** A plugin that says it published but did not is named. */
  async #verified(record: VolumeRecord): Promise<void> {
    const { mounts } = this.#options;
    try {
      await mounts.verifyTarget(record, mounts.pathsOf(record));
    } catch (error) {
      const { message } = RuntimeError.from(error, 'look at the target');
      const reason = `it answered OK, but ${message}`;
      throw new CsiError('INTERNAL', record.driver, 'NodePublishVolume', reason, { cause: error });
    }
  }

  async #descend(start: VolumeRecord, rung: Rung, signal: AbortSignal): Promise<VolumeRecord> {
    const record = this.#journal.write(start, { state: rung.lowering });
    await this.#journal.noting(record, async () => {
      await this.#down(record, rung, signal);
      await this.#clear(record, rung, signal);
    });
    const state: VolumeState = stateBelow(record, rung) ?? 'created';
    return this.#journal.write(record, { state, failure: undefined });
  }

  async #down(record: VolumeRecord, { down }: Rung, signal: AbortSignal): Promise<void> {
    const paths = this.#options.mounts.pathsOf(record);
    switch (down) {
      case 'DeleteVolume':
        throw new RuntimeError('INTERNAL', `volume ${record.name} is ${record.state}`);
      case 'ControllerUnpublishVolume': {
        const secrets = this.#caller.secrets(record, down);
        await this.#caller.call(record, down, calls.detachRequest(record, secrets), signal);
        return;
      }
      case 'NodeUnstageVolume':
        return this.#gone(record, paths.stage, () =>
          this.#caller.call(record, down, calls.unstageRequest(record, paths), signal),
        );
      case 'NodeUnpublishVolume':
        return this.#gone(record, paths.target, () =>
          this.#caller.call(record, down, calls.unpublishRequest(record, paths), signal),
        );
    }
  }

  /** A plugin that no longer knows the volume cannot take it down; the kernel says whether there is anything to take. */
  async #gone(record: VolumeRecord, path: string, call: () => Promise<unknown>): Promise<void> {
    try {
      await call();
    } catch (error) {
      const unknown = error instanceof CsiError && error.code === 'NOT_FOUND';
      if (!unknown || mountAt(path) !== undefined) throw error;
      this.#options.log.warn({ volume: record.name, err: error }, 'the volume is gone, and so is its mount');
    }
  }

  /** Takes away what a rung leaves in the volume's directory. */
  async #clear(record: VolumeRecord, { rung }: Rung, signal: AbortSignal): Promise<void> {
    const { mounts } = this.#options;
    const paths = mounts.pathsOf(record);
    if (rung === 'publication') await mounts.clearTarget(paths, signal);
    if (rung === 'stage') await mounts.clearStage(paths, signal);
    if (rung === 'stage' || !record.rungs.includes('stage')) await mounts.clearDir(paths);
  }
}
