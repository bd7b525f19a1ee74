/** `csi ls`. */
import type { Command } from 'commander';
import type { Plugin__Output } from '../api/generated/berth/v1/Plugin.ts';
import { type Format, formatOption, type Session } from './session.ts';
import type { Column } from './table.ts';

/** Adds the group to the program. */
export function addPluginVerbs(program: Command, session: Session): void {
  const group = program.command('csi').summary('CSI plugins: ls').description('CSI plugins of this host.');
  group
    .command('ls')
    .alias('list')
    .summary('list CSI plugins')
    .description('Lists the CSI plugins whose sockets are known, also those that do not answer.')
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { plugins } = await daemon.call('Plugins', 'List', {});
      await session.printList(format, plugins, { columns: COLUMNS, json: pluginObject });
    });
}

const COLUMNS: readonly Column<Plugin__Output>[] = [
  { heading: 'NAME', cell: ({ name }) => (name === '' ? '-' : name) },
  { heading: 'STATE', cell: (plugin) => stateName(plugin) },
  { heading: 'VERSION', cell: ({ vendorVersion }) => vendorVersion },
  { heading: 'SOCKET', cell: ({ socket }) => socket },
  { heading: 'REASON', cell: ({ reason }) => reason },
];

function stateName({ state }: Plugin__Output): string {
  return state === 'PLUGIN_STATE_READY' ? 'ready' : 'not-ready';
}

function pluginObject(plugin: Plugin__Output): Record<string, unknown> {
  const { name, socket, reason, vendorVersion, capabilities, nodeId } = plugin;
  return { name, socket, state: stateName(plugin), reason, vendorVersion, capabilities, nodeId: nodeId ?? null };
}
