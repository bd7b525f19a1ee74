/** `snapshot ls | inspect | rm | register`, `snapshot group ...`, and `volume snapshot`. */
import type { Command } from 'commander';
import type { DriverSnapshot__Output } from '../api/generated/berth/v1/DriverSnapshot.ts';
import type { GroupSnapshot__Output } from '../api/generated/berth/v1/GroupSnapshot.ts';
import type { Snapshot__Output } from '../api/generated/berth/v1/Snapshot.ts';
import { usage } from './failure.ts';
import { parseParameter } from './parameter-flag.ts';
import { type Format, formatOption, jsonOption, listOption, type Session } from './session.ts';
import { formatSize } from './size.ts';
import { addBlockVerbs } from './snapshot-blocks.ts';
import type { Column } from './table.ts';
import { whileWaiting } from './waiting.ts';

interface CutFlags {
  readonly parameter?: readonly string[];
  readonly wait: boolean;
}

const PARAMETER = '--parameter <key=value>';
const PARAMETER_TEXT = 'handed to the plugin as it is (repeatable)';
const NO_WAIT_TEXT = 'return after the cut, before the snapshot can be used';

/** Adds `snapshot` and its verbs. */
export function addSnapshotVerbs(program: Command, session: Session): void {
  const group = program
    .command('snapshot')
    .summary('snapshots: ls, inspect, rm, register, blocks, diff, group')
    .description(
      'Snapshots of volumes. "berth volume snapshot" makes one, "berth volume create --from-snapshot" uses one.',
    );
  addList(group, session);
  group
    .command('inspect')
    .summary('show everything about snapshots')
    .description('Shows everything about snapshots as a JSON array.')
    .argument('<snapshot...>', 'name')
    .addOption(jsonOption())
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const snapshots = await Promise.all(names.map((name) => daemon.call('Snapshots', 'Inspect', { name })));
      await session.printJson(snapshots.map(snapshotObject));
    });
  group
    .command('rm')
    .summary('remove snapshots and their data')
    .description('Removes snapshots with their data. Those that were registered are only forgotten.')
    .argument('<snapshot...>', 'name')
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(names, async (name) => {
        await daemon.call('Snapshots', 'Remove', { name });
        return `${name}\n`;
      });
    });
  group
    .command('register')
    .summary('take on a snapshot that is there')
    .description('Gives a snapshot that somebody else made a name here. Removing it then only forgets it.')
    .argument('<name>', 'name for it')
    .requiredOption('--driver <plugin>', 'CSI plugin that has it')
    .requiredOption('--snapshot-id <id>', "the plugin's id of it (berth snapshot ls --driver PLUGIN --all)")
    .action(async (name: string, flags: { driver: string; snapshotId: string }, command: Command) => {
      const daemon = await session.daemon(command);
      const snapshot = await daemon.call('Snapshots', 'Register', { name, ...flags });
      await session.print(`${snapshot.name}\n`);
    });
  addBlockVerbs(group, session);
  addGroupVerbs(group, session);
}

/** Adds `volume snapshot`. */
export function addVolumeSnapshot(group: Command, session: Session): void {
  group
    .command('snapshot')
    .summary('cut a snapshot of a volume')
    .description(
      'Cuts a snapshot of a volume and prints its name. The volume may be in use; what its users have not written out\n' +
        'is not in it. Waits until the snapshot can be used.',
    )
    .argument('<volume>', 'name of the volume')
    .requiredOption('--name <name>', 'name of the snapshot')
    .addOption(listOption(PARAMETER, PARAMETER_TEXT))
    .option('--no-wait', NO_WAIT_TEXT)
    .addHelpText(
      'after',
      '\nExample:\n  berth volume snapshot data --name data-monday\n  berth volume create old-data --from-snapshot data-monday',
    )
    .action(async (volume: string, flags: CutFlags & { name: string }, command: Command) => {
      const { name } = flags;
      const parameters = (flags.parameter ?? []).map((text) => parseParameter(text));
      const daemon = await session.daemon(command);
      const { state } = await daemon.call('Snapshots', 'Create', { name, volume, parameters });
      if (flags.wait && state === 'processing') {
        await whileWaiting(session, `snapshot ${name} is cut; the plugin is processing it`, () =>
          daemon.call('Snapshots', 'Wait', { name }),
        );
      }
      await session.print(`${name}\n`);
    });
}

function addList(group: Command, session: Session): void {
  group
    .command('ls')
    .alias('list')
    .summary('list snapshots')
    .description('Lists the snapshots that Berth knows, or with --all those that a plugin lists, whoever made them.')
    .option('--driver <plugin>', 'only those of this CSI plugin')
    .option('--volume <name>', 'only those of this volume')
    .option('--all', 'ask the plugin for all it has (default plugin: local.csi.berth)')
    .addOption(formatOption())
    .action(async (flags: ListFlags, command: Command) => {
      const daemon = await session.daemon(command);
      const { driver = '', volume = '' } = flags;
      if (flags.all === true) {
        const { snapshots } = await daemon.call('Snapshots', 'ListAtDriver', { driver, volume });
        return session.printList(flags.format, snapshots, { columns: DRIVER_COLUMNS, json: driverObject });
      }
      const { snapshots } = await daemon.call('Snapshots', 'List', {});
      const wanted = snapshots.filter(
        (one) => (driver === '' || one.driver === driver) && (volume === '' || one.volume === volume),
      );
      return session.printList(flags.format, wanted, { columns: COLUMNS, json: snapshotObject });
    });
}

interface ListFlags {
  readonly driver?: string;
  readonly volume?: string;
  readonly all?: boolean;
  readonly format: Format;
}

function addGroupVerbs(parent: Command, session: Session): void {
  const group = parent
    .command('group')
    .summary('group snapshots: create, ls, inspect, rm')
    .description('Snapshots of several volumes of one plugin, cut at one instant.')
    .helpCommand(false);
  group
    .command('create')
    .summary('cut several volumes at one instant')
    .description('Cuts several volumes at one instant and prints the names of the snapshots: GROUP.VOLUME.')
    .argument('<name>', 'name of the group')
    .argument('<volume...>', 'names of volumes of one plugin')
    .addOption(listOption(PARAMETER, PARAMETER_TEXT))
    .option('--no-wait', NO_WAIT_TEXT)
    .addHelpText('after', '\nExample:\n  berth snapshot group create nightly db-data db-log')
    .action(async (name: string, volumes: string[], flags: CutFlags, command: Command) => {
      if (new Set(volumes).size < volumes.length) throw usage('volume', 'one is named twice');
      const parameters = (flags.parameter ?? []).map((text) => parseParameter(text));
      const daemon = await session.daemon(command);
      const { state, members } = await daemon.call('GroupSnapshots', 'Create', { name, volumes, parameters });
      if (flags.wait && state === 'processing') {
        await whileWaiting(session, `group ${name} is cut; the plugin is processing it`, () =>
          daemon.call('GroupSnapshots', 'Wait', { name }),
        );
      }
      await session.print(members.map((member) => `${member.name}\n`).join(''));
    });
  group
    .command('ls')
    .alias('list')
    .summary('list group snapshots')
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { groups } = await daemon.call('GroupSnapshots', 'List', {});
      await session.printList(format, groups, { columns: GROUP_COLUMNS, json: groupObject });
    });
  group
    .command('inspect')
    .summary('show everything about group snapshots')
    .description(
      'Shows everything about group snapshots as a JSON array, and what their plugins say of them now (atPlugin): present,\n' +
        'changed, gone or unknown.',
    )
    .argument('<group...>', 'name')
    .addOption(jsonOption())
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const groups = await Promise.all(names.map((name) => daemon.call('GroupSnapshots', 'Inspect', { name })));
      await session.printJson(groups.map(lookedAtObject));
    });
  group
    .command('rm')
    .summary('remove groups with all their snapshots')
    .description('Removes group snapshots with all their members.')
    .argument('<group...>', 'name')
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(names, async (name) => {
        await daemon.call('GroupSnapshots', 'Remove', { name });
        return `${name}\n`;
      });
    });
}

const size = (bytes: string): string => (bytes === '0' ? '-' : formatSize(Number(bytes)));

const COLUMNS: readonly Column<Snapshot__Output>[] = [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'VOLUME', cell: ({ volume }) => (volume === '' ? '-' : volume) },
  { heading: 'DRIVER', cell: ({ driver }) => driver },
  { heading: 'SIZE', cell: ({ sizeBytes }) => size(sizeBytes) },
  { heading: 'STATE', cell: ({ state }) => state },
  { heading: 'CUT', cell: ({ cutAt }) => cutAt },
  { heading: 'GROUP', cell: ({ group }) => group },
  { heading: 'ERROR', cell: ({ error }) => error },
];

const DRIVER_COLUMNS: readonly Column<DriverSnapshot__Output>[] = [
  { heading: 'SNAPSHOT ID', cell: ({ snapshotId }) => snapshotId },
  { heading: 'NAME', cell: ({ name }) => (name === '' ? '-' : name) },
  { heading: 'SOURCE VOLUME ID', cell: ({ sourceVolumeId }) => sourceVolumeId },
  { heading: 'SIZE', cell: ({ sizeBytes }) => size(sizeBytes) },
  { heading: 'READY', cell: ({ ready }) => (ready ? 'yes' : 'no') },
  { heading: 'CUT', cell: ({ cutAt }) => cutAt },
  { heading: 'GROUP ID', cell: ({ groupSnapshotId }) => groupSnapshotId },
];

const GROUP_COLUMNS: readonly Column<GroupSnapshot__Output>[] = [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'DRIVER', cell: ({ driver }) => driver },
  { heading: 'VOLUMES', cell: ({ members }) => members.map(({ volume }) => volume).join(' ') },
  { heading: 'STATE', cell: ({ state }) => state },
  { heading: 'CUT', cell: ({ cutAt }) => cutAt },
  { heading: 'ERROR', cell: ({ error }) => error },
];

const orNull = (text: string): string | null => (text === '' ? null : text);

function snapshotObject(snapshot: Snapshot__Output): Record<string, unknown> {
  const { name, driver, snapshotId, sourceVolumeId, state, requestedAt, error, retained } = snapshot;
  return {
    ...{ name, driver },
    volume: orNull(snapshot.volume),
    ...{ snapshotId, sourceVolumeId },
    sizeBytes: Number(snapshot.sizeBytes),
    ...{ state, requestedAt },
    cutAt: orNull(snapshot.cutAt),
    group: orNull(snapshot.group),
    ...{ retained, error },
  };
}

function driverObject(snapshot: DriverSnapshot__Output): Record<string, unknown> {
  const { snapshotId, sourceVolumeId, ready } = snapshot;
  return {
    ...{ snapshotId, sourceVolumeId },
    sizeBytes: Number(snapshot.sizeBytes),
    ready,
    cutAt: orNull(snapshot.cutAt),
    groupSnapshotId: orNull(snapshot.groupSnapshotId),
    name: orNull(snapshot.name),
  };
}

function groupObject(group: GroupSnapshot__Output): Record<string, unknown> {
  const { name, driver, groupSnapshotId, state, requestedAt, error } = group;
  return {
    ...{ name, driver, groupSnapshotId, state, requestedAt },
    cutAt: orNull(group.cutAt),
    members: group.members.map(snapshotObject),
    error,
  };
}

function lookedAtObject(group: GroupSnapshot__Output): Record<string, unknown> {
  const { atDriver, atDriverReason } = group;
  return { ...groupObject(group), atPlugin: atDriver, atPluginReason: orNull(atDriverReason) };
}
