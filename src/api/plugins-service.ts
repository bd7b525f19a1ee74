/** The Plugins service: the CSI plugins of this host. */
import type { PluginRegistry, PluginSummary } from '../csi/plugin-registry.ts';
import type { ListPluginsResponse } from './generated/berth/v1/ListPluginsResponse.ts';
import type { Plugin } from './generated/berth/v1/Plugin.ts';
import type { PluginsDefinition } from './generated/berth/v1/Plugins.ts';
import type { ServiceMethods } from './protocol.ts';

export class PluginsService implements ServiceMethods<PluginsDefinition> {
  readonly #registry: Pick<PluginRegistry, 'list'>;

  constructor(registry: Pick<PluginRegistry, 'list'>) {
    this.#registry = registry;
  }

  async list(): Promise<ListPluginsResponse> {
    return { plugins: this.#registry.list().map(pluginMessage) };
  }
}

function pluginMessage({ name, socket, state, reason, vendorVersion, capabilities, nodeId }: PluginSummary): Plugin {
  return {
    name,
    state: state === 'ready' ? 'PLUGIN_STATE_READY' : 'PLUGIN_STATE_NOT_READY',
    reason: reason ?? '',
    socket,
    vendorVersion,
    capabilities: [...capabilities],
    ...(nodeId === undefined ? {} : { nodeId }),
  };
}
