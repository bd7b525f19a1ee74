/** `network create | rm | prune`: networks that Berth makes and takes away. */
import { type Command, Option } from 'commander';
import type { CreateNetworkRequest } from '../api/generated/berth/v1/CreateNetworkRequest.ts';
import { usage } from './failure.ts';
import { listOption, type Session } from './session.ts';

/** What commander makes of the flags of `network create`. */
export interface NetworkFlags {
  readonly driver: string;
  readonly subnet?: readonly string[];
  readonly gateway?: readonly string[];
  readonly ipRange?: readonly string[];
  readonly ipv6?: boolean;
  readonly internal?: boolean;
  readonly mtu?: string;
  readonly parent?: string;
}

/** Adds the verbs to the group `network`. */
export function addNetworkMakingVerbs(group: Command, session: Session): void {
  addCreate(group, session);
  group
    .command('rm')
    .alias('remove')
    .summary('remove networks')
    .description('Removes networks that `berth network create` made and no container is attached to.')
    .argument('<network...>', 'name')
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(names, async (name) => {
        await daemon.call('Networks', 'Remove', { name });
        return `${name}\n`;
      });
    });
  group
    .command('prune')
    .summary('remove networks that no container uses')
    .description(
      'Removes every network that `berth network create` made and no container names, and prints their names.',
    )
    .action(async (_flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const { removed } = await daemon.call('Networks', 'Prune', {});
      await session.print(removed.map((name) => `${name}\n`).join(''));
    });
}

function addCreate(group: Command, session: Session): void {
  group
    .command('create')
    .summary('create a network')
    .description('Writes a network configuration into the first configuration directory of berthd and prints its name.')
    .argument('<name>', 'name of the network')
    .addOption(
      new Option('--driver <driver>', 'how containers are connected')
        .choices(['bridge', 'ptp', 'macvlan', 'ipvlan'])
        .default('bridge'),
    )
    .addOption(listOption('--subnet <subnet>', 'one for IPv4, one for IPv6 (default: a free one)'))
    .addOption(listOption('--gateway <address>', 'of a subnet (default: its first address)'))
    .addOption(listOption('--ip-range <subnet>', 'part of a subnet that addresses are given from'))
    .option('--ipv6', 'an IPv6 subnet as well')
    .option('--internal', 'no way out: no default route, no masquerading')
    .option('--mtu <bytes>', 'largest packet')
    .option('--parent <interface>', 'interface of the host that macvlan and ipvlan lie on')
    .addHelpText(
      'after',
      '\nExamples:\n  berth network create front\n  berth network create back --internal --subnet 10.90.7.0/24\n' +
        '  berth network create lan --driver macvlan --parent eth0 --subnet 192.168.1.0/24 --ip-range 192.168.1.192/27',
    )
    .action(async (name: string, flags: NetworkFlags, command: Command) => {
      const request = networkRequest(name, flags);
      const daemon = await session.daemon(command);
      const network = await daemon.call('Networks', 'Create', request);
      await session.print(`${network.name}\n`);
    });
}

/** The request that name and flags ask for. @throws {Failure} naming the flag */
export function networkRequest(name: string, flags: NetworkFlags): CreateNetworkRequest {
  return {
    name,
    driver: flags.driver,
    subnets: [...(flags.subnet ?? [])],
    gateways: [...(flags.gateway ?? [])],
    ipRanges: [...(flags.ipRange ?? [])],
    ipv6: flags.ipv6 === true,
    internal: flags.internal === true,
    ...(flags.mtu === undefined ? {} : { mtu: bytes(flags.mtu) }),
    ...(flags.parent === undefined ? {} : { parent: flags.parent }),
  };
}

function bytes(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw usage('--mtu', `${JSON.stringify(text)} is no number of bytes`);
  return Number(text);
}
