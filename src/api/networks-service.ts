/** The Networks service: the network configurations of this host, and who is attached to each. */
import type { NetworkConfigs, NetworkState, NetworkSummary } from '../cni/network-config.ts';
import type { NetworkAttachment } from '../cni/network-isolator.ts';
import type { InspectNetworkResponse } from './generated/berth/v1/InspectNetworkResponse.ts';
import type { ListNetworksResponse } from './generated/berth/v1/ListNetworksResponse.ts';
import type { Network } from './generated/berth/v1/Network.ts';
import type { NetworkRequest__Output } from './generated/berth/v1/NetworkRequest.ts';
import type { NetworksDefinition } from './generated/berth/v1/Networks.ts';
import { checkRef } from './object-ref.ts';
import type { ServiceMethods } from './protocol.ts';

export interface NetworksServiceOptions {
  readonly configs: Pick<NetworkConfigs, 'list' | 'inspect'>;
  /** Who is attached to the network of this name. */
  readonly attachments: (network: string) => readonly NetworkAttachment[];
}

const STATES = {
  ready: 'NETWORK_STATE_READY',
  'missing-plugin': 'NETWORK_STATE_MISSING_PLUGIN',
  invalid: 'NETWORK_STATE_INVALID',
  shadowed: 'NETWORK_STATE_SHADOWED',
} as const satisfies Record<NetworkState, string>;

export class NetworksService implements ServiceMethods<NetworksDefinition> {
  readonly #options: NetworksServiceOptions;

  constructor(options: NetworksServiceOptions) {
    this.#options = options;
  }

  async list(): Promise<ListNetworksResponse> {
    return { networks: this.#options.configs.list().map(networkMessage) };
  }

  async inspect({ name }: NetworkRequest__Output): Promise<InspectNetworkResponse> {
    const { summary, config } = this.#options.configs.inspect(checkRef('name', name));
    const attachments = this.#options.attachments(name).map(({ containerId, state: _, ...attachment }) => ({
      containerId,
      attachment: {
        ...attachment,
        network: name,
        addresses: [...attachment.addresses],
        gateways: [...attachment.gateways],
      },
    }));
    return { network: networkMessage(summary), configJson: JSON.stringify(config), attachments };
  }
}

function networkMessage(summary: NetworkSummary): Network {
  const { name, reason, isDefault, plugins, cniVersion, file } = summary;
  return { name, state: STATES[summary.state], reason, isDefault, plugins: [...plugins], cniVersion, file };
}
