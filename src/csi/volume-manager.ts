/**
 * CSI volumes of this machine: made, claimed by containers, given back, unmade. It owns the records and their claims;
 * how one volume moves is volume-ladder.ts. Where the access mode lets a plugin do so, each container gets a target of
 * its own; otherwise a volume is published once, for as long as any container claims it: a volume for one writer may be
 * published once only (CSI NodePublishVolume), and its containers share it.
 *
 *   claim recorded -> volume raised -> ... container runs ... -> claim marked -> volume lowered -> claim gone
 *
 * One lane per volume: at most one call is in flight for it (CSI "Concurrency"). What could not be undone stays on
 * record and is tried again: when its plugin is back, after growing pauses, and when asked.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { Serial } from '../serial.ts';
import type { Store } from '../store.ts';
import type { StringMap } from '../string-map.ts';
import { PluginCaller } from './plugin-caller.ts';
import type { Availability, Claim, VolumeRecord } from './volume.ts';
import { type PlannedAttempt, VolumeBacklog } from './volume-backlog.ts';
import { VolumeChanges } from './volume-changes.ts';
import { checkIdle, checkUnused, claimed, ended, type PublishOptions, unknownVolume } from './volume-claims.ts';
import { withoutClass } from './volume-class.ts';
import { VolumeDetachment } from './volume-detachment.ts';
import { VolumeJournal } from './volume-journal.ts';
import { VolumeLadder } from './volume-ladder.ts';
import type { VolumeManagerOptions } from './volume-manager-options.ts';
import { type PublishedPlace, VolumeMounts } from './volume-mounts.ts';
import { VolumeProvisioning } from './volume-provisioning.ts';
import { VolumeRegistration } from './volume-registration.ts';
import {
  checkContainerId,
  isSameRequest,
  type RegisterRequest,
  type VolumeWish,
  validateRegisterRequest,
  validateVolumeWish,
} from './volume-request.ts';
import { VolumeSettlement } from './volume-settlement.ts';
import { VolumeSources } from './volume-source.ts';
import { activeClaims } from './volume-states.ts';
import { type VolumeStats, volumeStats } from './volume-stats.ts';
import type { VolumeTools } from './volume-tools.ts';

/** Longest time one attempt in the background may take; more than the deadline of any call. */
const ATTEMPT_TIMEOUT_MS = 150_000;
/** Longest time a start of the daemon waits for one volume; the background goes on. */
const RECOVER_TIMEOUT_MS = 10_000;

export class VolumeManager {
  readonly #options: VolumeManagerOptions;
  readonly #store: Store<VolumeRecord>;
  readonly #log: Logger;
  readonly #mounts: VolumeMounts;
  readonly #caller: PluginCaller;
  readonly #journal: VolumeJournal;
  readonly #ladder: VolumeLadder;
  readonly #changes: VolumeChanges;
  readonly #provisioning: VolumeProvisioning;
  readonly #registration: VolumeRegistration;
  readonly #detachment: VolumeDetachment;
  readonly #sources: VolumeSources;
  readonly #settlement: VolumeSettlement;
  readonly #lanes = new Serial();
  readonly #backlog: VolumeBacklog;

  constructor(options: VolumeManagerOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#log = options.log.child({ component: 'volumes' });
    this.#mounts = new VolumeMounts({ ...options, log: this.#log });
    this.#journal = new VolumeJournal(options.store, this.#log);
    const { registry, bootId } = options;
    this.#caller = new PluginCaller({ ...options, log: this.#log });
    const shared = { caller: this.#caller, journal: this.#journal, log: this.#log, records: () => this.list() };
    const retry = (name: string): void => this.#backlog.add(name);
    this.#changes = new VolumeChanges({ ...shared, mounts: this.#mounts, retry });
    const { expansion } = this.#changes;
    this.#ladder = new VolumeLadder({ ...shared, mounts: this.#mounts, expansion, bootId });
    this.#sources = new VolumeSources(options.store, options.snapshots);
    this.#provisioning = new VolumeProvisioning({ ...shared, sources: this.#sources });
    this.#detachment = new VolumeDetachment({ ...shared, ladder: this.#ladder, mounts: this.#mounts });
    this.#registration = new VolumeRegistration(shared);
    this.#settlement = new VolumeSettlement({
      ...shared,
      store: options.store,
      ladder: this.#ladder,
      provisioning: this.#provisioning,
      changes: this.#changes,
      bootId,
    });
    this.#backlog = new VolumeBacklog({
      log: this.#log,
      settle: (name, signal) => this.#lanes.run(name, () => this.#settlement.settleAll(name, signal), signal),
      attemptMs: ATTEMPT_TIMEOUT_MS,
    });
    this.#backlog.follow(registry, (driver) => this.list().filter((record) => record.driver === driver));
  }

  /**
   * Makes a volume. The same request may be repeated, and continues one whose outcome is unknown. A refused request
   * leaves nothing; one without an outcome leaves a record in state "creating": it goes on in the background with the same
   * words until the plugin makes the volume or refuses, and can be repeated or removed.
   * @throws {RuntimeError} INVALID_ARGUMENT naming the field, ALREADY_EXISTS when the name is taken by another request
   */
  async create(wish: VolumeWish, signal: AbortSignal): Promise<VolumeRecord> {
    validateVolumeWish(wish);
    const { name } = wish;
    return this.#lanes.run(
      name,
      async () => {
        const existing = this.#store.read(name);
        if (existing === undefined) {
          const classed = (await this.#options.classes?.fill(wish)) ?? withoutClass(wish);
          validateVolumeWish(classed);
          const request = this.#sources.fill(classed);
          return this.#make(await this.#provisioning.intend(request, signal), signal, true);
        }
        if (!isSameRequest(existing, wish)) {
          throw new RuntimeError('ALREADY_EXISTS', `volume ${name} exists and was asked for in other words`);
        }
        if (existing.state === 'deleting') checkIdle(existing);
        return this.#make(existing, signal);
      },
      signal,
    );
  }

  async #make(record: VolumeRecord, signal: AbortSignal, first = false): Promise<VolumeRecord> {
    try {
      const made = await this.#provisioning.make(record, signal, first);
      if (record.state === 'creating') this.#backlog.done(record.name);
      return made;
    } catch (error) {
      if (this.#journal.knows(record)) this.#backlog.add(record.name);
      throw error;
    }
  }

  /** All volumes, by name. */
  list(): readonly VolumeRecord[] {
    return [...this.#store.entries().values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** When something that failed is tried again. */
  planned(name: string): PlannedAttempt | undefined {
    return this.#backlog.planned(name);
  }

  /** @throws {RuntimeError} NOT_FOUND, or DATA_LOSS when its record does not decode */
  get(name: string): VolumeRecord {
    const record = this.#store.read(name);
    if (record === undefined) throw unknownVolume(name);
    return record;
  }

  /** Calls to plugins that are about no volume of this machine. */
  get caller(): PluginCaller {
    return this.#caller;
  }

  /**
   * Runs work on a volume in the volume's lane: nothing else is done with it meanwhile. What the work changes it writes
   * by `tools.journal`.
   * @throws {RuntimeError} NOT_FOUND, or what the work throws
   */
  async exclusive<T>(
    name: string,
    work: (record: VolumeRecord, tools: VolumeTools) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const tools = { caller: this.#caller, journal: this.#journal, mounts: this.#mounts };
    return this.#lanes.run(name, () => work(this.get(name), tools), signal);
  }

  /** Makes a volume larger; what fails without an outcome goes on in the background. @throws as VolumeExpansion.expand */
  async expand(name: string, bytes: number | bigint, signal: AbortSignal): Promise<VolumeRecord> {
    return this.exclusive(name, (record) => this.#changes.expansion.expand(record, bytes, signal), signal);
  }

  /** Gives parameters other values; what has no outcome is repeated in the background. @throws as VolumeModification.modify */
  async modify(name: string, changes: StringMap, signal: AbortSignal): Promise<VolumeRecord> {
    return this.exclusive(name, (record) => this.#changes.modification.modify(record, changes, signal), signal);
  }

  /** How full a volume is and how it fares; never fails for the plugin's sake. @throws {RuntimeError} NOT_FOUND */
  async stats(name: string, signal: AbortSignal): Promise<VolumeStats> {
    return volumeStats(this.get(name), { caller: this.#caller, mounts: this.#mounts }, signal);
  }

  /**
   * Takes a volume into the records that the storage system has already.
   * @throws {RuntimeError} INVALID_ARGUMENT naming the field, ALREADY_EXISTS, or what the plugin says
   */
  async register(request: RegisterRequest, signal: AbortSignal): Promise<VolumeRecord> {
    validateRegisterRequest(request);
    const { name } = request;
    const work = (): Promise<VolumeRecord> => this.#registration.register(request, this.#store.read(name), signal);
    return this.#lanes.run(name, work, signal);
  }

  /** Says whether containers may begin to use a volume. Those that use it go on. @throws {RuntimeError} NOT_FOUND */
  async update(name: string, availability: Availability, signal: AbortSignal): Promise<VolumeRecord> {
    return this.exclusive(name, async (record) => this.#journal.write(record, { availability }), signal);
  }

  /**
   * Takes a volume off this machine. Forced, it ends the claims of containers, whether they run or not, and passes over
   * what fails; its mounts are given up then, and the record says what was skipped.
   * @throws {RuntimeError} NOT_FOUND, FAILED_PRECONDITION while containers claim it, or what failed
   */
  async detach(name: string, force: boolean, signal: AbortSignal): Promise<VolumeRecord> {
    const work = async (record: VolumeRecord): Promise<VolumeRecord> => {
      checkIdle(record);
      if (!force) {
        checkUnused(record);
        await this.#backlog.run(name, () => this.#settlement.settle(name, signal));
        return this.get(name);
      }
      const detached = await this.#detachment.force(record, signal);
      this.#backlog.done(name);
      return detached;
    };
    return this.exclusive(name, work, signal);
  }

  /**
   * Unmakes a volume; repeated until the plugin has done it.
   * @throws {RuntimeError} NOT_FOUND, FAILED_PRECONDITION while containers claim it, or what the plugin says
   */
  async remove(name: string, signal: AbortSignal): Promise<void> {
    const work = async (record: VolumeRecord): Promise<void> => {
      checkUnused(record);
      this.#sources.refuseRemoval(name);
      await this.#backlog.run(name, () => this.#settlement.unmake(record, signal));
    };
    await this.exclusive(name, work, signal);
  }

  /**
   * Takes from the records a volume whose CreateVolume never had an outcome. What the plugin may have made stays there.
   * @throws {RuntimeError} NOT_FOUND, FAILED_PRECONDITION when the volume is known to be there
   */
  async forget(name: string, signal: AbortSignal): Promise<void> {
    const work = async (record: VolumeRecord): Promise<void> => {
      this.#provisioning.abandon(record);
      this.#backlog.done(name);
    };
    await this.exclusive(name, work, signal);
  }

  /**
   * Brings a volume to this machine for a container. When it fails, `release` is due.
   * @returns the mounted directory, or the block device, as the host sees it
   * @throws {RuntimeError} NOT_FOUND, FAILED_PRECONDITION when it cannot be used so, or what the plugin says
   */
  async publish(
    name: string,
    containerId: string,
    options: PublishOptions,
    signal: AbortSignal,
  ): Promise<PublishedPlace> {
    checkContainerId(containerId);
    return this.#lanes.run(
      name,
      async () => {
        const record = this.get(name);
        const wanted = claimed(record, containerId, options);
        const others = record.claims.filter((claim) => claim.containerId !== containerId);
        const claim: Claim = { containerId, ...options, claimedAt: new Date().toISOString(), releasing: false };
        // No container runs after a power failure; a claim that a call follows is on disk before it.
        const recorded = this.#journal.write(record, { claims: [...others, claim] }, 'process');
        return this.#ladder.raise(recorded, wanted, signal);
      },
      signal,
    );
  }

  /**
   * Ends a container's use of a volume; the last one takes the volume down. Succeeds for volumes and containers that are
   * unknown. @throws {RuntimeError} when something is left: the claim stays, call it again
   */
  async release(name: string, containerId: string, signal: AbortSignal): Promise<void> {
    checkContainerId(containerId);
    await this.#lanes.run(
      name,
      async () => {
        const record = this.#store.read(name);
        if (record === undefined) return;
        if (activeClaims(record).some((claim) => claim.containerId === containerId)) {
          const claims = ended(record, (claim) => claim.containerId === containerId);
          this.#journal.write(record, { claims }, 'process');
        }
        try {
          await this.#backlog.run(name, () => this.#settlement.settle(name, signal));
        } catch (error) {
          // What is left may be another container's: that one hears of it.
          if (this.get(name).claims.some((claim) => claim.containerId === containerId)) throw error;
        }
      },
      signal,
    );
  }

  /**
   * Due once, before any other call: ends what a daemon that died had begun, and voids what another boot has left.
   * Claims on a published volume stay, their containers may be running. What fails is logged and tried again.
   */
  async recover(signal: AbortSignal): Promise<void> {
    for (const [name, reason] of this.#store.damaged()) {
      this.#log.error({ volume: name, reason }, 'volume record does not decode: left alone');
    }
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(RECOVER_TIMEOUT_MS)]);
    await Promise.all(this.list().map(({ name }) => this.#lanes.run(name, () => this.#recoverOne(name, bounded))));
  }

  /** Ends the background's work and waits for calls under way. Volumes stay as they are. */
  async close(): Promise<void> {
    await this.#backlog.close();
    await this.#caller.close();
    await this.#lanes.drain();
  }

  async #recoverOne(name: string, signal: AbortSignal): Promise<void> {
    try {
      this.#settlement.endVoidClaims(name);
      await this.#backlog.run(name, () => this.#settlement.settleAll(name, signal));
    } catch (error) {
      this.#log.warn({ volume: name, err: error }, 'volume recovery incomplete, will be tried again');
    }
  }
}
