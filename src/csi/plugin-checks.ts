/** What `berth doctor` says about CSI plugins: one line for each row of `berth csi ls`, and one about mounts. */
import { existsSync, realpathSync } from 'node:fs';
import { basename } from 'node:path';
import type { Check } from '../check.ts';
import { readMounts } from '../mountinfo.ts';
import type { PluginRegistry, PluginSummary } from './plugin-registry.ts';
import { type MountPropagation, propagationOf } from './shared-mount.ts';

/** One line per known plugin, with what mends it. A plugin that is not ready is a warning: volumes of others work. */
export function pluginChecks(registry: Pick<PluginRegistry, 'list' | 'pluginDir'>): Check[] {
  const plugins = registry.list();
  if (plugins.length > 0) return plugins.map(checkOf);
  const remedy = `start a CSI plugin whose socket appears as ${registry.pluginDir}/NAME.sock`;
  return [{ area: 'volumes', name: 'CSI plugins', state: 'warn', detail: 'none is known', remedy }];
}

/** Whether mounts that plugins make below `rootDir` (which is there) reach other mount namespaces, and those made there reach it. */
export function propagationCheck(rootDir: string): Check {
  // It may be a shared mount of its own, for plugins that Berth runs as containers.
  const volumes = `${rootDir}/csi/mounts`;
  const dir = existsSync(volumes) ? volumes : rootDir;
  return propagationLine(dir, propagationOf(readMounts(), realpathSync(dir)));
}

/** The line for what was found. */
export function propagationLine(dir: string, found: MountPropagation | undefined): Check {
  const line = { area: 'volumes', name: 'mount propagation' };
  if (found?.shared === true)
    return { ...line, state: 'ok', detail: `${dir} lies on a shared mount (${found.mountPoint})` };
  const place = found === undefined ? 'an unknown mount' : `the mount ${found.mountPoint}, which is not shared`;
  return {
    ...line,
    state: 'warn',
    detail: `${dir} lies on ${place}: mounts of CSI plugins that run in containers do not reach this host`,
    remedy: `mount --make-shared ${found?.mountPoint ?? '/'}`,
  };
}

function checkOf(plugin: PluginSummary): Check {
  const line = { area: 'volumes', name: plugin.name === '' ? plugin.socket : plugin.name };
  if (plugin.state === 'ready') {
    return { ...line, state: 'ok', detail: `CSI plugin ${plugin.vendorVersion} at ${plugin.socket}` };
  }
  const detail = `${plugin.state} at ${plugin.socket}: ${plugin.reason ?? 'no reason known'}`;
  return { ...line, state: 'warn', detail, remedy: remedyFor(plugin) };
}

function remedyFor({ name, state, socket, registrations }: PluginSummary): string {
  const [by] = registrations;
  // Berth itself starts it, again and again.
  if (by?.source === 'berthd' && state !== 'refused') {
    return `see berth csi logs ${name === '' ? basename(by.origin, '.toml') : name}`;
  }
  if (state === 'invalid') {
    if (by?.source === 'file') return `mend ${socket}; it is read again at once`;
    if (by?.source === 'command') return `berth csi unregister ${name}`;
    return by?.source === 'registrar' ? 'restart the registrar' : `rm ${socket}`;
  }
  if (state !== 'refused') return 'start the plugin again';
  if (by?.source === 'command') return `stop one of the two plugins, or berth csi unregister ${by.origin}`;
  return `stop one of the two plugins, or rm ${by?.origin ?? socket}`;
}
