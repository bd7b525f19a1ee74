/** `ipam ls | inspect | release`. */
import type { Command } from 'commander';
import type { Lease__Output } from '../api/generated/berth/v1/Lease.ts';
import { usage } from './failure.ts';
import { type Format, formatOption, jsonOption, type Session } from './session.ts';
import { formatDuration } from './size.ts';
import type { Column } from './table.ts';

const LEASE = '<address...>';
const LEASE_TEXT = 'address, or NETWORK/ADDRESS where several networks have it';
const SHORT_ID = 12;

/** Adds the group to the program. */
export function addIpamVerbs(program: Command, session: Session): void {
  const group = program
    .command('ipam')
    .summary('addresses: ls, inspect, release')
    .description('Addresses that containers hold: those given by berth-ipam, and those of host-local, read only.');
  group
    .command('ls')
    .alias('list')
    .summary('list addresses')
    .description('Lists every address that is held or kept, with its owner.')
    .option('--network <name>', 'only those of this network', '')
    .option('--no-trunc', 'do not shorten ids')
    .addOption(formatOption())
    .action(async (flags: { format: Format; network: string; trunc: boolean }, command: Command) => {
      const daemon = await session.daemon(command);
      const { leases } = await daemon.call('Ipam', 'List', { network: flags.network });
      await session.printList(flags.format, leases, { columns: columns(Date.now(), !flags.trunc), json: leaseObject });
    });
  group
    .command('inspect')
    .summary('show everything about addresses')
    .description('Shows who holds addresses, and since when, as a JSON array.')
    .argument(LEASE, LEASE_TEXT)
    .addOption(jsonOption())
    .action(async (refs: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const leases = await Promise.all(refs.map((ref) => daemon.call('Ipam', 'Inspect', parsed(ref))));
      await session.printJson(leases.map(leaseObject));
    });
  group
    .command('release')
    .summary('take addresses back')
    .description('Takes addresses back that nobody uses any more. One whose container is attached is not taken back.')
    .argument(LEASE, LEASE_TEXT)
    .option('-f, --force', 'also when the container is attached: another one may be given the same address', false)
    .action(async (refs: string[], { force }: { force: boolean }, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(refs, async (ref) => {
        await daemon.call('Ipam', 'Release', { ...parsed(ref), force });
        return `${ref}\n`;
      });
    });
}

/** "10.86.0.5" or "berth/10.86.0.5". */
function parsed(ref: string): { readonly network: string; readonly address: string } {
  const [first = '', second, ...rest] = ref.split('/');
  if (rest.length > 0) throw usage('address', `${JSON.stringify(ref)} must be ADDRESS or NETWORK/ADDRESS`);
  return second === undefined ? { network: '', address: first } : { network: first, address: second };
}

function columns(nowMs: number, full: boolean): readonly Column<Lease__Output>[] {
  return [
    { heading: 'ADDRESS', cell: ({ address }) => address },
    { heading: 'NETWORK', cell: ({ network }) => network },
    { heading: 'CONTAINER', cell: ({ containerId }) => (full ? containerId : containerId.slice(0, SHORT_ID)) },
    { heading: 'INTERFACE', cell: ({ interfaceName }) => interfaceName },
    { heading: 'STATE', cell: stateOf },
    { heading: 'AGE', cell: ({ allocatedAt }) => formatDuration(nowMs - Date.parse(allocatedAt)) },
    { heading: 'IPAM', cell: sourceOf },
  ];
}

/** attached: its container runs on it; held: by whom Berth does not know; kept: for the next time. */
function stateOf({ attached, releasedAt }: Lease__Output): string {
  if (releasedAt !== undefined) return 'kept';
  return attached ? 'attached' : 'held';
}

function sourceOf({ source }: Lease__Output): string {
  return source === 'LEASE_SOURCE_HOST_LOCAL' ? 'host-local' : 'berth-ipam';
}

function leaseObject(lease: Lease__Output): Record<string, unknown> {
  const { address, network, containerId, interfaceName, allocatedAt, releasedAt, keptUntil } = lease;
  const { workload, sticky, file } = lease;
  return {
    address,
    network,
    container: containerId,
    interface: interfaceName,
    state: stateOf(lease),
    allocatedAt,
    releasedAt: releasedAt ?? null,
    ipam: sourceOf(lease),
    ...(sourceOf(lease) === 'host-local' ? { file } : { workload, sticky, keptUntil: keptUntil ?? null }),
  };
}
