/** What `berth doctor` says about CSI plugins: one line for each socket, or one that says there is none. */
import type { Check } from '../check.ts';
import type { PluginRegistry, PluginSummary } from './plugin-registry.ts';

/** One line per known plugin, with what mends it. A plugin that is not ready is a warning: volumes of others work. */
export function pluginChecks(registry: PluginRegistry): Check[] {
  const plugins = registry.list();
  if (plugins.length > 0) return plugins.map(checkOf);
  const remedy = `start a CSI plugin whose socket appears as ${registry.pluginDir}/NAME.sock`;
  return [{ area: 'volumes', name: 'CSI plugins', state: 'warn', detail: 'none is known', remedy }];
}

function checkOf(plugin: PluginSummary): Check {
  const line = { area: 'volumes', name: plugin.name === '' ? plugin.socket : plugin.name };
  if (plugin.state === 'ready') {
    return { ...line, state: 'ok', detail: `CSI plugin ${plugin.vendorVersion} at ${plugin.socket}` };
  }
  const detail = `${plugin.state} at ${plugin.socket}: ${plugin.reason ?? 'no reason known'}`;
  const remedy =
    plugin.state === 'refused' ? `stop one of the two plugins, or rm ${plugin.socket}` : 'start the plugin again';
  return { ...line, state: 'warn', detail, remedy };
}
