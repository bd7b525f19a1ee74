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
import type { Logger } from 'pino';
import { gathered } from '../errors.ts';
import { readBootId } from '../process-identity.ts';
import type { RunProgram } from '../run-program.ts';
import type { ContainerId, ContainerRecord } from '../runtime/container.ts';
import type { Contribution, Isolator, IsolatorStatus } from '../runtime/isolator.ts';
import type { Store } from '../store.ts';
import type { PerformSystemCall } from '../system-calls.ts';
import { Attacher, type HostSide } from './attacher.ts';
import { BackgroundWork } from './background-work.ts';
import type { CniRuntime } from './cni-runtime.ts';
import { hostnameOf, initialTexts, namesOf } from './container-file-texts.ts';
import { ContainerFiles } from './container-files.ts';
import { NetworkNamespaces } from './netns.ts';
import type { NetworkConfigs } from './network-config.ts';
import { NetworkNames, networksOf } from './network-names.ts';
import { type NetworkPlan, planNetworks, refuseTakenPorts } from './network-plan.ts';
import type { AttachmentState, NetworkRecord } from './network-record.ts';
import { statusOf } from './network-status.ts';
import type { ResultCache } from './result-cache.ts';

/** Options of {@link NetworkIsolator}. */
export interface NetworkIsolatorOptions {
  readonly cni: CniRuntime;
  readonly configs: NetworkConfigs;
  readonly store: Store<NetworkRecord>;
  /** Run directory of the daemon: namespaces in `netns`, files in `files`. */
  readonly runDir: string;
  /** Where results are written for other programs. */
  readonly cache?: ResultCache | undefined;
  /** What is done beside what plugins do; nothing unless given. */
  readonly hostSide?: HostSide | undefined;
  readonly log: Logger;
  /** Who starts the programs that make namespaces; this process unless given. */
  readonly run?: RunProgram;
  /** Path of a container's cgroup below each hierarchy, for plugins that ask for it: "/berth/ID". */
  readonly cgroupPath?: (id: ContainerId) => string;
  /** Who makes them by system calls; programs do it unless given. */
  readonly systemCall?: PerformSystemCall;
}

/** One interface of one container, for `network inspect`. */
export interface NetworkAttachment {
  readonly containerId: ContainerId;
  readonly interfaceName: string;
  readonly state: AttachmentState;
  /** "10.86.0.5/16" */
  readonly addresses: readonly string[];
  readonly gateways: readonly string[];
  readonly mac?: string;
}

/** Containers whose networks are released at once when the daemon starts. */
const RELEASES_AT_ONCE = 8;
/** Longest time a start waits for them; what is left then stays pending, and the engine tries it again. */
const RECOVERY_MS = 15_000;

/** See the module's head. */
export class NetworkIsolator implements Isolator {
  readonly name = 'network/cni';
  readonly #configs: NetworkConfigs;
  readonly #store: Store<NetworkRecord>;
  readonly #namespaces: NetworkNamespaces;
  readonly #files: ContainerFiles;
  readonly #names: NetworkNames;
  readonly #attacher: Attacher;
  readonly #cgroupPath: (id: ContainerId) => string | undefined;
  readonly #bootId: string;
  readonly #log: Logger;
  /** Containers that run, or are being started or released by the engine: their records are not left-overs. */
  readonly #live = new Set<ContainerId>();
  readonly #attaching = new BackgroundWork();

  constructor(options: NetworkIsolatorOptions) {
    this.#configs = options.configs;
    this.#store = options.store;
    this.#namespaces = new NetworkNamespaces(join(options.runDir, 'netns'), options);
    this.#files = new ContainerFiles(join(options.runDir, 'files'));
    this.#cgroupPath = options.cgroupPath ?? (() => undefined);
    this.#bootId = readBootId();
    this.#log = options.log.child({ component: 'network' });
    const { cni, store, cache, hostSide } = options;
    this.#names = new NetworkNames({ store, files: this.#files, log: this.#log });
    this.#attacher = new Attacher({ cni, store, cache, hostSide, namespaces: this.#namespaces, log: this.#log });
  }

  validate(container: ContainerRecord): void {
    planNetworks(container.spec, this.#configs);
  }

  async recover(running: ReadonlySet<ContainerId>, _: ReadonlySet<ContainerId>, signal: AbortSignal): Promise<void> {
    for (const [id, reason] of this.#store.damaged()) {
      this.#log.error({ containerId: id, reason }, 'network record does not decode: left alone with all it names');
    }
    for (const id of running) this.#adopt(id);
    const cut = [...running].filter((id) => this.#store.entries().has(id));
    const due = [...this.#held()].filter((id) => !running.has(id) && !this.#store.damaged().has(id));
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(RECOVERY_MS)]);
    const failures: unknown[] = [];
    // A connect or disconnect was cut short: the container goes on with the networks it has for certain.
    const settled = cut.map((id) =>
      this.#attacher.settle(id, undefined, bounded).catch((error) => failures.push(error)),
    );
    await Promise.all(settled);
    const release = async (): Promise<void> => {
      for (let id = due.pop(); id !== undefined && !bounded.aborted; id = due.pop()) {
        await this.cleanup(id, bounded).catch((error) => failures.push(error));
      }
    };
    await Promise.all(Array.from({ length: RELEASES_AT_ONCE }, release));
    // The daemon may have ended between an ADD or DEL and the files of the others.
    await this.#names.refresh(cut.flatMap((id) => networksOf(this.#attacher.record(id))));
    const failure = gathered(failures, 'release of networks');
    if (failure !== undefined) throw failure;
  }

  async prepare(container: ContainerRecord, signal: AbortSignal): Promise<Contribution> {
    const { id, spec } = container;
    const plan = await this.#plan(container, signal);
    refuseTakenPorts(plan, this.#store.entries());
    const netnsPath = plan.mode === 'host' ? '' : this.#namespaces.path(id);
    const record = { ...plan, bootId: this.#bootId, netnsPath, names: namesOf(container) };
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
    this.#attaching.start(id, (joint) => this.#attachAll(id, joint), signal);
    return {
      hostname: hostnameOf(container),
      mounts: this.#files.mounts(id, new Set(spec.mounts.map((mount) => mount.target))),
      ...(netnsPath === '' ? {} : { namespaces: [{ type: 'network', path: netnsPath }] }),
    };
  }

  /** Plugins that nobody asked for their versions yet are asked first: the plan may have to be another one then. */
  async #plan({ id, spec }: ContainerRecord, signal: AbortSignal): Promise<NetworkPlan> {
    const plan = planNetworks(spec, this.#configs, this.#cgroupPath(id));
    const networks = plan.attachments.map(({ network }) => network);
    const changed = await this.#configs.learnVersions(signal, networks);
    return changed ? planNetworks(spec, this.#configs, this.#cgroupPath(id)) : plan;
  }

  /** ADD needs nothing but the namespace: it has been under way since that was there. */
  async isolate({ id }: ContainerRecord, signal: AbortSignal): Promise<void> {
    await this.#attaching.finish(id, signal);
  }

  async #attachAll(id: ContainerId, signal: AbortSignal): Promise<void> {
    const record = this.#attacher.record(id);
    for (const entry of record.attachments) await this.#attacher.attach(id, entry, signal);
    if (record.mode !== 'networks') return;
    const attached = this.#attacher.record(id);
    this.#names.fill(id, attached);
    await this.#names.refresh(networksOf(attached));
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
          const { addresses = [], gateways = [], mac } = status ?? {};
          return { containerId, interfaceName, state, addresses, gateways, ...(mac === undefined ? {} : { mac }) };
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
    const left = record === undefined ? [] : networksOf(record);
    const failures: unknown[] = [];
    for (const entry of record?.attachments.toReversed() ?? []) {
      try {
        await this.#attacher.detach(id, entry, signal);
      } catch (error) {
        failures.push(error);
      }
    }
    const told = this.#names.refresh(left);
    const failure = gathered(failures, `networks of container ${id}`);
    if (failure !== undefined) {
      await told;
      throw failure;
    }
    const gone = this.#namespaces.remove(id, signal);
    try {
      this.#files.remove(id);
    } finally {
      await gone;
      await told;
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
}
