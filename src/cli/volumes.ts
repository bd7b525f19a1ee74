/** `volume create | ls | inspect | rm`. */
import { type Command, Option } from 'commander';
import type { CreateVolumeRequest } from '../api/generated/berth/v1/CreateVolumeRequest.ts';
import type { Volume__Output } from '../api/generated/berth/v1/Volume.ts';
import { usage } from './failure.ts';
import { type Format, formatOption, jsonOption, listOption, type Session } from './session.ts';
import { formatSize, parseSize } from './size.ts';
import type { Column } from './table.ts';

/** What commander makes of the flags of `volume create`. */
export interface VolumeFlags {
  readonly size: string;
  readonly access: string;
  readonly driver?: string;
  readonly fsType?: string;
  readonly parameter?: readonly string[];
}

/** Adds the group to the program. */
export function addVolumeVerbs(program: Command, session: Session): void {
  const group = program
    .command('volume')
    .summary('volumes: create, ls, inspect, rm')
    .description('Volumes of CSI plugins. A container gets one by -v NAME:/path or --device NAME:/dev/name.');
  addCreate(group, session);
  group
    .command('ls')
    .alias('list')
    .summary('list volumes')
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { volumes } = await daemon.call('Volumes', 'List', {});
      await session.printList(format, volumes, { columns: COLUMNS, json: volumeObject });
    });
  group
    .command('inspect')
    .summary('show everything about volumes')
    .description('Shows everything about volumes as a JSON array.')
    .argument('<volume...>', 'name')
    .addOption(jsonOption())
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const volumes = await Promise.all(names.map((name) => daemon.call('Volumes', 'Inspect', { name })));
      await session.printJson(volumes.map(volumeObject));
    });
  group
    .command('rm')
    .summary('remove volumes and their data')
    .description('Removes volumes that no container uses, with all their data.')
    .argument('<volume...>', 'name')
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(names, async (name) => {
        await daemon.call('Volumes', 'Remove', { name });
        return `${name}\n`;
      });
    });
}

function addCreate(group: Command, session: Session): void {
  group
    .command('create')
    .summary('create a volume')
    .description('Creates a volume and prints its name. The same request may be repeated.')
    .argument('<name>', 'name of the volume')
    .requiredOption('--size <size>', 'capacity: 64Mi, 10Gi')
    .addOption(
      new Option('--access <access>', 'mount: a file system; block: a raw device')
        .choices(['mount', 'block'])
        .default('mount'),
    )
    .option('--driver <plugin>', 'CSI plugin (berth csi ls; default: local.csi.berth)')
    .option('--fs-type <type>', "ext4, xfs (default: the plugin's choice)")
    .addOption(listOption('--parameter <key=value>', 'handed to the plugin as it is (repeatable)'))
    .addHelpText(
      'after',
      '\nExamples:\n  berth volume create data --size 1Gi\n  berth volume create disk --size 64Mi --access block',
    )
    .action(async (name: string, flags: VolumeFlags, command: Command) => {
      const request = volumeRequest(name, flags);
      const daemon = await session.daemon(command);
      const volume = await daemon.call('Volumes', 'Create', request);
      await session.print(`${volume.name}\n`);
    });
}

/** The request that name and flags ask for. @throws {Failure} naming the flag */
export function volumeRequest(name: string, flags: VolumeFlags): CreateVolumeRequest {
  return {
    name,
    driver: flags.driver ?? '',
    capacityBytes: String(parseSize('--size', flags.size)),
    access: flags.access === 'block' ? 'VOLUME_ACCESS_BLOCK' : 'VOLUME_ACCESS_MOUNT',
    ...(flags.fsType === undefined ? {} : { fsType: flags.fsType }),
    parameters: (flags.parameter ?? []).map(parseParameter),
  };
}

function parseParameter(text: string): { key: string; value: string } {
  const split = text.indexOf('=');
  if (split < 1) throw usage('--parameter', `${JSON.stringify(text)} must be KEY=value`);
  return { key: text.slice(0, split), value: text.slice(split + 1) };
}

const COLUMNS: readonly Column<Volume__Output>[] = [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'DRIVER', cell: ({ driver }) => driver },
  { heading: 'SIZE', cell: ({ capacityBytes }) => formatSize(Number(capacityBytes)) },
  { heading: 'ACCESS', cell: (volume) => accessName(volume) },
  { heading: 'STATE', cell: ({ state }) => state },
  { heading: 'CONTAINERS', cell: ({ containerIds }) => containerIds.map((id) => id.slice(0, 12)).join(' ') },
  { heading: 'ERROR', cell: ({ error }) => error },
];

function accessName({ access }: Volume__Output): string {
  return access === 'VOLUME_ACCESS_BLOCK' ? 'block' : 'mount';
}

function volumeObject(volume: Volume__Output): Record<string, unknown> {
  const { name, driver, volumeId, state, createdAt, error } = volume;
  return {
    name,
    driver,
    volumeId,
    capacityBytes: Number(volume.capacityBytes),
    access: accessName(volume),
    fsType: volume.fsType ?? null,
    state,
    createdAt,
    containers: volume.containerIds,
    error,
  };
}
