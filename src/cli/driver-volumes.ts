/** What plugins know of volumes and room: `volume ls --all`, `csi capacity`. */
import { type Command, Option } from 'commander';
import type { DriverVolume__Output } from '../api/generated/berth/v1/DriverVolume.ts';
import type { Parameter__Output } from '../api/generated/berth/v1/Parameter.ts';
import type { VolumeCapacity__Output } from '../api/generated/berth/v1/VolumeCapacity.ts';
import { conditionText } from './condition-text.ts';
import { parseParameter } from './parameter-flag.ts';
import { type Format, formatOption, listOption, type Session } from './session.ts';
import { formatSize } from './size.ts';
import type { Column } from './table.ts';

/** Prints what a plugin lists, whoever made it. */
export async function printDriverVolumes(
  session: Session,
  command: Command,
  { driver, format }: { readonly driver: string; readonly format: Format },
): Promise<void> {
  const daemon = await session.daemon(command);
  const { volumes } = await daemon.call('Volumes', 'ListAtDriver', { driver });
  await session.printList(format, volumes, { columns: COLUMNS, json: driverVolumeObject });
}

const COLUMNS: readonly Column<DriverVolume__Output>[] = [
  { heading: 'VOLUME ID', cell: ({ volumeId }) => volumeId },
  { heading: 'NAME', cell: ({ name }) => (name === '' ? '-' : name) },
  { heading: 'STATE', cell: ({ state }) => state },
  { heading: 'SIZE', cell: ({ capacityBytes }) => (capacityBytes === '0' ? '-' : formatSize(Number(capacityBytes))) },
  { heading: 'NODES', cell: ({ nodeIds }) => nodeIds.join(' ') },
  { heading: 'CONDITION', cell: ({ condition }) => conditionText(condition) },
];

function driverVolumeObject(volume: DriverVolume__Output): Record<string, unknown> {
  const { volumeId, name, state, capacityBytes, context, nodeIds, condition } = volume;
  return {
    volumeId,
    name: name === '' ? null : name,
    state,
    capacityBytes: capacityBytes === '0' ? null : Number(capacityBytes),
    context: mapOf(context),
    nodeIds,
    condition: condition ? { abnormal: condition.abnormal, message: condition.message } : null,
  };
}

interface CapacityFlags {
  readonly class?: string;
  readonly access?: string;
  readonly parameter?: readonly string[];
  readonly format: Format;
}

/** Adds `csi capacity`. */
export function addCapacity(group: Command, session: Session): void {
  group
    .command('capacity')
    .summary('how much room a CSI plugin has')
    .description(
      'Shows how much room a CSI plugin has for volumes on this machine, and how large and small they may be. Room is no\n' +
        'promise: others may take it, and a plugin may make larger volumes than it has room for.',
    )
    .argument('[plugin]', 'name (default: that of the class, else local.csi.berth)')
    .option('--class <class>', 'for volumes of this class (berth volume class ls)')
    .addOption(new Option('--access <access>', 'for file systems, or for raw devices').choices(['mount', 'block']))
    .addOption(listOption('--parameter <key=value>', 'for volumes with this parameter (repeatable)'))
    .addOption(formatOption())
    .addHelpText('after', '\nExamples:\n  berth csi capacity local.csi.berth\n  berth csi capacity --class fast')
    .action(async (plugin: string | undefined, flags: CapacityFlags, command: Command) => {
      const parameters = (flags.parameter ?? []).map((text) => parseParameter(text));
      const daemon = await session.daemon(command);
      const capacity = await daemon.call('Volumes', 'Capacity', {
        driver: plugin ?? '',
        volumeClass: flags.class ?? '',
        access: ACCESS[flags.access ?? ''] ?? 'VOLUME_ACCESS_UNSPECIFIED',
        parameters,
      });
      if (flags.format === 'json') await session.printJson(capacityObject(capacity));
      else await session.printList('table', [capacity], { columns: CAPACITY_COLUMNS, json: capacityObject });
    });
}

const ACCESS: Readonly<Record<string, 'VOLUME_ACCESS_MOUNT' | 'VOLUME_ACCESS_BLOCK'>> = {
  mount: 'VOLUME_ACCESS_MOUNT',
  block: 'VOLUME_ACCESS_BLOCK',
};

const sizeOrDash = (bytes: string | undefined): string => (bytes === undefined ? '-' : formatSize(Number(bytes)));

const CAPACITY_COLUMNS: readonly Column<VolumeCapacity__Output>[] = [
  { heading: 'DRIVER', cell: ({ driver }) => driver },
  { heading: 'CLASS', cell: ({ volumeClass }) => volumeClass || '-' },
  { heading: 'AVAILABLE', cell: ({ availableBytes }) => sizeOrDash(availableBytes) },
  { heading: 'LARGEST', cell: ({ maximumVolumeBytes }) => sizeOrDash(maximumVolumeBytes) },
  { heading: 'SMALLEST', cell: ({ minimumVolumeBytes }) => sizeOrDash(minimumVolumeBytes) },
  { heading: 'WHERE', cell: ({ topology }) => topology.map(({ key, value }) => `${key}=${value}`).join(' ') || '-' },
];

function capacityObject(capacity: VolumeCapacity__Output): Record<string, unknown> {
  const { driver, volumeClass, availableBytes, maximumVolumeBytes, minimumVolumeBytes, topology } = capacity;
  return {
    driver,
    class: volumeClass || null,
    availableBytes: Number(availableBytes),
    maximumVolumeBytes: maximumVolumeBytes === undefined ? null : Number(maximumVolumeBytes),
    minimumVolumeBytes: minimumVolumeBytes === undefined ? null : Number(minimumVolumeBytes),
    topology: mapOf(topology),
  };
}

function mapOf(map: readonly Parameter__Output[]): Record<string, string> {
  return Object.fromEntries(map.map(({ key, value }) => [key, value]));
}
