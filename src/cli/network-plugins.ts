/** `network plugins`: the CNI plugins that run now, so that one that hangs is found. */
import type { Command } from 'commander';
import type { PluginRun__Output } from '../api/generated/berth/v1/PluginRun.ts';
import { type Format, formatOption, type Session } from './session.ts';
import { formatDuration } from './size.ts';
import type { Column } from './table.ts';

/** Adds the verb to the group `network`. */
export function addPluginRunVerb(group: Command, session: Session): void {
  group
    .command('plugins')
    .summary('list the CNI plugins that run now')
    .description(
      'Lists the CNI plugins that run at this moment, the longest running first: what a launch or a removal waits for.\n' +
        'One that hangs is killed with its process group when its time is up (--cni-timeout of berthd); DEL follows an ADD.',
    )
    .argument('[network]', 'only those of this one')
    .addOption(formatOption())
    .action(async (name: string | undefined, { format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { runs } = await daemon.call('Networks', 'ListPluginRuns', { name: name ?? '' });
      await session.printList(format, runs, { columns: COLUMNS, json: runObject });
    });
}

const COLUMNS: readonly Column<PluginRun__Output>[] = [
  { heading: 'PLUGIN', cell: ({ plugin }) => plugin },
  { heading: 'COMMAND', cell: ({ command }) => command },
  { heading: 'NETWORK', cell: ({ network }) => network || '-' },
  { heading: 'CONTAINER', cell: ({ containerId }) => containerId.slice(0, 12) || '-' },
  { heading: 'INTERFACE', cell: ({ interfaceName }) => interfaceName || '-' },
  { heading: 'PID', cell: ({ pid }) => (pid === undefined ? '-' : String(pid)) },
  { heading: 'RUNNING', cell: ({ startedAt }) => formatDuration(Date.now() - Date.parse(startedAt)) },
];

function runObject(run: PluginRun__Output): Record<string, unknown> {
  const { plugin, command, network, containerId, interfaceName, startedAt, pid } = run;
  return { plugin, command, network, container: containerId, interface: interfaceName, pid: pid ?? null, startedAt };
}
