/**
 * Changes parameters of volumes that are there (CSI ControllerModifyVolume). What is wanted is on record before the call,
 * so that a call without an outcome is repeated, also by a daemon that starts again. Callers hold the volume's lane.
 *
 *   wanted --ControllerModifyVolume--> OK: the parameters are as wanted
 *                                      refused: nothing was changed, the wish is forgotten
 *                                      no outcome: the same call again, in the background
 */
import { invalid, RuntimeError } from '../errors.ts';
import type { StringMap } from '../string-map.ts';
import { isRefusal } from './error-reactions.ts';
import type { PluginCaller } from './plugin-caller.ts';
import { checkMap } from './protocol.ts';
import type { VolumeRecord } from './volume.ts';
import { idOf } from './volume-calls.ts';
import type { VolumeJournal } from './volume-journal.ts';
import { isSameMap } from './volume-request.ts';

export interface VolumeModificationOptions {
  readonly caller: PluginCaller;
  readonly journal: VolumeJournal;
  /** Called with the name of a volume whose change has no outcome and goes on in the background. */
  readonly retry: (name: string) => void;
}

const RPC = 'ControllerModifyVolume';

/** See the module's head. */
export class VolumeModification {
  readonly #options: VolumeModificationOptions;

  constructor(options: VolumeModificationOptions) {
    this.#options = options;
  }

  /**
   * Gives parameters new values; those that are not named stay. The same request may be repeated. A change before it
   * whose outcome is not known yet is asked for together with this one, whose values win.
   * @throws {RuntimeError} INVALID_ARGUMENT, FAILED_PRECONDITION when the plugin changes none, before anything is done; or
   * what the plugin says
   */
  async modify(start: VolumeRecord, changes: StringMap, signal: AbortSignal): Promise<VolumeRecord> {
    const { caller, journal, retry } = this.#options;
    checkChanges(changes);
    const { name, driver, state, mutableParameters, modification: before } = start;
    if (state === 'creating' || state === 'deleting') {
      throw new RuntimeError('FAILED_PRECONDITION', `volume ${name} is ${state}`);
    }
    const { capabilities } = await caller.plugin(driver, signal);
    if (!capabilities.controller.has('MODIFY_VOLUME')) {
      const reason = `CSI plugin ${driver} changes no parameters (it does not offer MODIFY_VOLUME)`;
      throw new RuntimeError('FAILED_PRECONDITION', `volume ${name}: ${reason}`);
    }
    if (before === undefined && isSameMap(mutableParameters, { ...mutableParameters, ...changes })) return start;
    await caller.checkSecrets(start, RPC, signal);
    const parameters = checkMap('parameters', { ...before?.parameters, ...changes });
    const record = journal.write(start, { modification: { parameters } });
    try {
      return await this.#send(record, before, signal);
    } catch (error) {
      if (journal.current(record).modification !== undefined) retry(name);
      throw error;
    }
  }

  /** Does what is due. @throws {RuntimeError} what the plugin says */
  async resume(record: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord> {
    if (record.modification === undefined || record.state === 'deleting') return record;
    return this.#send(record, undefined, signal);
  }

  /** `before`: what is wanted again when this is refused. */
  async #send(record: VolumeRecord, before: VolumeRecord['modification'], signal: AbortSignal): Promise<VolumeRecord> {
    const { caller, journal } = this.#options;
    const parameters = { ...record.modification?.parameters };
    const request = { volumeId: idOf(record), mutableParameters: parameters };
    try {
      await caller.call(record, RPC, request, signal);
    } catch (error) {
      // INVALID_ARGUMENT: the plugin has changed nothing (CSI ControllerModifyVolume).
      const refused = isRefusal(error);
      throw journal.fail(record, error, RPC, refused ? { modification: before } : {});
    }
    const mutableParameters = { ...record.mutableParameters, ...parameters };
    return journal.write(record, { mutableParameters, modification: undefined, failure: undefined });
  }
}

function checkChanges(changes: StringMap): void {
  const keys = Object.keys(changes);
  if (keys.length === 0) throw invalid('parameters', 'say at least one');
  if (keys.includes('')) throw invalid('parameters', 'a key is empty');
  checkMap('parameters', changes);
}
