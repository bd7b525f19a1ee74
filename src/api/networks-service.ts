/** The Networks service: the network configurations of this host, who is attached to each, and what is done to them. */

import type { LiveNetworks } from '../cni/live-networks.ts';
import type { NetworkCollector } from '../cni/network-collector.ts';
import type { ConditionReport } from '../cni/network-condition.ts';
import type { NetworkConfigs, NetworkSummary } from '../cni/network-config.ts';
import type { NetworkAttachment } from '../cni/network-isolator.ts';
import type { PluginRuns } from '../cni/plugin-runs.ts';
import type { NetworkAudit } from '../networks/network-audit.ts';
import type { NetworkMaker } from '../networks/network-maker.ts';
import type { NetworkReload } from '../networks/network-reload.ts';
import { attachmentMessage } from './container-message.ts';
import type { AuditNetworksRequest__Output } from './generated/berth/v1/AuditNetworksRequest.ts';
import type { AuditNetworksResponse } from './generated/berth/v1/AuditNetworksResponse.ts';
import type { CheckNetworksRequest__Output } from './generated/berth/v1/CheckNetworksRequest.ts';
import type { CheckNetworksResponse } from './generated/berth/v1/CheckNetworksResponse.ts';
import type { CollectGarbageResponse } from './generated/berth/v1/CollectGarbageResponse.ts';
import type { ConnectNetworkRequest__Output } from './generated/berth/v1/ConnectNetworkRequest.ts';
import type { CreateNetworkRequest__Output } from './generated/berth/v1/CreateNetworkRequest.ts';
import type { DisconnectNetworkRequest__Output } from './generated/berth/v1/DisconnectNetworkRequest.ts';
import type { DisconnectNetworkResponse } from './generated/berth/v1/DisconnectNetworkResponse.ts';
import type { InspectNetworkResponse } from './generated/berth/v1/InspectNetworkResponse.ts';
import type { ListNetworksRequest__Output } from './generated/berth/v1/ListNetworksRequest.ts';
import type { ListNetworksResponse } from './generated/berth/v1/ListNetworksResponse.ts';
import type { ListPluginRunsResponse } from './generated/berth/v1/ListPluginRunsResponse.ts';
import type { Network } from './generated/berth/v1/Network.ts';
import type { NetworkAttachment as NetworkAttachmentMessage } from './generated/berth/v1/NetworkAttachment.ts';
import type { NetworkRequest__Output } from './generated/berth/v1/NetworkRequest.ts';
import type { NetworkSelection__Output } from './generated/berth/v1/NetworkSelection.ts';
import type { NetworksDefinition } from './generated/berth/v1/Networks.ts';
import type { PruneNetworksRequest__Output } from './generated/berth/v1/PruneNetworksRequest.ts';
import type { PruneNetworksResponse } from './generated/berth/v1/PruneNetworksResponse.ts';
import type { ReloadNetworksResponse } from './generated/berth/v1/ReloadNetworksResponse.ts';
import type { RemoveNetworkResponse } from './generated/berth/v1/RemoveNetworkResponse.ts';
import {
  checkMessage,
  collectedMessage,
  containerAttachmentMessage,
  networkMessage,
  reloadedMessage,
} from './network-message.ts';
import { networkOptionOf } from './network-option.ts';
import { checkRef } from './object-ref.ts';
import type { Call, ServiceMethods } from './protocol.ts';

export interface NetworksServiceOptions {
  readonly configs: Pick<NetworkConfigs, 'list' | 'inspect'>;
  /** Who is attached to the network of this name. */
  readonly attachments: (network: string) => readonly NetworkAttachment[];
  /** What its plugins say of a network. */
  readonly condition: (network: NetworkSummary, signal: AbortSignal) => Promise<ConditionReport>;
  readonly operations: {
    readonly live: Pick<LiveNetworks, 'check' | 'connect' | 'disconnect'>;
    readonly collector: Pick<NetworkCollector, 'collect'>;
    readonly maker: Pick<NetworkMaker, 'create' | 'remove' | 'prune'>;
    readonly reload: Pick<NetworkReload, 'reload'>;
    readonly audit: Pick<NetworkAudit, 'audit'>;
  };
  /** Plugins that run now. */
  readonly runs: Pick<PluginRuns, 'list'>;
  /** Networks that containers name, also those that do not run. */
  readonly wanted: () => ReadonlySet<string>;
}

export class NetworksService implements ServiceMethods<NetworksDefinition> {
  readonly #options: NetworksServiceOptions;

  constructor(options: NetworksServiceOptions) {
    this.#options = options;
  }

  async list(_: ListNetworksRequest__Output, { signal }: Call): Promise<ListNetworksResponse> {
    const { configs, condition } = this.#options;
    const networks = configs.list().map(async (summary) => networkMessage(summary, await condition(summary, signal)));
    return { networks: await Promise.all(networks) };
  }

  async inspect({ name }: NetworkRequest__Output, { signal }: Call): Promise<InspectNetworkResponse> {
    const { configs, condition, attachments } = this.#options;
    const { summary, config } = configs.inspect(checkRef('name', name));
    return {
      network: networkMessage(summary, await condition(summary, signal)),
      configJson: JSON.stringify(config),
      attachments: attachments(name).map((held) => containerAttachmentMessage(name, held)),
    };
  }

  async check(request: CheckNetworksRequest__Output, { signal }: Call): Promise<CheckNetworksResponse> {
    const container = checkRef('container', request.container);
    const checks = await this.#options.operations.live.check(
      container,
      optionalRef('network', request.network),
      signal,
    );
    return { checks: checks.map(checkMessage) };
  }

  async collectGarbage({ name }: NetworkSelection__Output, { signal }: Call): Promise<CollectGarbageResponse> {
    const networks = await this.#options.operations.collector.collect(optionalRef('name', name), signal);
    return { networks: networks.map(collectedMessage) };
  }

  async connect(request: ConnectNetworkRequest__Output, { signal }: Call): Promise<NetworkAttachmentMessage> {
    const network = checkRef('network', request.network);
    const container = checkRef('container', request.container);
    const { interfaceName, ips, mac, aliases } = request;
    const more = request.options.map(networkOptionOf);
    const options = { interfaceName: interfaceName === '' ? undefined : interfaceName, ips, mac, aliases, more };
    return attachmentMessage(await this.#options.operations.live.connect(container, network, options, signal));
  }

  async disconnect(request: DisconnectNetworkRequest__Output, { signal }: Call): Promise<DisconnectNetworkResponse> {
    const network = checkRef('network', request.network);
    await this.#options.operations.live.disconnect(checkRef('container', request.container), network, signal);
    return {};
  }

  async create(request: CreateNetworkRequest__Output): Promise<Network> {
    this.#options.operations.maker.create(request);
    return networkMessage(this.#options.configs.inspect(request.name).summary);
  }

  async remove({ name }: NetworkRequest__Output, { signal }: Call): Promise<RemoveNetworkResponse> {
    await this.#options.operations.maker.remove(checkRef('name', name), signal);
    return {};
  }

  async prune(_: PruneNetworksRequest__Output, { signal }: Call): Promise<PruneNetworksResponse> {
    return { removed: await this.#options.operations.maker.prune(this.#options.wanted(), signal) };
  }

  async reload({ name }: NetworkSelection__Output, { signal }: Call): Promise<ReloadNetworksResponse> {
    const attachments = await this.#options.operations.reload.reload(optionalRef('name', name), signal);
    return { attachments: attachments.map(reloadedMessage) };
  }

  async audit({ repair }: AuditNetworksRequest__Output, { signal }: Call): Promise<AuditNetworksResponse> {
    const findings = await this.#options.operations.audit.audit(repair, signal);
    return { findings: findings.map((finding) => ({ ...finding })) };
  }

  async listPluginRuns({ name }: NetworkSelection__Output): Promise<ListPluginRunsResponse> {
    const runs = this.#options.runs.list(optionalRef('name', name));
    return { runs: runs.map((run) => ({ ...run })) };
  }
}

/** A name that may be left out. */
function optionalRef(field: string, ref: string): string | undefined {
  return ref === '' ? undefined : checkRef(field, ref);
}
