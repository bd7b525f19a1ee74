/** Everything that people do to networks beside launching containers, put together in one place. No logic of its own. */
import type { Logger } from 'pino';
import type { HostSide } from '../cni/attacher.ts';
import type { CniRuntime } from '../cni/cni-runtime.ts';
import type { ContainerLanes } from '../cni/container-lanes.ts';
import { LiveNetworks } from '../cni/live-networks.ts';
import { NetworkCollector } from '../cni/network-collector.ts';
import type { NetworkConfigs } from '../cni/network-config.ts';
import type { NetworkGate } from '../cni/network-gate.ts';
import type { NetworkRecord } from '../cni/network-record.ts';
import { PeriodicCheck } from '../cni/periodic-check.ts';
import type { PluginPath } from '../cni/plugin-path.ts';
import type { ResultCache } from '../cni/result-cache.ts';
import type { Subnet } from '../ipam/address.ts';
import type { Ipam } from '../ipam/ipam.ts';
import type { RunProgram } from '../run-program.ts';
import type { ContainerId } from '../runtime/container.ts';
import type { Store } from '../store.ts';
import { NetworkAudit } from './network-audit.ts';
import { NetworkMaker } from './network-maker.ts';
import { NetworkReload } from './network-reload.ts';

export interface NetworkOperationsOptions {
  readonly plugins: PluginPath;
  readonly configs: NetworkConfigs;
  readonly cni: CniRuntime;
  readonly gate: NetworkGate;
  readonly ipam: Pick<Ipam, 'list' | 'release'>;
  readonly store: Store<NetworkRecord>;
  readonly cache: ResultCache | undefined;
  /** What is done on the host beside what plugins do. */
  readonly hostSide: HostSide;
  readonly lanes: ContainerLanes;
  /** Ids for which something is held though their run is over. */
  readonly stale: () => ReadonlySet<ContainerId>;
  /** Ids of containers that are not at rest. */
  readonly active: () => ReadonlySet<ContainerId>;
  /** Where files of created networks are written. */
  readonly confDir: string;
  /** Where the leases of created networks lie. */
  readonly leaseDir: string;
  readonly pools: readonly Subnet[];
  /** Path of a container's cgroup, for plugins that ask for it: "/berth/ID". */
  readonly cgroupPath: (id: ContainerId) => string;
  /** Pause between two rounds of CHECK; 0: no rounds. */
  readonly checkIntervalMs: number;
  readonly runDir: string;
  readonly run: RunProgram;
  readonly log: Logger;
}

/** See the module's head. */
export class NetworkOperations {
  readonly live: LiveNetworks;
  readonly collector: NetworkCollector;
  readonly maker: NetworkMaker;
  readonly reload: NetworkReload;
  readonly audit: NetworkAudit;
  readonly #checks: PeriodicCheck | undefined;

  constructor(options: NetworkOperationsOptions) {
    this.live = new LiveNetworks(options);
    this.collector = new NetworkCollector(options);
    this.maker = new NetworkMaker(options);
    this.reload = new NetworkReload(options);
    this.audit = new NetworkAudit({ ...options, live: this.live, maker: this.maker, reload: this.reload });
    this.#checks = options.checkIntervalMs === 0 ? undefined : this.#periodicCheck(options);
  }

  /** Start of the daemon, once containers are recovered: finishes what was begun, and gives back leases of nobody. */
  async recover(signal: AbortSignal): Promise<void> {
    await this.maker.recover(signal);
    await this.audit.sweepLeases(signal);
    this.live.recover();
    this.#checks?.start();
  }

  /** Ends what runs in the background. */
  async close(): Promise<void> {
    await Promise.all([this.#checks?.close(), this.live.close()]);
  }

  #periodicCheck({ store, stale, log, checkIntervalMs }: NetworkOperationsOptions): PeriodicCheck {
    return new PeriodicCheck({
      intervalMs: checkIntervalMs,
      containers: () => [...store.entries().keys()].filter((id) => !stale().has(id)),
      check: (id, signal) => this.live.check(id, undefined, signal),
      log: log.child({ component: 'network' }),
    });
  }
}
