/**
 * The networks of containers: the namespace, the interfaces that plugins put into it, and the files that tell the
 * container who and where it is.
 *
 *   prepare   record (all that ADD and DEL will be given) -> namespace, files
 *   isolate   for each network in order: `adding` recorded -> ADD -> `added` recorded with the result; then the files
 *             are filled with the addresses
 *   cleanup   for each network in reverse: `deleting` recorded -> DEL -> off the record; then files, namespace, record
 *
 * DEL comes while the namespace lives, since plugins find there what to undo on the host (bridge leaves its masquerade
 * rules otherwise). A DEL that fails keeps record and namespace, and is due again. Calls for one container never
 * overlap: the engine sees to that.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { gathered, RuntimeError } from '../errors.ts';
import { readBootId } from '../process-identity.ts';
import type { RunProgram } from '../run-program.ts';
import type { ContainerId, ContainerRecord } from '../runtime/container.ts';
import type { Contribution, Isolator, IsolatorStatus } from '../runtime/isolator.ts';
import type { Store } from '../store.ts';
import { BackgroundWork } from './background-work.ts';
import type { CniRuntime } from './cni-runtime.ts';
import { attachedTexts, hostnameOf, initialTexts } from './container-file-texts.ts';
import { ContainerFiles } from './container-files.ts';
import { NetworkNamespaces } from './netns.ts';
import type { NetworkConfigs } from './network-config.ts';
import { planNetworks, refuseTakenPorts } from './network-plan.ts';
import {
  type AttachmentState,
  attachmentOf,
  type NetworkRecord,
  type RecordedAttachment,
  withAttachment,
} from './network-record.ts';
import { statusOf } from './network-status.ts';
import { CniError, type CniResult, CODE_TRY_AGAIN } from './protocol.ts';

/** Options of {@link NetworkIsolator}. */
export interface NetworkIsolatorOptions {
  readonly cni: CniRuntime;
  readonly configs: NetworkConfigs;
  readonly store: Store<NetworkRecord>;
  /** Run directory of the daemon: namespaces in `netns`, files in `files`. */
  readonly runDir: string;
  readonly log: Logger;
  /** Who starts the programs that make namespaces; this process unless given. */
  readonly run?: RunProgram;
}

/** One interface of one container, for `network inspect`. */
export interface NetworkAttachment {
  readonly containerId: ContainerId;
  readonly interfaceName: string;
  readonly state: AttachmentState;
  /** "10.86.0.5/16" */
  readonly addresses: readonly string[];
}

/** Pauses before ADD is tried again when a plugin asks for it (code 11). */
const TRY_AGAIN_DELAYS_MS = [200, 1000, 3000] as const;
/** Containers whose networks are released at once when the daemon starts. */
const RELEASES_AT_ONCE = 8;
/** Longest time a start waits for them; what is left then stays pending, and the engine tries it again. */
const RECOVERY_MS = 15_000;

/** See the module's head. */
export class NetworkIsolator implements Isolator {
  readonly name = 'network/cni';
  readonly #cni: CniRuntime;
  readonly #configs: NetworkConfigs;
  readonly #store: Store<NetworkRecord>;
  readonly #namespaces: NetworkNamespaces;
  readonly #files: ContainerFiles;
  readonly #bootId: string;
  readonly #log: Logger;
  /** Containers that run, or are being started or released by the engine: their records are not left-overs. */
  readonly #live = new Set<ContainerId>();
  readonly #attaching = new BackgroundWork();

  constructor(options: NetworkIsolatorOptions) {
    this.#cni = options.cni;
    this.#configs = options.configs;
    this.#store = options.store;
    this.#namespaces = new NetworkNamespaces(join(options.runDir, 'netns'), options.run);
    this.#files = new ContainerFiles(join(options.runDir, 'files'));
    this.#bootId = readBootId();
    this.#log = options.log.child({ component: 'network' });
  }

  validate(container: ContainerRecord): void {
    planNetworks(container.spec, this.#configs);
  }

  async recover(running: ReadonlySet<ContainerId>, _: ReadonlySet<ContainerId>, signal: AbortSignal): Promise<void> {
    for (const [id, reason] of this.#store.damaged()) {
      this.#log.error({ containerId: id, reason }, 'network record does not decode: left alone with all it names');
    }
    for (const id of running) this.#adopt(id);
    const due = [...this.#held()].filter((id) => !running.has(id) && !this.#store.damaged().has(id));
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(RECOVERY_MS)]);
    const failures: unknown[] = [];
    const release = async (): Promise<void> => {
      for (let id = due.pop(); id !== undefined && !bounded.aborted; id = due.pop()) {
        await this.cleanup(id, bounded).catch((error) => failures.push(error));
      }
    };
    await Promise.all(Array.from({ length: RELEASES_AT_ONCE }, release));
    const failure = gathered(failures, 'release of networks');
    if (failure !== undefined) throw failure;
  }

  async prepare(container: ContainerRecord, signal: AbortSignal): Promise<Contribution> {
    const { id, spec } = container;
    const plan = planNetworks(spec, this.#configs);
    refuseTakenPorts(plan, this.#store.entries());
    const netnsPath = plan.mode === 'host' ? '' : this.#namespaces.path(id);
    const record = { ...plan, bootId: this.#bootId, netnsPath };
    this.#store.create(id, record, 'process');
    this.#live.add(id);
    const made = netnsPath === '' ? undefined : this.#namespaces.create(id, signal);
    try {
      this.#files.create(id, initialTexts(container));
      // A namespace does not outlive a power failure, what ADD makes may: a lease on disk.
      if (plan.mode === 'networks') this.#store.write(id, record, 'power');
    } finally {
      await made;
    }
    this.#attaching.start(id, (joint) => this.#attachAll(container, joint), signal);
    return {
      hostname: hostnameOf(container),
      mounts: this.#files.mounts(id, new Set(spec.mounts.map((mount) => mount.target))),
      ...(netnsPath === '' ? {} : { namespaces: [{ type: 'network', path: netnsPath }] }),
    };
  }

  /** ADD needs nothing but the namespace: it has been under way since that was there. */
  async isolate({ id }: ContainerRecord, signal: AbortSignal): Promise<void> {
    await this.#attaching.finish(id, signal);
  }

  async #attachAll(container: ContainerRecord, signal: AbortSignal): Promise<void> {
    const { id } = container;
    const record = this.#recordOf(id);
    for (const entry of record.attachments) await this.#attach(id, entry, signal);
    if (record.mode === 'networks') this.#files.fill(id, attachedTexts(container, this.#recordOf(id)));
  }

  status(id: ContainerId): IsolatorStatus {
    const record = this.#store.entries().get(id);
    return { networks: record === undefined ? [] : statusOf(record) };
  }

  /** Attachments to a network, those whose DEL is still due included. */
  attachments(networkName: string): readonly NetworkAttachment[] {
    return [...this.#store.entries()].flatMap(([containerId, record]) =>
      record.attachments
        .filter((entry) => entry.network.name === networkName && entry.state !== 'planned')
        .map(({ interfaceName, state }) => {
          const status = statusOf(record).find((known) => known.interfaceName === interfaceName);
          return { containerId, interfaceName, state, addresses: status?.addresses ?? [] };
        }),
    );
  }

  pending(): ReadonlySet<ContainerId> {
    return new Set([...this.#store.entries().keys()].filter((id) => !this.#live.has(id)));
  }

  async cleanup(id: ContainerId, signal: AbortSignal): Promise<void> {
    this.#live.delete(id);
    if (this.#attaching.has(id)) await this.#attaching.abandon(id);
    const record = this.#store.read(id);
    const failures: unknown[] = [];
    for (const entry of record?.attachments.toReversed() ?? []) {
      try {
        await this.#detach(id, entry, signal);
      } catch (error) {
        failures.push(error);
      }
    }
    const failure = gathered(failures, `networks of container ${id}`);
    if (failure !== undefined) throw failure;
    const gone = this.#namespaces.remove(id, signal);
    try {
      this.#files.remove(id);
    } finally {
      await gone;
    }
    this.#store.remove(id, 'process');
  }

  /** Everything on record or on disk: records, namespaces and files of any run. */
  #held(): ReadonlySet<ContainerId> {
    return new Set([...this.#store.entries().keys(), ...this.#namespaces.list(), ...this.#files.list()]);
  }

  #adopt(id: ContainerId): void {
    this.#live.add(id);
    const record = this.#store.entries().get(id);
    if (record === undefined) {
      this.#log.error({ containerId: id }, 'running container has no network record');
    } else if (record.netnsPath !== '' && !this.#namespaces.exists(id)) {
      this.#log.error(
        { containerId: id, netnsPath: record.netnsPath },
        'network namespace of running container is gone',
      );
    }
  }

  async #attach(id: ContainerId, entry: RecordedAttachment, signal: AbortSignal): Promise<void> {
    const startedMs = performance.now();
    this.#amend(id, entry, { state: 'adding' });
    const result = await this.#add(id, entry, signal);
    this.#amend(id, entry, { state: 'added', result });
    const { interfaceName } = entry;
    const status = this.status(id).networks?.find((known) => known.interfaceName === interfaceName);
    const durationMs = Math.round(performance.now() - startedMs);
    const data = { containerId: id, network: entry.network.name, interfaceName, addresses: status?.addresses };
    this.#log.info({ ...data, durationMs }, 'network attached');
  }

  /** ADD, and again where a plugin asks for that: between two of them comes a DEL (CNI 1.1.0 §2 "ADD"). */
  async #add(id: ContainerId, entry: RecordedAttachment, signal: AbortSignal): Promise<CniResult> {
    const attachment = attachmentOf(id, entry, this.#recordOf(id).netnsPath);
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
        this.#log.warn({ err: error, containerId: id, delayMs }, 'network is busy, trying again');
        await this.#cni.del(attachment, reached, signal);
        onProgress(undefined);
      }
      await sleep(delayMs, undefined, { signal });
    }
    return this.#cni.add(attachment, onProgress, signal);
  }

  async #detach(id: ContainerId, entry: RecordedAttachment, signal: AbortSignal): Promise<void> {
    const record = this.#recordOf(id);
    // What was planned before a power failure may have been begun: only the plan reached the disk for certain.
    if (entry.state !== 'planned' || record.bootId !== this.#bootId) {
      const startedMs = performance.now();
      this.#amend(id, entry, { state: 'deleting' });
      const alive = record.bootId === this.#bootId && this.#namespaces.exists(id);
      await this.#cni.del(attachmentOf(id, entry, alive ? record.netnsPath : ''), entry.result, signal);
      const durationMs = Math.round(performance.now() - startedMs);
      const data = { containerId: id, network: entry.network.name, interfaceName: entry.interfaceName };
      this.#log.info({ ...data, durationMs }, 'network detached');
    }
    this.#amend(id, entry, undefined);
  }

  #recordOf(id: ContainerId): NetworkRecord {
    const record = this.#store.read(id);
    if (record === undefined) throw new RuntimeError('INTERNAL', `container ${id} has no network record`);
    return record;
  }

  #amend(
    id: ContainerId,
    { interfaceName }: RecordedAttachment,
    change: Partial<Pick<RecordedAttachment, 'state' | 'result'>> | undefined,
  ): void {
    this.#store.write(id, withAttachment(this.#recordOf(id), interfaceName, change), 'process');
  }
}
