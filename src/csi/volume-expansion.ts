/**
 * Makes volumes larger (CSI ControllerExpandVolume, NodeExpandVolume). What is wanted, and which of the two calls is due,
 * is on record before each call, so that a daemon that starts again goes on where the last one ended.
 *
 *   wanted --ControllerExpandVolume--> node step due --NodeExpandVolume--> done
 *      |                                   ^   |
 *      +-- no controller expansion --------+   +-- volume not staged here: due when it is staged next
 *
 * Callers hold the volume's lane.
 */
import type { Logger } from 'pino';
import { invalid, RuntimeError } from '../errors.ts';
import { isRefusal } from './error-reactions.ts';
import { lawful, type Plugin } from './plugin.ts';
import type { PluginCaller } from './plugin-caller.ts';
import { CsiError } from './protocol.ts';
import type { ExpansionStep, VolumeRecord } from './volume.ts';
import { capabilityOf, idOf } from './volume-calls.ts';
import type { VolumeJournal } from './volume-journal.ts';
import type { VolumeMounts } from './volume-mounts.ts';

const MAX_INT64 = 2n ** 63n - 1n;

export interface VolumeExpansionOptions {
  readonly caller: PluginCaller;
  readonly journal: VolumeJournal;
  readonly mounts: VolumeMounts;
  readonly log: Logger;
  /** Called with the name of a volume whose expansion failed and goes on in the background. */
  readonly retry: (name: string) => void;
}

/** See the module's head. */
export class VolumeExpansion {
  readonly #options: VolumeExpansionOptions;

  constructor(options: VolumeExpansionOptions) {
    this.#options = options;
  }

  /**
   * Makes a volume at least `bytes` large. The same request may be repeated.
   * @returns the record; with `expansion` when the rest is done at the next use
   * @throws {RuntimeError} OUT_OF_RANGE for a smaller size, FAILED_PRECONDITION when the plugin or the volume's state does
   * not allow it, before anything is done; or what the plugin says
   */
  async expand(start: VolumeRecord, bytes: number | bigint, signal: AbortSignal): Promise<VolumeRecord> {
    const { caller, journal } = this.#options;
    const size = checkedSize(start, bytes);
    const plugin = await caller.plugin(start.driver, signal);
    const step = firstStep(start, plugin);
    const pending = start.expansion;
    if (pending === undefined && size <= BigInt(start.capacityBytes)) return start;
    const again = pending !== undefined && size <= BigInt(pending.targetBytes);
    if (!again && step === 'controller') checkOffline(start, plugin);
    if (again && pending.refused === true && isHere(start)) {
      const reason = `volume ${start.name} cannot grow while it is used: stop its containers; it grows when it is used next`;
      throw new RuntimeError('FAILED_PRECONDITION', reason);
    }
    if (!again)
      await caller.checkSecrets(start, step === 'controller' ? 'ControllerExpandVolume' : 'NodeExpandVolume', signal);
    const record = again ? start : journal.write(start, { expansion: { targetBytes: String(size), step } });
    try {
      return await this.resume(record, signal, !again);
    } catch (error) {
      if (isExpansionDue(journal.current(record))) this.#options.retry(record.name);
      throw error;
    }
  }

  /**
   * Does what is due, as far as it can be done now.
   * @throws {RuntimeError} what the plugin says
   */
  async resume(start: VolumeRecord, signal: AbortSignal, fresh = false): Promise<VolumeRecord> {
    if (start.expansion === undefined || start.state === 'deleting') return start;
    const record = start.expansion.step === 'controller' ? await this.#controller(start, signal, fresh) : start;
    if (record.expansion === undefined || record.expansion.refused === true || !isHere(record)) return record;
    return this.#node(record, signal, fresh && start.expansion.step === 'node');
  }

  /** The node step, when the volume has just been staged, or published where nothing is staged. A failure is kept. */
  async whenUp(record: VolumeRecord, signal: AbortSignal): Promise<VolumeRecord> {
    if (record.expansion?.step !== 'node') return record;
    try {
      return await this.#node(record, signal, false);
    } catch (error) {
      // The volume is as useful as it was.
      this.#options.log.warn({ volume: record.name, err: error }, 'the volume did not grow');
      return this.#options.journal.current(record);
    }
  }

  async #controller(record: VolumeRecord, signal: AbortSignal, fresh: boolean): Promise<VolumeRecord> {
    const rpc = 'ControllerExpandVolume';
    const { caller, journal } = this.#options;
    const targetBytes = record.expansion?.targetBytes ?? record.capacityBytes;
    try {
      const request = {
        volumeId: idOf(record),
        capacityRange: { requiredBytes: targetBytes },
        volumeCapability: capabilityOf(record),
      };
      const { nodeExpansionRequired, ...answer } = await caller.call(record, rpc, request, signal);
      const capacityBytes = grown(record, rpc, answer.capacityBytes, targetBytes);
      const expansion = nodeExpansionRequired ? ({ targetBytes: capacityBytes, step: 'node' } as const) : undefined;
      const plugin = await caller.plugin(record.driver, signal);
      if (nodeExpansionRequired && !plugin.capabilities.node.has('EXPAND_VOLUME')) {
        const reason = 'it asks for NodeExpandVolume, which its node service does not offer';
        throw new CsiError('FAILED_PRECONDITION', record.driver, rpc, reason);
      }
      return journal.write(record, { capacityBytes, expansion, failure: undefined });
    } catch (error) {
      throw this.#failed(record, error, rpc, fresh);
    }
  }

  async #node(record: VolumeRecord, signal: AbortSignal, fresh: boolean): Promise<VolumeRecord> {
    const rpc = 'NodeExpandVolume';
    const { caller, journal, mounts } = this.#options;
    const paths = mounts.pathsOf(record);
    const stages = record.rungs.includes('stage');
    const [published] = record.publications.filter(({ state }) => state === 'published');
    const targetBytes = record.expansion?.targetBytes ?? record.capacityBytes;
    try {
      const request = {
        volumeId: idOf(record),
        volumePath: published === undefined ? paths.stage : paths.target(published.key),
        capacityRange: { requiredBytes: targetBytes },
        stagingTargetPath: stages ? paths.stage : '',
        volumeCapability: capabilityOf(record),
      };
      const answer = await caller.call(record, rpc, request, signal);
      const capacityBytes = grown(record, rpc, answer.capacityBytes, targetBytes);
      return journal.write(record, { capacityBytes, expansion: undefined, failure: undefined });
    } catch (error) {
      throw this.#failed(record, error, rpc, fresh);
    }
  }

  /** A wish refused at its first call is forgotten; a node step refused is kept for the next use, and not sent before. */
  #failed(
    record: VolumeRecord,
    error: unknown,
    rpc: 'ControllerExpandVolume' | 'NodeExpandVolume',
    fresh: boolean,
  ): RuntimeError {
    const { journal } = this.#options;
    const refused = isRefusal(error);
    if (!refused || record.expansion === undefined) return journal.fail(record, error, rpc);
    if (fresh || rpc === 'ControllerExpandVolume') return journal.fail(record, error, rpc, { expansion: undefined });
    return journal.fail(record, error, rpc, { expansion: { ...record.expansion, refused: true } });
  }
}

/** True while something must still be tried without being asked for. */
function isExpansionDue({ expansion }: VolumeRecord): boolean {
  return expansion !== undefined && (expansion.step === 'controller' || expansion.refused !== true);
}

/** Staged, or published where nothing is staged: NodeExpandVolume may be called. */
function isHere(record: VolumeRecord): boolean {
  const published = record.publications.some(({ state }) => state === 'published');
  return published || (record.rungs.includes('stage') && record.state === 'staged');
}

function checkedSize({ name, state, capacityBytes, expansion }: VolumeRecord, bytes: number | bigint): bigint {
  if (state === 'creating' || state === 'deleting') {
    throw new RuntimeError('FAILED_PRECONDITION', `volume ${name} is ${state}`);
  }
  if (typeof bytes === 'number' && !Number.isSafeInteger(bytes))
    throw invalid('size', `${bytes} is no whole number of bytes`);
  const size = BigInt(bytes);
  if (size <= 0n || size > MAX_INT64) throw invalid('size', `${bytes} is outside 1 to ${MAX_INT64}`);
  const least = BigInt(expansion?.targetBytes ?? capacityBytes);
  if (size >= least) return size;
  throw new RuntimeError('OUT_OF_RANGE', `volume ${name} has ${least} bytes: volumes do not shrink`);
}

function firstStep({ name, driver }: VolumeRecord, { capabilities }: Plugin): ExpansionStep {
  if (capabilities.controller.has('EXPAND_VOLUME')) return 'controller';
  if (capabilities.node.has('EXPAND_VOLUME')) return 'node';
  throw new RuntimeError('FAILED_PRECONDITION', `volume ${name}: CSI plugin ${driver} does not expand volumes`);
}

/** CSI "VolumeExpansion": OFFLINE alone means that the volume must be published nowhere. */
function checkOffline(record: VolumeRecord, { capabilities: { expansion } }: Plugin): void {
  const offlineOnly = expansion?.has('OFFLINE') === true && !expansion.has('ONLINE');
  if (!offlineOnly || record.state === 'created') return;
  const users = record.claims.map(({ containerId }) => containerId.slice(0, 12)).join(', ');
  const reason = `CSI plugin ${record.driver} expands volumes only while they are not used; stop container ${users || '(none known)'}`;
  throw new RuntimeError('FAILED_PRECONDITION', `volume ${record.name}: ${reason}`);
}

/** Zero means unknown. @throws {CsiError} INTERNAL when the plugin says OK to less than was asked for */
function grown(
  record: VolumeRecord,
  rpc: 'ControllerExpandVolume' | 'NodeExpandVolume',
  told: string,
  wanted: string,
): string {
  return lawful(rpc, record.driver, () => {
    const bytes = BigInt(told);
    if (bytes === 0n) return wanted;
    if (bytes >= BigInt(wanted)) return String(bytes);
    throw new RuntimeError('INTERNAL', `capacity_bytes is ${bytes}, ${wanted} were asked for`);
  });
}
