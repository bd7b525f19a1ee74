/**
 * The lowest rung: how a volume comes to be and ends (CSI CreateVolume, DeleteVolume). Callers hold the volume's lane.
 *
 * CreateVolume has no opposite until it has told an id. So its outcome is found by repeating it with the same name, and a
 * volume nobody wants any more is made once more before it is deleted: it is "deleting" without an id until then.
 */
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { invalid, RuntimeError } from '../errors.ts';
import { chooseAccessMode } from './access-modes.ts';
import { isCreateRefusal, isRefusal, isVague, mayBearVolume } from './error-reactions.ts';
import { OversizedAnswer } from './oversized-answer.ts';
import type { PluginCaller } from './plugin-caller.ts';
import { CsiError, type Response } from './protocol.ts';
import type { ReclaimPolicy, VolumeRecord } from './volume.ts';
import { createRequest, deleteRequest, type MadeVolume, readCreated } from './volume-calls.ts';
import { refuseTooLarge } from './volume-capacity.ts';
import type { VolumeJournal } from './volume-journal.ts';
import { checkAllowed } from './volume-placement.ts';
import type { UseRequest, VolumeRequest } from './volume-request.ts';
import type { VolumeSources } from './volume-source.ts';

export interface VolumeProvisioningOptions {
  readonly caller: PluginCaller;
  readonly journal: VolumeJournal;
  readonly log: Logger;
  /** All records: an id is one volume's. */
  readonly records: () => Iterable<VolumeRecord>;
  readonly sources: VolumeSources;
}

export class VolumeProvisioning {
  readonly #caller: PluginCaller;
  readonly #journal: VolumeJournal;
  readonly #log: Logger;
  readonly #records: () => Iterable<VolumeRecord>;
  readonly #sources: VolumeSources;

  constructor(options: VolumeProvisioningOptions) {
    this.#caller = options.caller;
    this.#journal = options.journal;
    this.#log = options.log;
    this.#records = options.records;
    this.#sources = options.sources;
  }

  /** Records the intent, with everything that a repeated CreateVolume must say again. */
  async intend(request: VolumeRequest, signal: AbortSignal): Promise<VolumeRecord> {
    const plugin = await this.#caller.plugin(request.driver, signal);
    const { capabilities, topology } = plugin;
    const { name, driver, access, fsType, parameters } = request;
    const { mutableParameters = {}, volumeClass, secretsName, allowedTopologies } = request;
    const provisioned = capabilities.controller.has('CREATE_DELETE_VOLUME');
    if (Object.keys(mutableParameters).length > 0 && !capabilities.controller.has('MODIFY_VOLUME')) {
      throw invalid('mutableParameters', `CSI plugin ${driver} has none (it does not offer MODIFY_VOLUME)`);
    }
    checkAllowed(request, plugin);
    // Missing secrets are told before anything is recorded.
    if (provisioned) await this.#caller.checkSecrets(request, 'CreateVolume', signal);
    if (provisioned) await refuseTooLarge({ caller: this.#caller, log: this.#log }, plugin, request, signal);
    const capacityBytes = String(request.capacityBytes);
    // Nothing may come between this look at the source and the record that holds it.
    const source = this.#sources.recorded(request, capabilities);
    return this.#journal.begin({
      ...(source === undefined ? {} : { source }),
      ...{ name, driver, access, fsType, parameters, provisioned, topology, capacityBytes },
      requestedBytes: capacityBytes,
      csiName: `${name.slice(0, 48)}-${randomBytes(6).toString('hex')}`,
      accessMode: chooseAccessMode(request.accessMode, capabilities),
      ...newVolume(request, provisioned ? 'delete' : 'retain'),
      ...{ mutableParameters, volumeClass, secretsName },
      ...(allowedTopologies === undefined ? {} : { allowedTopologies }),
      // A plugin that makes no volumes is told of one that is there: its id is its name, its context the parameters.
      ...(provisioned ? {} : { volumeId: name }),
      volumeContext: provisioned ? {} : parameters,
      state: provisioned ? 'creating' : 'created',
      rungs: ['volume'],
    });
  }

  /**
   * Makes the volume of a record in state "creating". A refusal of the `first` call removes the record. Once a call has
   * had no outcome there may be a volume, whatever a later one is told: then a refusal is believed when it is said twice.
   * @throws {RuntimeError} what the plugin says
   */
  async make(record: VolumeRecord, signal: AbortSignal, first = false): Promise<VolumeRecord> {
    if (record.state !== 'creating') return record;
    return this.#journal.write(record, { ...(await this.#learn(record, signal, first)), state: 'created' });
  }

  /** What the plugin tells of the volume; one that cannot be used is deleted. */
  async #learn(record: VolumeRecord, signal: AbortSignal, first: boolean): Promise<Learned> {
    const answer = await this.#asked(record, signal, first).catch(async (error: unknown) => {
      if (!(error instanceof OversizedAnswer) || error.volumeId === undefined) throw error;
      throw await this.#disowned(record, error.volumeId, error, signal);
    });
    try {
      this.#checkOwn(record, answer.volume?.volumeId);
      return { ...readCreated(record, answer), failure: undefined };
    } catch (error) {
      throw await this.#disowned(record, answer.volume?.volumeId ?? '', error, signal);
    }
  }

  /** The same for what nobody waits for: undefined says that there is no volume. */
  async makeOrForget(record: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord | undefined> {
    return this.#orForget(record, () => this.make(record, signal));
  }

  async #orForget<T>(record: VolumeRecord, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      if (this.#journal.knows(record)) throw error;
      this.#log.warn({ volume: record.name, csiName: record.csiName, err: error }, 'volume was never made');
      return undefined;
    }
  }

  /**
   * Unmakes a volume that is nowhere mounted and forgets it. When the plugin refuses, the volume stays as it was. The wish
   * is on disk before anything is asked.
   * @throws {RuntimeError} what the plugin says
   */
  async unmake(start: VolumeRecord, signal: AbortSignal): Promise<void> {
    // One whose creation nobody has seen the end of is nobody's data.
    if (start.reclaim === 'retain' && start.volumeId !== undefined) return this.#journal.forget(start);
    const record = await this.#doomed(this.#journal.write(start, { state: 'deleting' }), signal);
    if (record === undefined) return;
    try {
      await this.#delete(record, record, signal);
    } catch (error) {
      throw this.#journal.fail(record, error, 'DeleteVolume', isRefusal(error) ? { state: 'created' } : {});
    }
    this.#journal.forget(record);
  }

  /**
   * Forgets a volume of which nobody knows whether it is there; what the plugin may have made stays there.
   * @throws {RuntimeError} FAILED_PRECONDITION when the plugin has told its id
   */
  abandon(record: VolumeRecord): void {
    const { name, volumeId, driver, csiName } = record;
    if (volumeId !== undefined) {
      throw new RuntimeError(
        'FAILED_PRECONDITION',
        `volume ${name} is there: remove it with "berth volume rm ${name}"`,
      );
    }
    this.#log.warn({ volume: name, plugin: driver, csiName }, 'a volume is forgotten that the plugin may have made');
    this.#journal.forget(record);
  }

  /** The volume with its id; undefined when there is none. */
  async #doomed(record: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord | undefined> {
    if (record.volumeId !== undefined) return record;
    const learned = await this.#orForget(record, () => this.#learn(record, signal, false));
    // Once the id is known nothing keeps the data but the wish to delete them.
    return learned && this.#journal.write(record, { ...learned, reclaim: 'delete' });
  }

  /** @throws {RuntimeError} what the plugin says; the record is forgotten when that is believed */
  async #asked(record: VolumeRecord, signal: AbortSignal, first: boolean): Promise<Response<'CreateVolume'>> {
    try {
      return await this.#askTwice(record, signal);
    } catch (error) {
      const believed = !mayBearVolume(error) && (first || wasRefused(record));
      if (!believed) throw this.#journal.fail(record, error, 'CreateVolume');
      this.#journal.forget(record);
      throw error;
    }
  }

  /** A vague failure is asked about once more. */
  async #askTwice(record: VolumeRecord, signal: AbortSignal): Promise<Response<'CreateVolume'>> {
    const request = createRequest(record);
    try {
      return await this.#caller.call(record, 'CreateVolume', request, signal);
    } catch (error) {
      if (signal.aborted || !isVague(RuntimeError.from(error, 'create').code)) throw error;
      this.#log.warn({ volume: record.name, err: error }, 'CreateVolume failed, asking once more');
    }
    try {
      return await this.#caller.call(record, 'CreateVolume', request, signal);
    } catch (error) {
      throw error instanceof CsiError && !isVague(error.code) ? error.repeated() : error;
    }
  }

  /** A volume that is on record under another name is not this one. */
  #checkOwn(record: VolumeRecord, volumeId: string | undefined): void {
    const { driver } = record;
    const other = this.#ownerOf(record, volumeId);
    if (other === undefined) return;
    throw new CsiError('FAILED_PRECONDITION', driver, 'CreateVolume', `volume_id is the one of volume ${other.name}`);
  }

  #ownerOf({ name, driver }: VolumeRecord, volumeId: string | undefined): VolumeRecord | undefined {
    return [...this.#records()].find((one) => one.driver === driver && one.volumeId === volumeId && one.name !== name);
  }

  /**
   * A volume that cannot be used is not kept in the storage system, unless it is another's. The record stays until that
   * is done. Returns the reason.
   */
  async #disowned(record: VolumeRecord, volumeId: string, reason: unknown, signal: AbortSignal): Promise<unknown> {
    if (volumeId !== '' && this.#ownerOf(record, volumeId) === undefined) {
      const target = { ...record, volumeId };
      await this.#journal.noting(record, 'DeleteVolume', () => this.#delete(record, target, signal));
    }
    this.#journal.forget(record);
    return reason;
  }

  /** An absent volume is as good as deleted (CSI DeleteVolume). */
  async #delete(record: VolumeRecord, target: VolumeRecord, signal: AbortSignal): Promise<void> {
    const request = deleteRequest(target);
    try {
      await this.#caller.call(record, 'DeleteVolume', request, signal);
    } catch (error) {
      if (!(error instanceof CsiError) || error.code !== 'NOT_FOUND') throw error;
    }
  }
}

/** What CreateVolume tells, and that it has not failed. */
type Learned = MadeVolume & Pick<VolumeRecord, 'failure'>;

/** What a record of a volume says that has not been anywhere yet. */
export function newVolume(
  { mountFlags = [], group, ownership = 'root-mismatch', reclaim }: UseRequest,
  usualReclaim: ReclaimPolicy,
): Pick<
  VolumeRecord,
  | 'mutableParameters'
  | 'mountFlags'
  | 'group'
  | 'ownership'
  | 'reclaim'
  | 'availability'
  | 'accessibleTopology'
  | 'delegatesGroup'
  | 'publications'
  | 'publishContext'
  | 'skipped'
  | 'claims'
  | 'createdAt'
> {
  return {
    mutableParameters: {},
    mountFlags,
    ...(group === undefined ? {} : { group }),
    ownership,
    reclaim: reclaim ?? usualReclaim,
    availability: 'active',
    accessibleTopology: [],
    delegatesGroup: false,
    publications: [],
    publishContext: {},
    skipped: [],
    claims: [],
    createdAt: new Date().toISOString(),
  };
}

/** Whether the last CreateVolume was refused. */
function wasRefused({ failure }: VolumeRecord): boolean {
  return failure?.step === 'CreateVolume' && isCreateRefusal(failure.code);
}
