/** `volume create | ls | inspect | rm`; the other verbs have modules of their own. */
import { type Command, Option } from 'commander';
import type { CreateVolumeRequest } from '../api/generated/berth/v1/CreateVolumeRequest.ts';
import { printDriverVolumes } from './driver-volumes.ts';
import { parseParameter } from './parameter-flag.ts';
import { type Format, formatOption, listOption, type Session } from './session.ts';
import { parseSize } from './size.ts';
import { addVolumeSnapshot } from './snapshots.ts';
import { addVolumeClassVerbs } from './volume-classes.ts';
import { addVolumeControl } from './volume-control.ts';
import { addVolumeOperations } from './volume-operations.ts';
import { addVolumeUseFlags, type VolumeUseFlags, volumeUse } from './volume-use-flags.ts';
import { VOLUME_COLUMNS, volumeObject, volumeText } from './volume-view.ts';

/** What commander makes of the flags of `volume create`. */
export interface VolumeFlags extends VolumeUseFlags {
  readonly size?: string;
  readonly access?: string;
  readonly fromSnapshot?: string;
  readonly fromVolume?: string;
  readonly driver?: string;
  readonly fsType?: string;
  readonly parameter?: readonly string[];
  readonly mutableParameter?: readonly string[];
  readonly class?: string;
}

/** Adds the group to the program. */
export function addVolumeVerbs(program: Command, session: Session): void {
  const group = program
    .command('volume')
    .summary('volumes: create, register, ls, inspect, expand, update, detach, rm, snapshot, class')
    .description('Volumes of CSI plugins. A container gets one by -v NAME:/path or --device NAME:/dev/name.');
  addCreate(group, session);
  addVolumeControl(group, session);
  addVolumeOperations(group, session);
  group
    .command('ls')
    .alias('list')
    .summary('list volumes')
    .description(
      'Lists the volumes on record here, or with --all those that a plugin lists, whoever made them: "unmanaged" ones can be\n' +
        'registered (berth volume register), of "missing" ones there is only the record.',
    )
    .option('--driver <plugin>', 'only those of this CSI plugin')
    .option('--all', 'ask the plugin for all it has (default plugin: local.csi.berth)')
    .addOption(formatOption())
    .action(async ({ format, driver = '', all = false }: ListFlags, command: Command) => {
      if (all) return printDriverVolumes(session, command, { driver, format });
      const daemon = await session.daemon(command);
      const { volumes } = await daemon.call('Volumes', 'List', {});
      const wanted = volumes.filter((volume) => driver === '' || volume.driver === driver);
      return session.printList(format, wanted, { columns: VOLUME_COLUMNS, json: volumeObject });
    });
  group
    .command('inspect')
    .summary('show everything about volumes')
    .description(
      'Shows everything about volumes: how they are used and by whom, where they stand, what failed last and when it is\n' +
        'tried again. A JSON array, or for people a table.',
    )
    .argument('<volume...>', 'name')
    .addOption(formatOption().default('json'))
    .action(async (names: string[], { format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const volumes = await Promise.all(names.map((name) => daemon.call('Volumes', 'Inspect', { name })));
      if (format === 'json') await session.printJson(volumes.map(volumeObject));
      else await session.print(volumes.map(volumeText).join('\n'));
    });
  group
    .command('rm')
    .summary('remove volumes and their data')
    .description(
      'Removes volumes that no container uses, with all their data. One whose creation has no outcome yet is made once\n' +
        'more to learn its id, then deleted; what fails is tried again in the background, also after a restart.',
    )
    .argument('<volume...>', 'name')
    .option('--forget', 'only forget a volume whose creation never had an outcome; the driver may keep what it made')
    .action(async (names: string[], { forget = false }: { forget?: boolean }, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(names, async (name) => {
        const left = forget ? await daemon.call('Volumes', 'Inspect', { name }) : undefined;
        await daemon.call('Volumes', 'Remove', { name, forget });
        if (left !== undefined) {
          await session.warn(`${left.driver} may have made a volume named ${left.nameAtDriver}: look there\n`);
        }
        return `${name}\n`;
      });
    });
  addVolumeSnapshot(group, session);
  addVolumeClassVerbs(group, session);
}

interface ListFlags {
  readonly format: Format;
  readonly driver?: string;
  readonly all?: boolean;
}

function addCreate(group: Command, session: Session): void {
  const create = group
    .command('create')
    .summary('create a volume')
    .description('Creates a volume and prints its name. The same request may be repeated.')
    .argument('<name>', 'name of the volume')
    .option('--class <class>', 'volume class (berth volume class ls): says what these flags leave out')
    .option('--size <size>', 'capacity: 64Mi, 10Gi (default: that of the class or the source)')
    .addOption(
      new Option(
        '--access <access>',
        'mount: a file system; block: a raw device (default: that of the class or the source, else mount)',
      ).choices(['mount', 'block']),
    )
    .addOption(
      new Option('--from-snapshot <name>', 'begin with the data of a snapshot (berth snapshot ls)').conflicts(
        'fromVolume',
      ),
    )
    .option('--from-volume <name>', 'begin with the data of another volume: a clone')
    .option(
      '--driver <plugin>',
      'CSI plugin (berth csi ls; default: that of the class or the source, else local.csi.berth)',
    )
    .option('--fs-type <type>', "ext4, xfs (default: the plugin's choice)")
    .addOption(listOption('--parameter <key=value>', 'handed to the plugin as it is (repeatable)'))
    .addOption(
      listOption('--mutable-parameter <key=value>', 'the same, for one that can be changed later (repeatable)'),
    );
  addVolumeUseFlags(create, 'delete')
    .addHelpText(
      'after',
      '\nExamples:\n  berth volume create data --size 1Gi\n  berth volume create disk --size 64Mi --access block' +
        '\n  berth volume create db --class fast --size 10Gi' +
        '\n  berth volume create db --size 1Gi --access-mode RWOP --fs-group 999 --mount-flag noatime --reclaim retain' +
        '\n  berth volume create old-data --from-snapshot data-monday\n  berth volume create copy --from-volume data --size 2Gi',
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
  const { fromSnapshot, fromVolume, size } = flags;
  return {
    name,
    driver: flags.driver ?? '',
    capacityBytes: size === undefined ? '0' : String(parseSize('--size', size)),
    access: accessOf(flags.access),
    ...(fromSnapshot === undefined ? {} : { fromSnapshot }),
    ...(fromVolume === undefined ? {} : { fromVolume }),
    ...(flags.fsType === undefined ? {} : { fsType: flags.fsType }),
    parameters: (flags.parameter ?? []).map((text) => parseParameter(text)),
    mutableParameters: (flags.mutableParameter ?? []).map((text) => parseParameter(text, '--mutable-parameter')),
    volumeClass: flags.class ?? '',
    use: volumeUse(flags),
  };
}

function accessOf(flag: string | undefined): NonNullable<CreateVolumeRequest['access']> {
  if (flag === undefined) return 'VOLUME_ACCESS_UNSPECIFIED';
  return flag === 'block' ? 'VOLUME_ACCESS_BLOCK' : 'VOLUME_ACCESS_MOUNT';
}
