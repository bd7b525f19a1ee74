/**
 * The networks of containers that run: what people ask for outside a launch or a teardown. Each call holds the lane of
 * its container, so it never meets an ADD or DEL of the same one.
 *
 *   connect      plan recorded -> ADD -> the container's files; when it fails: DEL
 *   disconnect   DEL -> the container's files
 *
 * Networks belong to a run: the next run of the container begins with those it was created with. A call that a crash of
 * the daemon cut short is taken back at the next start.
 */
import { join } from 'node:path';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { RunProgram } from '../run-program.ts';
import type { ContainerId, ContainerRecord } from '../runtime/container.ts';
import type { NetworkStatus } from '../runtime/isolator.ts';
import type { Store } from '../store.ts';
import { Attacher, type HostSide } from './attacher.ts';
import { type AttachmentCheck, checkAttachments } from './attachment-check.ts';
import type { CniRuntime } from './cni-runtime.ts';
import { type ConnectOptions, planConnection, verifyConnection } from './connection-plan.ts';
import { ContainerFiles } from './container-files.ts';
import type { ContainerLanes } from './container-lanes.ts';
import { NetworkNamespaces } from './netns.ts';
import type { NetworkConfigs } from './network-config.ts';
import { NetworkNames } from './network-names.ts';
import type { NetworkRecord, RecordedAttachment } from './network-record.ts';
import { statusOf } from './network-status.ts';
import type { ResultCache } from './result-cache.ts';
import { SettleLater } from './settle-later.ts';

export interface LiveNetworksOptions {
  readonly cni: CniRuntime;
  readonly configs: NetworkConfigs;
  readonly store: Store<NetworkRecord>;
  readonly lanes: ContainerLanes;
  /** Run directory of the daemon: namespaces in `netns`, files in `files`. */
  readonly runDir: string;
  readonly run?: RunProgram;
  /** Path of a container's cgroup, for plugins that ask for it: "/berth/ID". */
  readonly cgroupPath?: (id: ContainerId) => string;
  /** Where results are written for other programs. */
  readonly cache?: ResultCache | undefined;
  /** What is done beside what plugins do; nothing unless given. */
  readonly hostSide?: HostSide | undefined;
  readonly log: Logger;
}

/** Longest time one DEL of a running container may take. */
const DETACH_MS = 45_000;

/** See the module's head. */
export class LiveNetworks {
  readonly #options: LiveNetworksOptions;
  readonly #attacher: Attacher;
  readonly #later: SettleLater;
  readonly #namespaces: NetworkNamespaces;
  readonly #names: NetworkNames;

  constructor(options: LiveNetworksOptions) {
    this.#options = options;
    const { cni, store, cache, hostSide, runDir, run } = options;
    this.#namespaces = new NetworkNamespaces(join(runDir, 'netns'), { run });
    const log = options.log.child({ component: 'network' });
    this.#names = new NetworkNames({ store, files: new ContainerFiles(join(runDir, 'files')), log });
    this.#attacher = new Attacher({ cni, store, cache, hostSide, namespaces: this.#namespaces, log });
    this.#later = new SettleLater({ settle: (id, signal) => this.settle(id, signal), log });
  }

  /** Plans the DELs that are due for containers that run: a start of the daemon could not finish them all. */
  recover(): void {
    for (const [id, { attachments }] of this.#options.store.entries()) {
      if (attachments.some(({ state }) => state === 'deleting')) this.#later.plan(id);
    }
  }

  /** Ends what runs in the background. */
  close(): Promise<void> {
    return this.#later.close();
  }

  /**
   * Attaches a running container to one more network.
   * @throws {RuntimeError} what made it fail; then nothing is left, or a DEL stays due and is on record
   */
  async connect(ref: string, network: string, options: ConnectOptions, signal: AbortSignal): Promise<NetworkStatus> {
    const work = (container: ContainerRecord, joint: AbortSignal): Promise<NetworkStatus> =>
      this.#connect(container, network, options, joint);
    return this.#options.lanes.inLane(ref, work, signal);
  }

  /** Detaches a running container from a network. @throws {RuntimeError} NOT_FOUND when it is not attached */
  async disconnect(ref: string, network: string, signal: AbortSignal): Promise<void> {
    const work = async (container: ContainerRecord): Promise<void> => {
      const entries = chosen(container, this.#recordOf(container), network);
      for (const entry of entries) await this.#detach(container, entry);
      await this.#fill(container, network);
    };
    await this.#options.lanes.inLane(ref, work, signal);
  }

  /** Runs the DELs that an earlier disconnect could not finish. */
  async settle(ref: string, signal: AbortSignal): Promise<void> {
    const work = async (container: ContainerRecord): Promise<void> => {
      const bounded = AbortSignal.timeout(DETACH_MS);
      const unfinished = this.#recordOf(container).attachments.filter(({ state }) => state !== 'added');
      await this.#attacher.settle(container.id, undefined, bounded);
      for (const { network } of unfinished) await this.#fill(container, network.name);
    };
    await this.#options.lanes.inLane(ref, work, signal);
  }

  /**
   * CHECK of a running container's attachment to `network`, or of all its attachments.
   * @throws {RuntimeError} NOT_FOUND or FAILED_PRECONDITION naming container and network
   */
  async check(ref: string, network: string | undefined, signal: AbortSignal): Promise<AttachmentCheck[]> {
    const { cni, lanes } = this.#options;
    const work = (container: ContainerRecord, joint: AbortSignal): Promise<AttachmentCheck[]> => {
      const record = this.#recordOf(container);
      return checkAttachments(cni, { id: container.id, record }, chosen(container, record, network), joint);
    };
    return lanes.inLane(ref, work, signal);
  }

  async #connect(
    container: ContainerRecord,
    network: string,
    options: ConnectOptions,
    signal: AbortSignal,
  ): Promise<NetworkStatus> {
    const { id } = container;
    this.#recordOf(container);
    // What an earlier call could not finish would be in the way.
    await this.#attacher.settle(id, network, signal);
    const { configs } = this.#options;
    const known = configs.load(network);
    const changed = await configs.learnVersions(signal, [known]);
    const record = this.#recordOf(container);
    const about = { labels: container.spec.labels, cgroupPath: this.#options.cgroupPath?.(id) };
    const entry = planConnection(record, changed ? configs.load(network) : known, options, about);
    const attachments = [...record.attachments, entry];
    // What ADD makes may outlive a power failure, a lease on disk.
    this.#options.store.write(id, { ...record, mode: 'networks', attachments }, 'power');
    try {
      await this.#attacher.attach(id, entry, signal);
      verifyConnection(this.#recordOf(container), entry.interfaceName, options);
      await this.#fill(container, network);
    } catch (error) {
      await this.#takeBack(container, entry.interfaceName, error);
      throw error;
    }
    const status = statusOf(this.#recordOf(container)).find((known) => known.interfaceName === entry.interfaceName);
    return status ?? { network, interfaceName: entry.interfaceName, addresses: [], gateways: [] };
  }

  /** @throws {RuntimeError} with both reasons when this fails as well: the DEL stays due and on record */
  async #takeBack(container: ContainerRecord, interfaceName: string, reason: unknown): Promise<void> {
    const entry = this.#recordOf(container).attachments.find((other) => other.interfaceName === interfaceName);
    if (entry === undefined) return;
    try {
      await this.#detach(container, entry);
      await this.#fill(container, entry.network.name);
    } catch (error) {
      const { code, message } = RuntimeError.from(reason, 'connect');
      const text = `${message}; what it left could not be removed yet: ${RuntimeError.from(error, 'DEL').message}`;
      throw new RuntimeError(code, text, { cause: new AggregateError([reason, error]) });
    }
  }

  /** Runs DEL; when it fails it stays on record and is tried again in the background. */
  async #detach({ id }: ContainerRecord, entry: RecordedAttachment): Promise<void> {
    try {
      await this.#attacher.detach(id, entry, AbortSignal.timeout(DETACH_MS));
    } catch (error) {
      this.#later.plan(id);
      throw error;
    }
  }

  /** The container's own files, and its names in those of the others. */
  async #fill(container: ContainerRecord, changed: string): Promise<void> {
    this.#names.fill(container.id, this.#recordOf(container));
    await this.#names.refresh([changed]);
  }

  #recordOf({ id, spec }: ContainerRecord): NetworkRecord {
    const record = this.#options.store.read(id);
    if (record !== undefined && record.mode !== 'host' && this.#namespaces.exists(id)) return record;
    throw new RuntimeError('FAILED_PRECONDITION', `container ${spec.name} has no network namespace of its own`);
  }
}

/** Attachments of a container, those to one network if it is named. @throws {RuntimeError} NOT_FOUND */
function chosen(
  { spec }: ContainerRecord,
  { attachments }: NetworkRecord,
  network: string | undefined,
): readonly RecordedAttachment[] {
  if (network === undefined) return attachments;
  const entries = attachments.filter((entry) => entry.network.name === network);
  if (entries.length > 0) return entries;
  throw new RuntimeError('NOT_FOUND', `container ${spec.name} is not attached to network ${network}`);
}
