/** `network ls | inspect`; network-create.ts and network-verbs.ts have the verbs that do something. */
import type { Command } from 'commander';
import type { Network__Output } from '../api/generated/berth/v1/Network.ts';
import { attachmentObject } from './container-view.ts';
import { addNetworkMakingVerbs } from './network-create.ts';
import { addPluginRunVerb } from './network-plugins.ts';
import { addLiveNetworkVerbs } from './network-verbs.ts';
import { type Format, formatOption, jsonOption, type Session } from './session.ts';
import type { Column } from './table.ts';

/** Adds the group to the program. */
export function addNetworkVerbs(program: Command, session: Session): void {
  const group = program
    .command('network')
    .summary('networks: create, ls, inspect, rm, prune, connect, disconnect, check, plugins, reload, gc, audit')
    .description('Networks of this host: the CNI configurations of the directories berthd was given.');
  group
    .command('ls')
    .alias('list')
    .summary('list networks')
    .description('Lists every network configuration, also those that cannot be used and why.')
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { networks } = await daemon.call('Networks', 'List', {});
      await session.printList(format, networks, { columns: COLUMNS, json: networkObject });
    });
  group
    .command('inspect')
    .summary('show everything about networks')
    .description('Shows networks with their configuration and the containers attached to them, as a JSON array.')
    .argument('<network...>', 'name')
    .addOption(jsonOption())
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const answers = await Promise.all(names.map((name) => daemon.call('Networks', 'Inspect', { name })));
      await session.printJson(
        answers.map(({ network, configJson, attachments }) => ({
          ...(network === null ? {} : networkObject(network)),
          config: JSON.parse(configJson),
          containers: attachments.map(({ containerId, state, attachment }) => ({
            container: containerId,
            state,
            ...(attachment === null ? {} : attachmentObject(attachment)),
          })),
        })),
      );
    });
  addNetworkMakingVerbs(group, session);
  addLiveNetworkVerbs(group, session);
  addPluginRunVerb(group, session);
}

const COLUMNS: readonly Column<Network__Output>[] = [
  { heading: 'NAME', cell: ({ name }) => (name === '' ? '-' : name) },
  { heading: 'STATE', cell: (network) => stateName(network) },
  { heading: 'STATUS', cell: (network) => conditionName(network) ?? '' },
  { heading: 'DEFAULT', cell: ({ isDefault }) => (isDefault ? 'yes' : '') },
  { heading: 'PLUGINS', cell: ({ plugins }) => plugins.join(' > ') },
  { heading: 'FILE', cell: ({ file }) => file },
  { heading: 'REASON', cell: ({ reason, conditionReason }) => reason || conditionReason },
];

function stateName({ state }: Network__Output): string {
  return String(state).replace('NETWORK_STATE_', '').toLowerCase().replaceAll('_', '-');
}

/** What the plugins say; undefined when they were not asked. */
function conditionName({ condition }: Network__Output): string | undefined {
  const name = String(condition).replace('NETWORK_CONDITION_', '').toLowerCase();
  return name === 'unspecified' ? undefined : name;
}

function networkObject(network: Network__Output): Record<string, unknown> {
  const { name, reason, isDefault, plugins, cniVersion, file, conditionReason, owned } = network;
  const status = { status: conditionName(network) ?? null, statusReason: conditionReason };
  return { name, state: stateName(network), reason, default: isDefault, plugins, cniVersion, file, ...status, owned };
}
