/**
 * Compares the records with the kernel and the disk: attachments whose DEL is due, namespaces, files of containers,
 * ports of bridges, pairs of ptp, packet rules, host-local's leases. Lists what has no owner and what an owner lacks, and mends it when
 * asked to. Only networks that are Berth's own are looked into: elsewhere nobody can tell what has no owner.
 *
 * Each network is looked at and mended while no ADD or DEL of it runs, so nothing that is being made is taken for left
 * over. What needs a plugin or a container's lane (a DEL, a reload) comes after that.
 */
import { join } from 'node:path';
import type { Logger } from 'pino';
import { ContainerFiles } from '../cni/container-files.ts';
import type { ContainerLanes } from '../cni/container-lanes.ts';
import type { LiveNetworks } from '../cni/live-networks.ts';
import { NetworkNamespaces } from '../cni/netns.ts';
import type { ResolvedNetwork } from '../cni/network.ts';
import type { NetworkConfigs } from '../cni/network-config.ts';
import type { NetworkGate } from '../cni/network-gate.ts';
import type { NetworkRecord } from '../cni/network-record.ts';
import { RuntimeError } from '../errors.ts';
import type { Ipam } from '../ipam/ipam.ts';
import type { RunProgram } from '../run-program.ts';
import type { ContainerId } from '../runtime/container.ts';
import type { Store } from '../store.ts';
import { type Finding, namespacesElsewhere, type Owners, ownersOf, type Suspect } from './audit-finding.ts';
import { auditInterfaces } from './audit-interfaces.ts';
import { auditLeases, auditOwnLeases, leasesOf } from './audit-leases.ts';
import { auditNftRules, nftRulesNaming } from './audit-nft.ts';
import { auditPairs, hasPairs } from './audit-pairs.ts';
import { auditRules, rulesNaming } from './audit-rules.ts';
import { readHostLinks } from './host-links.ts';
import { readHostRules } from './host-rules.ts';
import type { NetworkMaker } from './network-maker.ts';
import type { NetworkReload } from './network-reload.ts';
import { readNftMasquerade } from './nft-masquerade.ts';

export interface NetworkAuditOptions {
  readonly configs: NetworkConfigs;
  readonly store: Store<NetworkRecord>;
  readonly gate: NetworkGate;
  readonly ipam: Pick<Ipam, 'list' | 'release'>;
  readonly lanes: Pick<ContainerLanes, 'retryCleanup'>;
  readonly live: Pick<LiveNetworks, 'settle'>;
  readonly maker: Pick<NetworkMaker, 'beingRemoved' | 'recover'>;
  readonly reload: Pick<NetworkReload, 'reload'>;
  /** Ids for which something is held though their run is over. */
  readonly stale: () => ReadonlySet<ContainerId>;
  /** Ids of containers that are not at rest. */
  readonly active: () => ReadonlySet<ContainerId>;
  readonly runDir: string;
  readonly run?: RunProgram;
  readonly log: Logger;
}

/** A finding and what became of it. */
export interface AuditedFinding extends Finding {
  readonly repaired: boolean;
}

/** See the module's head. */
export class NetworkAudit {
  readonly #options: NetworkAuditOptions;
  readonly #namespaces: NetworkNamespaces;
  readonly #files: ContainerFiles;
  readonly #netnsDir: string;
  readonly #log: Logger;

  constructor(options: NetworkAuditOptions) {
    this.#options = options;
    this.#netnsDir = join(options.runDir, 'netns');
    this.#namespaces = new NetworkNamespaces(this.#netnsDir, { run: options.run });
    this.#files = new ContainerFiles(join(options.runDir, 'files'));
    this.#log = options.log.child({ component: 'network-audit' });
  }

  /** Everything found; mended as far as that is possible when `repair` says so. */
  async audit(repair: boolean, signal: AbortSignal): Promise<AuditedFinding[]> {
    const due = [...this.#attachments(), ...this.#removals()];
    const own = await this.#mendAll([...due, ...this.#namespaceFindings(), ...this.#fileFindings()], repair, signal);
    const networks = await Promise.all(this.#owned().map((network) => this.#auditNetwork(network, repair, signal)));
    const findings = [...own, ...networks.flat()];
    this.#log.info({ findings: findings.length, repair }, 'networks audited');
    return findings;
  }

  /**
   * Gives back leases that belong to nobody: those of a boot before, and of a database that is no more. Due once at the
   * start, before anything is attached. Never throws: a lease too many is no reason not to start.
   */
  async sweepLeases(signal: AbortSignal): Promise<void> {
    for (const network of this.#owned()) {
      try {
        const leases = await leasesOf(network);
        const held = leases.map(({ containerId }) => containerId);
        const suspects = auditLeases(this.#ownersOf(network, held), leases).filter(({ missing }) => !missing);
        const mended = await this.#mendAll(suspects, true, signal);
        if (mended.length > 0)
          this.#log.warn({ network: network.name, leases: mended }, 'leases without owner given back');
      } catch (error) {
        this.#log.error({ network: network.name, err: error }, 'leases not looked at');
      }
    }
  }

  async #auditNetwork(network: ResolvedNetwork, repair: boolean, signal: AbortSignal): Promise<AuditedFinding[]> {
    const { gate, run } = this.#options;
    const alone = async (): Promise<AuditedFinding[]> => {
      const [rules, byNft, leases, links] = await Promise.all([
        readHostRules(run, signal),
        readNftMasquerade({ run, signal }),
        leasesOf(network),
        hasPairs(network) ? readHostLinks(run, signal) : [],
      ]);
      const marked = [...nftRulesNaming(network, byNft), ...leases].map(({ containerId }) => containerId);
      const named = [...rulesNaming(network, rules).keys(), ...marked];
      const owners = this.#ownersOf(network, named);
      const others = this.#others(network);
      const suspects = [
        ...auditInterfaces(owners, others, run),
        ...auditPairs(owners, others, { links, run }),
        ...auditRules(owners, rules, run),
        ...auditNftRules(owners, byNft, run),
        ...auditLeases(owners, leases),
        ...auditOwnLeases(owners, this.#options.ipam),
      ];
      return this.#mendAll(suspects, repair, signal);
    };
    const findings = await gate.alone(network.name, alone, signal);
    return repair ? this.#reloaded(network.name, findings, signal) : findings;
  }

  /** Brings missing rules back, now that plugins may run again. */
  async #reloaded(
    network: string,
    findings: readonly AuditedFinding[],
    signal: AbortSignal,
  ): Promise<AuditedFinding[]> {
    const lacks = (finding: AuditedFinding): boolean => finding.kind === 'rule' && finding.missing;
    if (!findings.some(lacks)) return [...findings];
    const reloaded = await this.#options.reload.reload(network, signal);
    const well = new Set(reloaded.flatMap(({ containerId, error }) => (error === '' ? [containerId] : [])));
    return findings.map((finding) =>
      lacks(finding) ? { ...finding, repaired: well.has(finding.containerId) } : finding,
    );
  }

  async #mendAll(suspects: readonly Suspect[], repair: boolean, signal: AbortSignal): Promise<AuditedFinding[]> {
    const findings: AuditedFinding[] = [];
    for (const { repair: mend, ...finding } of suspects) {
      if (!repair || mend === undefined) {
        findings.push({ ...finding, repaired: false });
        continue;
      }
      try {
        await mend(signal);
        this.#log.info({ ...finding }, 'network finding repaired');
        findings.push({ ...finding, repaired: true });
      } catch (error) {
        signal.throwIfAborted();
        const reason = RuntimeError.from(error, 'repair').message;
        findings.push({ ...finding, repaired: false, detail: `${finding.detail}; not repaired: ${reason}` });
      }
    }
    return findings;
  }

  /** DELs that are due: of runs that are over, and of disconnects that failed. */
  #attachments(): Suspect[] {
    const { store, lanes, live } = this.#options;
    const stale = this.#options.stale();
    return [...store.entries()].flatMap(([containerId, { attachments }]) =>
      attachments
        .filter(({ state }) => stale.has(containerId) || state === 'deleting')
        .map(({ network, interfaceName }) => ({
          ...({ kind: 'attachment', name: interfaceName, network: network.name, containerId, missing: false } as const),
          detail: 'its DEL is due',
          repair: async (signal: AbortSignal) => {
            const done = stale.has(containerId)
              ? await lanes.retryCleanup(containerId, signal)
              : await live.settle(containerId, signal).then(() => true);
            if (!done) throw new RuntimeError('UNAVAILABLE', 'DEL failed again: see berth inspect');
          },
        })),
    );
  }

  #removals(): Suspect[] {
    return this.#options.maker.beingRemoved().map((name) => ({
      ...({ kind: 'configuration', name, network: name, containerId: '', missing: false } as const),
      detail: 'the removal of the network is not finished',
      repair: async (signal: AbortSignal) => {
        await this.#options.maker.recover(signal);
        if (!this.#options.maker.beingRemoved().includes(name)) return;
        throw new RuntimeError('UNAVAILABLE', 'something is still there: see the log of berthd');
      },
    }));
  }

  #namespaceFindings(): Suspect[] {
    const names = this.#namespaces.list();
    const { store } = this.#options;
    const stale = this.#options.stale();
    const lost = [...store.entries()].filter(
      ([id, { netnsPath }]) => netnsPath !== '' && !stale.has(id) && !this.#namespaces.exists(id),
    );
    return [
      ...names.flatMap((id) => this.#unowned('namespace', id, (signal) => this.#namespaces.remove(id, signal))),
      ...lost.map(([containerId]) => ({
        ...({ kind: 'namespace', name: containerId, network: '', containerId, missing: true } as const),
        detail: 'the namespace is gone: start the container again',
      })),
    ];
  }

  #fileFindings(): Suspect[] {
    return this.#files.list().flatMap((id) => this.#unowned('files', id, async () => this.#files.remove(id)));
  }

  #unowned(kind: 'namespace' | 'files', id: string, repair: (signal: AbortSignal) => Promise<void>): Suspect[] {
    const { store, active } = this.#options;
    if (store.entries().has(id) || store.damaged().has(id)) return [];
    const about = { kind, name: id, network: '', containerId: id, missing: false };
    if (active().has(id)) return [{ ...about, detail: 'the container runs, but has no network record: stop it first' }];
    return [{ ...about, detail: 'no record has it', repair }];
  }

  /** @param named containers that rules and leases of the network name */
  #ownersOf(network: ResolvedNetwork, named: readonly string[]): Owners {
    const living = namespacesElsewhere(this.#netnsDir);
    const elsewhere = new Set(named.filter((id) => living.has(id)));
    return ownersOf(network, this.#options.store, this.#options.stale(), elsewhere);
  }

  /** Networks that are Berth's own, those included whose file has gone. */
  #owned(): ResolvedNetwork[] {
    const { configs, store } = this.#options;
    const recorded = [...store.entries().values()].flatMap(({ attachments }) =>
      attachments.map(({ network }) => network),
    );
    const owned = new Map(recorded.filter((network) => network.owned).map((network) => [network.name, network]));
    for (const network of configs.owned()) owned.set(network.name, network);
    // A file of today may say that the network is not ours any more.
    const foreign = configs.list().filter((summary) => summary.state !== 'shadowed' && !summary.owned);
    for (const { name } of foreign) owned.delete(name);
    return [...owned.values()];
  }

  #others({ name }: ResolvedNetwork): ResolvedNetwork[] {
    const { configs } = this.#options;
    const usable = configs.list().filter(({ state }) => state === 'ready' || state === 'missing-plugin');
    return usable.filter((summary) => summary.name !== name).map((summary) => configs.inspect(summary.name).config);
  }
}
