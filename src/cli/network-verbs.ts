/** `network connect | disconnect | check | reload | gc | audit`: what is done with networks of containers that run. */
import type { Command } from 'commander';
import type { AuditFinding__Output } from '../api/generated/berth/v1/AuditFinding.ts';
import type { CollectedNetwork__Output } from '../api/generated/berth/v1/CollectedNetwork.ts';
import type { NetworkCheck__Output } from '../api/generated/berth/v1/NetworkCheck.ts';
import type { ReloadedAttachment__Output } from '../api/generated/berth/v1/ReloadedAttachment.ts';
import { EXIT_FAILURE } from './failure.ts';
import { networkOptions } from './network-option-flags.ts';
import { type Format, formatOption, listOption, type Session } from './session.ts';
import type { Column } from './table.ts';

/** Adds the verbs to the group `network`. */
export function addLiveNetworkVerbs(group: Command, session: Session): void {
  addConnect(group, session);
  addDisconnect(group, session);
  addCheck(group, session);
  addReload(group, session);
  addCollect(group, session);
  addAudit(group, session);
}

interface ConnectFlags {
  readonly interface?: string;
  readonly ip?: readonly string[];
  readonly mac?: string;
  readonly alias?: readonly string[];
  readonly arg?: readonly string[];
  readonly capability?: readonly string[];
}

function addConnect(group: Command, session: Session): void {
  group
    .command('connect')
    .summary('attach a running container to one more network')
    .description(
      'Attaches a running container to one more network and prints the interface and its addresses. It lasts until the\n' +
        'container exits: the next run has the networks it was created with.',
    )
    .argument('<network>', 'name')
    .argument('<container>', 'id or name')
    .option('--interface <name>', 'name of the interface inside (default: the next free of eth0, eth1, ...)')
    .addOption(listOption('--ip <address>', 'address to have (repeatable)'))
    .option('--mac <address>', 'hardware address to have')
    .addOption(listOption('--alias <name>', 'further name in the network (repeatable)'))
    .addOption(listOption('--arg <key=value>', 'CNI argument for the plugins (repeatable)'))
    .addOption(listOption('--capability <name=value>', 'text or JSON for plugins that declare it (repeatable)'))
    .action(async (network: string, container: string, flags: ConnectFlags, command: Command) => {
      const daemon = await session.daemon(command);
      const { interfaceName, addresses } = await daemon.call('Networks', 'Connect', {
        network,
        container,
        interfaceName: flags.interface ?? '',
        ips: [...(flags.ip ?? [])],
        ...(flags.mac === undefined ? {} : { mac: flags.mac }),
        aliases: [...(flags.alias ?? [])],
        options: networkOptions({ networkArg: flags.arg ?? [], networkCapability: flags.capability ?? [] }),
      });
      await session.print(`${[interfaceName, ...addresses].join(' ')}\n`);
    });
}

function addDisconnect(group: Command, session: Session): void {
  group
    .command('disconnect')
    .summary('detach a running container from a network')
    .description('Detaches a running container from a network. A default route goes with the network that brought it.')
    .argument('<network>', 'name')
    .argument('<container>', 'id or name')
    .action(async (network: string, container: string, _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      await daemon.call('Networks', 'Disconnect', { network, container });
    });
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

function addReload(group: Command, session: Session): void {
  group
    .command('reload')
    .summary("make the host's rules for running containers again")
    .description(
      "Makes the host's rules for running containers again after something flushed them, a firewall that was restarted.\n" +
        'Addresses, interfaces and connections stay.',
    )
    .argument('[network]', 'only this one')
    .addOption(formatOption())
    .action(async (name: string | undefined, { format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { attachments } = await daemon.call('Networks', 'Reload', { name: name ?? '' });
      await session.printList(format, attachments, { columns: RELOAD_COLUMNS, json: reloadObject });
      if (attachments.some(({ error }) => error !== '')) session.exitCode = EXIT_FAILURE;
    });
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

function addAudit(group: Command, session: Session): void {
  group
    .command('audit')
    .summary('find what belongs to no container, and what containers lack')
    .description(
      'Compares what is on record with the kernel and the disk: namespaces, ports of bridges, packet rules, leases. In\n' +
        "networks that are Berth's own only. The exit code is 1 when something was found and not repaired.",
    )
    .option('--repair', 'remove what has no owner, and bring back what is missing')
    .addOption(formatOption())
    .action(async ({ repair, format }: { repair?: boolean; format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { findings } = await daemon.call('Networks', 'Audit', { repair: repair === true });
      await session.printList(format, findings, { columns: AUDIT_COLUMNS, json: findingObject });
      if (findings.some(({ repaired }) => !repaired)) session.exitCode = EXIT_FAILURE;
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

const RELOAD_COLUMNS: readonly Column<ReloadedAttachment__Output>[] = [
  { heading: 'CONTAINER', cell: ({ containerId }) => containerId.slice(0, 12) },
  { heading: 'NETWORK', cell: ({ network }) => network },
  { heading: 'INTERFACE', cell: ({ interfaceName }) => interfaceName },
  { heading: 'RULES', cell: ({ restored }) => restored.join(', ') },
  { heading: 'ERROR', cell: ({ error }) => error },
];

function reloadObject(attachment: ReloadedAttachment__Output): Record<string, unknown> {
  const { containerId, network, interfaceName, restored, error } = attachment;
  return { container: containerId, network, interface: interfaceName, rules: restored, error };
}

const AUDIT_COLUMNS: readonly Column<AuditFinding__Output>[] = [
  { heading: 'KIND', cell: ({ kind }) => kind },
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'NETWORK', cell: ({ network }) => network || '-' },
  { heading: 'CONTAINER', cell: ({ containerId }) => containerId.slice(0, 12) || '-' },
  { heading: 'STATE', cell: ({ missing, repaired }) => (repaired ? 'repaired' : missing ? 'missing' : 'no owner') },
  { heading: 'DETAIL', cell: ({ detail }) => detail },
];

function findingObject(finding: AuditFinding__Output): Record<string, unknown> {
  const { kind, name, network, containerId, missing, repaired, detail } = finding;
  return { kind, name, network, container: containerId, missing, repaired, detail };
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
