/**
 * Moves one volume up and down its ladder (volume.ts), one call at a time, the state written before each call. Callers
 * hold the volume's lane. The top rung is climbed once for each target (a publication).
 *
 * What is written before a call outlives a power failure, what is written after it the daemon: after a power failure every
 * step up is void, and a step down is repeated.
 *
 *   up:    state "raising" written -> call -> answer checked -> state "raised" written
 *          refused: back to the rung below.  anything else: the state stays "raising", the next move repeats or reverses it
 *   down:  state "lowering" written -> call -> what the plugin left is cleared -> state below written
 *          any failure: the state stays "lowering", the next move repeats it
 */
import type { Logger } from 'pino';
import { gathered, RuntimeError } from '../errors.ts';
import type { Durability } from '../store.ts';
import { isRefusal } from './error-reactions.ts';
import type { PluginCaller } from './plugin-caller.ts';
import { CsiError } from './protocol.ts';
import type { Publication, VolumeRecord } from './volume.ts';
import * as calls from './volume-calls.ts';
import type { VolumeExpansion } from './volume-expansion.ts';
import type { VolumeJournal } from './volume-journal.ts';
import type { PublishedPlace, VolumeMounts } from './volume-mounts.ts';
import { checkReachable, checkRoom } from './volume-placement.ts';
import {
  neededKeys,
  nextDown,
  nextUp,
  type Rung,
  rungsFor,
  type Step,
  stateBelow,
  stateWith,
} from './volume-states.ts';

export interface VolumeLadderOptions {
  readonly caller: PluginCaller;
  readonly journal: VolumeJournal;
  readonly mounts: VolumeMounts;
  readonly expansion: VolumeExpansion;
  readonly bootId: string;
  readonly log: Logger;
  /** All records, to count what a plugin has on this node. */
  readonly records: () => Iterable<VolumeRecord>;
}

/** Longest time that a step may take when it is passed over otherwise. */
const FORCED_STEP_MS = 10_000;

/** What is done instead when a step down fails: the volume counts as one step lower then. */
export type OnFailure = (record: VolumeRecord, step: Step, error: unknown) => Promise<VolumeRecord>;

export class VolumeLadder {
  readonly #options: VolumeLadderOptions;
  readonly #caller: PluginCaller;
  readonly #journal: VolumeJournal;
  /** Volumes that there is room for and that have not moved yet. */
  readonly #climbing = new Set<string>();

  constructor(options: VolumeLadderOptions) {
    this.#options = options;
    this.#caller = options.caller;
    this.#journal = options.journal;
  }

  /** Climbs to a publication. @throws {RuntimeError} what stopped it; the record says where */
  async raise(start: VolumeRecord, wanted: Omit<Publication, 'state'>, signal: AbortSignal): Promise<PublishedPlace> {
    try {
      return await this.#raise(start, wanted, signal);
    } finally {
      this.#climbing.delete(start.name);
    }
  }

  /**
   * Goes down to what `keep`, keys of publications, needs; reverses what is half done. Every target is tried.
   * @throws {RuntimeError} what stopped it
   */
  async lower(
    start: VolumeRecord,
    keep: ReadonlySet<string>,
    signal: AbortSignal,
    onFailure?: OnFailure,
  ): Promise<VolumeRecord> {
    const { bootId } = this.#options;
    const failures: unknown[] = [];
    const passed = new Set<string>();
    const next = (record: VolumeRecord): Step | undefined => nextDown(record, { keep, bootId, passed });
    let record = start;
    for (let step = next(record); step !== undefined; step = next(record)) {
      try {
        record = await this.#descend(record, step, signal, onFailure);
      } catch (error) {
        if (step.key === undefined) throw error;
        failures.push(error);
        passed.add(step.key);
        record = this.#journal.current(record);
      }
    }
    const failure = gathered(failures, `volume ${record.name}`);
    if (failure !== undefined) throw failure;
    return record;
  }

  async #raise(start: VolumeRecord, wanted: Omit<Publication, 'state'>, signal: AbortSignal): Promise<PublishedPlace> {
    let record = await this.lower(this.#outdated(start, wanted), neededKeys(start), signal);
    if (record.state === 'created') record = await this.#beginClimb(record, signal);
    for (let step = nextUp(record, wanted.key); step !== undefined; step = nextUp(record, wanted.key)) {
      if (step.key !== undefined) return this.#publish(record, step.rung, wanted, signal);
      record = await this.#climb(record, step.rung, signal);
    }
    return this.#place(record, wanted.key, signal);
  }

  async #place(record: VolumeRecord, key: string, signal: AbortSignal): Promise<PublishedPlace> {
    const { mounts } = this.#options;
    return mounts.verifyTarget(record, mounts.pathsOf(record).target(key), signal);
  }

  /** A publication that was made for other words, or whose mount has gone, is made anew. */
  #outdated(record: VolumeRecord, wanted: Omit<Publication, 'state'>): VolumeRecord {
    const { mounts } = this.#options;
    const found = record.publications.find(({ key }) => key === wanted.key);
    if (found === undefined || found.state === 'unpublishing') return record;
    const same = found.readOnly === wanted.readOnly && found.group === wanted.group;
    const there =
      found.state === 'publishing' || mounts.looksPublished(record, mounts.pathsOf(record).target(found.key));
    if (same && there) return record;
    this.#options.log.warn({ volume: record.name, same, there }, 'a target is published anew');
    return this.#write(record, { ...found, state: 'unpublishing' }, {}, 'process');
  }

  /** Which rungs there are is asked once per climb: the way down must be the way up. */
  async #beginClimb(record: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord> {
    const plugin = await this.#caller.plugin(record.driver, signal);
    this.#options.mounts.checkPaths(record);
    checkReachable(record, plugin);
    checkRoom(record, plugin, this.#options.records(), this.#climbing);
    this.#climbing.add(record.name);
    const rungs = rungsFor(plugin.capabilities);
    const nodeId = rungs.includes('attachment') ? calls.nodeIdOf(plugin) : undefined;
    const delegatesGroup = plugin.capabilities.node.has('VOLUME_MOUNT_GROUP');
    const { bootId } = this.#options;
    const begun = { rungs, nodeId, delegatesGroup, publishContext: {}, bootId, skipped: [] };
    return this.#journal.write(record, begun, 'process');
  }

  async #climb(start: VolumeRecord, rung: Rung, signal: AbortSignal): Promise<VolumeRecord> {
    const below = stateBelow(start, rung);
    const fresh = start.state === below;
    const record = this.#journal.write(start, { state: rung.raising });
    try {
      const learned = await this.#up(record, rung, signal);
      const changes = { ...learned, state: rung.raised, failure: undefined };
      const raised = this.#journal.write(record, changes, 'process');
      return rung.rung === 'stage' ? await this.#options.expansion.whenUp(raised, signal) : raised;
    } catch (error) {
      if (!fresh || below === undefined || !refusedBy(error, rung)) throw this.#journal.fail(record, error, rung.up);
      await this.#journal.noting(record, rung.up, () => this.#clear(record, { rung }, signal));
      throw this.#journal.fail(record, error, rung.up, { state: below });
    }
  }

  async #publish(
    start: VolumeRecord,
    rung: Rung,
    wanted: Omit<Publication, 'state'>,
    signal: AbortSignal,
  ): Promise<PublishedPlace> {
    const { key } = wanted;
    const fresh = !start.publications.some((one) => one.key === key);
    const publication: Publication = { ...wanted, state: 'publishing' };
    const record = this.#write(start, publication);
    try {
      const place = await this.#nodePublish(record, publication, signal);
      const up = this.#write(record, { ...publication, state: 'published' }, this.#settled(record, key), 'process');
      const first = start.publications.length === 0 && !start.rungs.includes('stage');
      if (first) await this.#options.expansion.whenUp(up, signal);
      return place;
    } catch (error) {
      if (!fresh || !refusedBy(error, rung)) throw this.#journal.fail(record, error, rung.up);
      await this.#journal.noting(record, rung.up, () => this.#clear(record, { rung, key }, signal));
      throw this.#journal.fail(record, error, rung.up, without(record, key));
    }
  }

  async #up(record: VolumeRecord, { up }: Rung, signal: AbortSignal): Promise<Partial<VolumeRecord>> {
    const { mounts } = this.#options;
    switch (up) {
      case 'ControllerPublishVolume': {
        const answer = await this.#caller.call(record, up, calls.attachRequest(record), signal);
        return { publishContext: calls.readAttached(record, answer) };
      }
      case 'NodeStageVolume': {
        const paths = mounts.pathsOf(record);
        mounts.makeStage(paths);
        await this.#caller.call(record, up, calls.stageRequest(record, paths), signal);
        return {};
      }
      default:
        throw new RuntimeError('INTERNAL', `volume ${record.name} is ${record.state}`);
    }
  }

  async #nodePublish(record: VolumeRecord, publication: Publication, signal: AbortSignal): Promise<PublishedPlace> {
    const { mounts } = this.#options;
    const paths = mounts.pathsOf(record);
    mounts.makeTargetParent(paths);
    const request = calls.publishRequest(record, paths, publication);
    await this.#caller.call(record, 'NodePublishVolume', request, signal);
    const place = await this.#verified(record, publication.key, signal);
    const { group, readOnly } = publication;
    const ours = record.access === 'mount' && !record.delegatesGroup && !readOnly;
    if (ours && group !== undefined) await mounts.own(place.path, group, record.ownership, signal);
    return place;
  }

  /** A plugin that says it published but did not is named. */
  async #verified(record: VolumeRecord, key: string, signal: AbortSignal): Promise<PublishedPlace> {
    try {
      return await this.#place(record, key, signal);
    } catch (error) {
      const { message } = RuntimeError.from(error, 'look at the target');
      const reason = `it answered OK, but ${message}`;
      throw new CsiError('INTERNAL', record.driver, 'NodePublishVolume', reason, { cause: error });
    }
  }

  async #descend(start: VolumeRecord, step: Step, signal: AbortSignal, onFailure?: OnFailure): Promise<VolumeRecord> {
    const { rung, key } = step;
    const record = this.#lowering(start, step);
    const bounded = onFailure === undefined ? signal : AbortSignal.any([signal, AbortSignal.timeout(FORCED_STEP_MS)]);
    try {
      await this.#down(record, step, bounded);
      await this.#clear(record, step, bounded);
    } catch (error) {
      const failure = this.#journal.fail(record, error, rung.down);
      if (onFailure === undefined) throw failure;
      return this.#lowered(await onFailure({ ...record, failure: undefined }, step, error), rung, key);
    }
    return this.#lowered(record, rung, key);
  }

  #lowering(record: VolumeRecord, { rung, key }: Step): VolumeRecord {
    if (key === undefined) return this.#journal.write(record, { state: rung.lowering });
    const found = record.publications.find((one) => one.key === key);
    return found === undefined ? record : this.#write(record, { ...found, state: 'unpublishing' });
  }

  #lowered(record: VolumeRecord, rung: Rung, key: string | undefined): VolumeRecord {
    const below = key === undefined ? { state: stateBelow(record, rung) ?? 'created' } : without(record, key);
    // Another machine may attach it from now on: that must not be undone by a call that is repeated.
    const durability = rung.rung === 'attachment' ? 'power' : 'process';
    return this.#journal.write(record, { ...below, ...this.#settled({ ...record, ...below }) }, durability);
  }

  async #down(record: VolumeRecord, { rung: { down }, key = '' }: Step, signal: AbortSignal): Promise<void> {
    const { mounts } = this.#options;
    const paths = mounts.pathsOf(record);
    switch (down) {
      case 'ControllerUnpublishVolume': {
        await this.#caller.call(record, down, calls.detachRequest(record), signal);
        return;
      }
      case 'NodeUnstageVolume': {
        const [used] = mounts.targetsMounted(paths);
        if (used !== undefined) {
          throw new RuntimeError('FAILED_PRECONDITION', `volume ${record.name} is still mounted at ${used.mountPoint}`);
        }
        return this.#gone(record, () => this.#caller.call(record, down, calls.unstageRequest(record, paths), signal));
      }
      case 'NodeUnpublishVolume': {
        const request = calls.unpublishRequest(record, paths.target(key));
        return this.#gone(record, () => this.#caller.call(record, down, request, signal));
      }
      default:
        throw new RuntimeError('INTERNAL', `volume ${record.name} is ${record.state}`);
    }
  }

  /** A plugin that no longer knows the volume cannot take it down; what it left is taken away by the clearing. */
  async #gone(record: VolumeRecord, call: () => Promise<unknown>): Promise<void> {
    try {
      await call();
    } catch (error) {
      if (!(error instanceof CsiError) || error.code !== 'NOT_FOUND') throw error;
      this.#options.log.warn({ volume: record.name, err: error }, 'the plugin does not know the volume any more');
    }
  }

  /** Takes away what a step leaves in the volume's directory. */
  async #clear(record: VolumeRecord, { rung: { rung }, key }: Step, signal: AbortSignal): Promise<void> {
    const { mounts } = this.#options;
    const paths = mounts.pathsOf(record);
    if (key !== undefined) await mounts.clearTarget(paths.target(key), signal);
    if (rung === 'stage') await mounts.clearStage(paths, signal);
    const last = record.publications.every((one) => one.key === key) && !record.rungs.includes('stage');
    if (rung === 'stage' || last) mounts.clearDir(paths);
  }

  /** The last failure is over, unless it is another target's. */
  #settled({ publications }: VolumeRecord, key?: string): Partial<VolumeRecord> {
    const stuck = publications.some((one) => one.key !== key && one.state !== 'published');
    return stuck ? {} : { failure: undefined };
  }

  #write(
    record: VolumeRecord,
    publication: Publication,
    changes: Partial<VolumeRecord> = {},
    durability: Durability = 'power',
  ): VolumeRecord {
    const others = record.publications.filter(({ key }) => key !== publication.key);
    const publications = [...others, publication];
    const state = stateWith(record, publications);
    return this.#journal.write(record, { ...changes, publications, state }, durability);
  }
}

/** Only the plugin's own answer to a call that was never sent before proves that nothing was done. */
function refusedBy(error: unknown, { up }: Rung): boolean {
  return isRefusal(error) && error.rpc === up;
}

function without(record: VolumeRecord, gone: string): Pick<VolumeRecord, 'publications' | 'state'> {
  const publications = record.publications.filter(({ key }) => key !== gone);
  return { publications, state: stateWith(record, publications) };
}
