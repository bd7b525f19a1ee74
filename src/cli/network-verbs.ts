/** `network check | gc`: what is asked of networks and their plugins. */
import type { Command } from 'commander';
import type { CollectedNetwork__Output } from '../api/generated/berth/v1/CollectedNetwork.ts';
import type { NetworkCheck__Output } from '../api/generated/berth/v1/NetworkCheck.ts';
import { EXIT_FAILURE } from './failure.ts';
import { type Format, formatOption, type Session } from './session.ts';
import type { Column } from './table.ts';

/** Adds the verbs to the group `network`. */
export function addLiveNetworkVerbs(group: Command, session: Session): void {
  addCheck(group, session);
  addCollect(group, session);
}

function addCheck(group: Command, session: Session): void {
  group
    .command('check')
    .summary("ask whether a container's networks are as they should be")
    .description(
      'Asks the plugins of a running container whether its networks are as they were made (CNI CHECK). Nothing is changed.\n' +
        'The exit code is 1 when one of them says no.',
    )
    .argument('<container>', 'id or name')
    .argument('[network]', 'only this one')
    .addOption(formatOption())
    .action(
      async (container: string, network: string | undefined, { format }: { format: Format }, command: Command) => {
        const daemon = await session.daemon(command);
        const { checks } = await daemon.call('Networks', 'Check', { container, network: network ?? '' });
        await session.printList(format, checks, { columns: CHECK_COLUMNS, json: checkObject });
        if (checks.some(({ outcome }) => outcome === 'CHECK_OUTCOME_FAILED')) session.exitCode = EXIT_FAILURE;
      },
    );
}

function addCollect(group: Command, session: Session): void {
  group
    .command('gc')
    .summary('have plugins drop what belongs to no container')
    .description(
      'Ends what earlier runs left in a network and then has its plugins drop what belongs to no container (CNI GC).\n' +
        'Only networks that are Berth\'s own: those that `berth network create` made, and files with "io.berth/owned": true.',
    )
    .argument('[network]', "name (default: every network that is Berth's own)")
    .addOption(formatOption())
    .action(async (name: string | undefined, { format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { networks } = await daemon.call('Networks', 'CollectGarbage', { name: name ?? '' });
      await session.printList(format, networks, { columns: COLLECT_COLUMNS, json: collectObject });
      if (networks.some(({ error }) => error !== '')) session.exitCode = EXIT_FAILURE;
    });
}

const CHECK_COLUMNS: readonly Column<NetworkCheck__Output>[] = [
  { heading: 'NETWORK', cell: ({ network }) => network },
  { heading: 'INTERFACE', cell: ({ interfaceName }) => interfaceName },
  { heading: 'CHECK', cell: (check) => outcomeName(check) },
  { heading: 'REASON', cell: ({ reason }) => reason },
];

function outcomeName({ outcome }: NetworkCheck__Output): string {
  return String(outcome).replace('CHECK_OUTCOME_', '').toLowerCase();
}

function checkObject(check: NetworkCheck__Output): Record<string, unknown> {
  const { network, interfaceName, reason } = check;
  return { network, interface: interfaceName, check: outcomeName(check), reason };
}

const COLLECT_COLUMNS: readonly Column<CollectedNetwork__Output>[] = [
  { heading: 'NETWORK', cell: ({ name }) => name },
  { heading: 'RELEASED', cell: ({ released }) => released.map((id) => id.slice(0, 12)).join(' ') },
  { heading: 'GC', cell: ({ asked }) => (asked ? 'done' : 'the network has none') },
  { heading: 'ERROR', cell: ({ error }) => error },
];

function collectObject({ name, released, asked, error }: CollectedNetwork__Output): Record<string, unknown> {
  return { network: name, released, gc: asked, error };
}
