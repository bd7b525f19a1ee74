/**
 * One attachment from plan to result and back, on record before each call (network-record.ts has the states). Knows
 * neither which networks a container gets nor what its files say. Calls for one container never overlap: its lane sees
 * to that.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { gathered, RuntimeError } from '../errors.ts';
import { readBootId } from '../process-identity.ts';
import type { ContainerId } from '../runtime/container.ts';
import type { Store } from '../store.ts';
import type { CniRuntime } from './cni-runtime.ts';
import type { NetworkNamespaces } from './netns.ts';
import { attachmentOf, type NetworkRecord, type RecordedAttachment, withAttachment } from './network-record.ts';
import { statusOf } from './network-status.ts';
import { CniError, type CniResult, CODE_TRY_AGAIN } from './protocol.ts';
import type { ResultCache } from './result-cache.ts';

/** Pauses before ADD is tried again when a plugin asks for it (code 11). */
const TRY_AGAIN_DELAYS_MS = [200, 1000, 3000] as const;

/** What is done on the host beside what plugins do. */
export interface HostSide {
  /** Before an ADD: what plugins leave to chance. Idempotent. */
  prepareAdd(entry: RecordedAttachment, signal: AbortSignal): Promise<void>;
  /**
   * What is left to do when the DEL of an attachment has succeeded; undefined when nothing is. Asked before DEL, while
   * it can still be seen what the plugins will find; `alive` says that the namespace is there. What fails makes the DEL
   * due again.
   */
  finishDel(
    id: ContainerId,
    entry: RecordedAttachment,
    alive: boolean,
  ): ((signal: AbortSignal) => Promise<void>) | undefined;
}

export interface AttacherOptions {
  readonly cni: CniRuntime;
  readonly store: Store<NetworkRecord>;
  readonly namespaces: NetworkNamespaces;
  /** Where results are written for others. */
  readonly cache?: ResultCache | undefined;
  /** Nothing unless given. */
  readonly hostSide?: HostSide | undefined;
  readonly log: Logger;
}

/** See the module's head. */
export class Attacher {
  readonly #cni: CniRuntime;
  readonly #store: Store<NetworkRecord>;
  readonly #namespaces: NetworkNamespaces;
  readonly #cache: ResultCache | undefined;
  readonly #hostSide: HostSide | undefined;
  readonly #bootId: string = readBootId();
  readonly #log: Logger;

  constructor(options: AttacherOptions) {
    this.#cni = options.cni;
    this.#store = options.store;
    this.#namespaces = options.namespaces;
    this.#cache = options.cache;
    this.#hostSide = options.hostSide;
    this.#log = options.log;
  }

  /** Runs ADD for a planned attachment. When it throws, for whatever reason, {@link detach} is due. */
  async attach(id: ContainerId, entry: RecordedAttachment, signal: AbortSignal): Promise<void> {
    const startedMs = performance.now();
    this.#amend(id, entry, { state: 'adding' });
    await this.#hostSide?.prepareAdd(entry, signal);
    const result = await this.#add(id, entry, signal);
    this.#amend(id, entry, { state: 'added', result });
    this.#tellOthers(id, entry, result);
    const { interfaceName } = entry;
    const status = statusOf(this.record(id)).find((known) => known.interfaceName === interfaceName);
    const durationMs = Math.round(performance.now() - startedMs);
    const data = { containerId: id, network: entry.network.name, interfaceName, addresses: status?.addresses };
    this.#log.info({ ...data, durationMs }, 'network attached');
  }

  /** Runs DEL if anything may be there, and takes the attachment off the record. Idempotent. */
  async detach(id: ContainerId, entry: RecordedAttachment, signal: AbortSignal): Promise<void> {
    const record = this.record(id);
    // What was planned before a power failure may have been begun: only the plan reached the disk for certain.
    if (entry.state !== 'planned' || record.bootId !== this.#bootId) {
      const startedMs = performance.now();
      this.#amend(id, entry, { state: 'deleting' });
      const alive = record.bootId === this.#bootId && this.#namespaces.exists(id);
      const finish = this.#hostSide?.finishDel(id, entry, alive);
      await this.#cni.del(attachmentOf(id, entry, alive ? record.netnsPath : ''), entry.result, signal);
      await finish?.(signal);
      this.#cache?.remove({ ...entry, containerId: id });
      const durationMs = Math.round(performance.now() - startedMs);
      const data = { containerId: id, network: entry.network.name, interfaceName: entry.interfaceName };
      this.#log.info({ ...data, durationMs }, 'network detached');
    }
    this.#amend(id, entry, undefined);
  }

  /** Takes back what was begun and not finished, on one network or on all. */
  async settle(id: ContainerId, network: string | undefined, signal: AbortSignal): Promise<void> {
    const failures: unknown[] = [];
    for (const entry of this.record(id).attachments.toReversed()) {
      if (entry.state === 'added' || (network !== undefined && entry.network.name !== network)) continue;
      await this.detach(id, entry, signal).catch((error: unknown) => failures.push(error));
    }
    const failure = gathered(failures, `networks of container ${id}`);
    if (failure !== undefined) throw failure;
  }

  /** What is on record for a container. @throws {RuntimeError} INTERNAL when there is nothing */
  record(id: ContainerId): NetworkRecord {
    const record = this.#store.read(id);
    if (record === undefined) throw new RuntimeError('INTERNAL', `container ${id} has no network record`);
    return record;
  }

  /** The cache is for others: without it the container is as well attached. */
  #tellOthers(id: ContainerId, entry: RecordedAttachment, result: CniResult): void {
    try {
      this.#cache?.write(attachmentOf(id, entry, this.record(id).netnsPath), result);
    } catch (error) {
      this.#log.warn({ err: error, containerId: id }, 'result cannot be written to the CNI cache');
    }
  }

  /**
   * ADD, and again where a plugin asks for that: between two of them comes a DEL (CNI 1.1.0 §2 "ADD"). None begins
   * when the time for one ADD is over.
   */
  async #add(id: ContainerId, entry: RecordedAttachment, signal: AbortSignal): Promise<CniResult> {
    const attachment = attachmentOf(id, entry, this.record(id).netnsPath);
    const startedMs = performance.now();
    let reached: CniResult | undefined;
    const onProgress = (result: CniResult | undefined): void => {
      reached = result;
      this.#amend(id, entry, { result });
    };
    for (const delayMs of TRY_AGAIN_DELAYS_MS) {
      try {
        return await this.#cni.add(attachment, onProgress, signal);
      } catch (error) {
        if (!(error instanceof CniError) || error.cniCode !== CODE_TRY_AGAIN) throw error;
        if (performance.now() - startedMs + delayMs > this.#cni.deadlinesMs.ADD) throw error;
        this.#log.warn({ err: error, containerId: id, delayMs }, 'network is busy, trying again');
        await this.#cni.del(attachment, reached, signal);
        onProgress(undefined);
      }
      await sleep(delayMs, undefined, { signal });
    }
    return this.#cni.add(attachment, onProgress, signal);
  }

  #amend(
    id: ContainerId,
    { interfaceName }: RecordedAttachment,
    change: Partial<Pick<RecordedAttachment, 'state' | 'result'>> | undefined,
  ): void {
    this.#store.write(id, withAttachment(this.record(id), interfaceName, change), 'process');
  }
}
