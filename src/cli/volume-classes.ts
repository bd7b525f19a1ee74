/** `volume class ls | inspect`. */
import type { Command } from 'commander';
import type { BadVolumeClass__Output } from '../api/generated/berth/v1/BadVolumeClass.ts';
import type { Parameter__Output } from '../api/generated/berth/v1/Parameter.ts';
import type { VolumeClass__Output } from '../api/generated/berth/v1/VolumeClass.ts';
import { type Format, formatOption, jsonOption, type Session } from './session.ts';
import { formatSize } from './size.ts';
import type { Column } from './table.ts';

/** A class, or a file that makes none. */
type Row = VolumeClass__Output | BadVolumeClass__Output;

/** Adds the verbs to the group `volume`. */
export function addVolumeClassVerbs(parent: Command, session: Session): void {
  const group = parent
    .command('class')
    .summary('volume classes: ls, inspect')
    .description(
      'What kinds of volumes there are. A class is a file /etc/berth/volumes.d/NAME.toml (berthd --volume-class-dir) that says\n' +
        'driver, parameters, size and more; "berth volume create --class NAME" uses it. docs/csi.md names all keys.',
    )
    .helpCommand(false);
  group
    .command('ls')
    .alias('list')
    .summary('list volume classes')
    .description('Lists the volume classes, also files that are not understood, with the reason.')
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { classes, bad } = await daemon.call('VolumeClasses', 'List', {});
      const rows: Row[] = [...classes, ...bad].sort((a, b) => (a.name < b.name ? -1 : 1));
      await session.printList(format, rows, { columns: COLUMNS, json: rowObject });
    });
  group
    .command('inspect')
    .summary('show everything about volume classes')
    .description('Shows everything about volume classes as a JSON array; of mount flags what follows "=" is left out.')
    .argument('<class...>', 'name')
    .addOption(jsonOption())
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const classes = await Promise.all(names.map((name) => daemon.call('VolumeClasses', 'Inspect', { name })));
      await session.printJson(classes.map(classObject));
    });
}

const ifClass = (cell: (found: VolumeClass__Output) => string): ((row: Row) => string) => {
  return (row) => ('driver' in row ? cell(row) : '-');
};

const COLUMNS: readonly Column<Row>[] = [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'DEFAULT', cell: ifClass(({ isDefault }) => (isDefault ? 'yes' : 'no')) },
  { heading: 'DRIVER', cell: ifClass(({ driver }) => driver) },
  { heading: 'SIZE', cell: ifClass(({ sizeBytes }) => (sizeBytes === '0' ? '-' : formatSize(Number(sizeBytes)))) },
  { heading: 'ACCESS', cell: ifClass((found) => accessName(found) ?? '-') },
  { heading: 'RECLAIM', cell: ifClass(({ reclaim }) => reclaim || '-') },
  { heading: 'FILE', cell: ({ file }) => file },
  { heading: 'REASON', cell: (row) => ('reason' in row ? row.reason : '') },
];

function accessName({ access }: VolumeClass__Output): string | undefined {
  if (access === 'VOLUME_ACCESS_UNSPECIFIED') return undefined;
  return access === 'VOLUME_ACCESS_BLOCK' ? 'block' : 'mount';
}

/** What is not understood has a reason and nothing else. */
function rowObject(row: Row): Record<string, unknown> {
  if ('driver' in row) return { ...classObject(row), reason: '' };
  const { name, file, reason } = row;
  return { name, file, reason };
}

function classObject(found: VolumeClass__Output): Record<string, unknown> {
  const { name, file, driver, isDefault, accessModes, mountFlags } = found;
  return {
    ...{ name, file, driver },
    default: isDefault,
    sizeBytes: found.sizeBytes === '0' ? null : Number(found.sizeBytes),
    access: accessName(found) ?? null,
    accessModes,
    fsType: found.fsType ?? null,
    mountFlags,
    group: found.group ?? null,
    ownership: found.ownership || null,
    reclaim: found.reclaim || null,
    secrets: found.secrets || null,
    allowedTopologies: found.allowedTopologies.map(({ segments }) => mapOf(segments)),
    parameters: mapOf(found.parameters),
    mutableParameters: mapOf(found.mutableParameters),
  };
}

function mapOf(pairs: readonly Parameter__Output[]): Record<string, string> {
  return Object.fromEntries(pairs.map(({ key, value }) => [key, value]));
}
