/**
 * Garbage collection of networks (CNI 1.1.0 §2 "GC"). First every attachment of an earlier run gets its DEL, since most
 * plugins do nothing on GC; then the plugins are told which attachments are still wanted, while no ADD or DEL of the
 * network runs. Only networks that are Berth's own: GC takes whatever is not on the list, also what another runtime has.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import type { ContainerId } from '../runtime/container.ts';
import type { Store } from '../store.ts';
import type { AttachmentKey } from './attachment.ts';
import type { CniRuntime } from './cni-runtime.ts';
import { atLeast } from './cni-version.ts';
import type { ContainerLanes } from './container-lanes.ts';
import type { ResolvedNetwork } from './network.ts';
import type { NetworkConfigs } from './network-config.ts';
import type { NetworkRecord } from './network-record.ts';

export interface NetworkCollectorOptions {
  readonly cni: CniRuntime;
  readonly configs: NetworkConfigs;
  readonly store: Store<NetworkRecord>;
  /** Ids for which something is held though their run is over. */
  readonly stale: () => ReadonlySet<ContainerId>;
  readonly lanes: Pick<ContainerLanes, 'retryCleanup'>;
  readonly log: Logger;
}

/** What was done about one network. */
export interface CollectedNetwork {
  readonly name: string;
  /** Containers of earlier runs whose DEL has succeeded now. */
  readonly released: readonly ContainerId[];
  /** The plugins were asked: the network has GC and does not forbid it. */
  readonly asked: boolean;
  /** Empty when nothing failed. */
  readonly error: string;
}

/** See the module's head. */
export class NetworkCollector {
  readonly #options: NetworkCollectorOptions;
  readonly #log: Logger;

  constructor(options: NetworkCollectorOptions) {
    this.#options = options;
    this.#log = options.log.child({ component: 'network' });
  }

  /**
   * Collects in one network, or in all that are Berth's own.
   * @throws {RuntimeError} FAILED_PRECONDITION when the network is not Berth's own, or a record does not decode
   */
  async collect(name: string | undefined, signal: AbortSignal): Promise<CollectedNetwork[]> {
    const networks = name === undefined ? this.#options.configs.owned() : [ownedNetwork(this.#options.configs, name)];
    this.#refuseDamage();
    return Promise.all(networks.map((network) => this.#collect(network, signal)));
  }

  async #collect(network: ResolvedNetwork, signal: AbortSignal): Promise<CollectedNetwork> {
    const { name } = network;
    const released = await this.#release(name, signal);
    const asked = !network.disableGC && atLeast(network.cniVersion, '1.1.0');
    try {
      await this.#options.cni.gc(network, () => this.#wanted(name), signal);
      this.#log.info({ network: name, released, asked }, 'network collected');
      return { name, released, asked, error: '' };
    } catch (error) {
      const failure = RuntimeError.from(error, `garbage collection of network ${name}`);
      return { name, released, asked, error: failure.message };
    }
  }

  async #release(network: string, signal: AbortSignal): Promise<ContainerId[]> {
    const { stale, store, lanes } = this.#options;
    const due = [...stale()].filter((id) => isOn(store.entries().get(id), network));
    await Promise.all(due.map((id) => lanes.retryCleanup(id, signal)));
    return due.filter((id) => !isOn(store.entries().get(id), network));
  }

  /** Asked for while nothing of the network runs: an attachment that is about to be added is on record already. */
  #wanted(network: string): AttachmentKey[] {
    this.#refuseDamage();
    const stale = this.#options.stale();
    return [...this.#options.store.entries()].flatMap(([containerId, { attachments }]) =>
      attachments
        .filter((entry) => entry.network.name === network && entry.state !== 'deleting' && !stale.has(containerId))
        .map(({ interfaceName }) => ({ containerId, interfaceName })),
    );
  }

  /** What such a record stands for would be missing in the list, and so be taken from a container that runs. */
  #refuseDamage(): void {
    const [id] = this.#options.store.damaged().keys();
    if (id === undefined) return;
    const text = `the network record of container ${id} does not decode: what it holds is not known`;
    throw new RuntimeError('FAILED_PRECONDITION', text);
  }
}

/**
 * The network of this name, which must be Berth's own.
 * @throws {RuntimeError} NOT_FOUND, or FAILED_PRECONDITION when it is not
 */
export function ownedNetwork(configs: NetworkConfigs, name: string): ResolvedNetwork {
  const network = configs.load(name);
  if (network.owned) return network;
  const advice = 'add "io.berth/owned": true to its file if nobody else uses it';
  throw new RuntimeError('FAILED_PRECONDITION', `network: ${name} is not marked as Berth's own: ${advice}`);
}

function isOn(record: NetworkRecord | undefined, network: string): boolean {
  return record?.attachments.some((entry) => entry.network.name === network) === true;
}
