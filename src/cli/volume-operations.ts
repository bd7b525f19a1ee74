/** `volume expand | stats`. */
import type { Command } from 'commander';
import type { VolumeStats__Output } from '../api/generated/berth/v1/VolumeStats.ts';
import { conditionText } from './condition-text.ts';
import { type Format, formatOption, type Session } from './session.ts';
import { formatSize, parseSize } from './size.ts';
import type { Column } from './table.ts';

/** Adds the verbs to the group `volume`. */
export function addVolumeOperations(group: Command, session: Session): void {
  group
    .command('expand')
    .alias('resize')
    .summary('make a volume larger')
    .description(
      'Makes a volume larger and prints its name; also while containers use it, where its plugin can. The same request\n' +
        'may be repeated. Volumes do not shrink. What is left to do is done when the volume is used next.',
    )
    .argument('<volume>', 'name')
    .requiredOption('--size <size>', 'the new capacity: 64Mi, 10Gi')
    .addHelpText('after', '\nExample:\n  berth volume expand data --size 20Gi')
    .action(async (name: string, { size }: { size: string }, command: Command) => {
      const request = { name, capacityBytes: String(parseSize('--size', size)) };
      const daemon = await session.daemon(command);
      const volume = await daemon.call('Volumes', 'Expand', request);
      if (volume.pendingExpansion) {
        await session.warn(`berth: volume ${name}: the rest is done when the volume is used next\n`);
      }
      await session.print(`${volume.name}\n`);
    });
  group
    .command('stats')
    .summary('how full volumes are')
    .description(
      'Shows how full volumes are and how they fare, as their plugins tell; all of them unless some are named.',
    )
    .argument('[volume...]', 'name')
    .addOption(formatOption())
    .action(async (names: string[], { format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { stats } = await daemon.call('Volumes', 'Stats', { names });
      await session.printList(format, stats, { columns: COLUMNS, json: statsObject });
    });
}

const COLUMNS: readonly Column<VolumeStats__Output>[] = [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'SIZE', cell: (stats) => size(stats, 'total') },
  { heading: 'USED', cell: (stats) => size(stats, 'used') },
  { heading: 'AVAILABLE', cell: (stats) => size(stats, 'available') },
  { heading: 'INODES', cell: (stats) => usage(stats, 'inodes')?.total ?? '-' },
  { heading: 'INODES USED', cell: (stats) => usage(stats, 'inodes')?.used ?? '-' },
  { heading: 'CONDITION', cell: ({ condition }) => conditionText(condition) },
  { heading: 'REASON', cell: ({ reason }) => reason },
];

function usage({ usage: all }: VolumeStats__Output, unit: string): VolumeStats__Output['usage'][number] | undefined {
  return all.find((one) => one.unit === unit);
}

function size(stats: VolumeStats__Output, field: 'total' | 'used' | 'available'): string {
  const bytes = usage(stats, 'bytes')?.[field];
  return bytes === undefined ? '-' : formatSize(Number(bytes));
}

function statsObject(stats: VolumeStats__Output): Record<string, unknown> {
  const { name, condition, reason } = stats;
  const numbers = stats.usage.map(({ unit, total, used, available }) => {
    return [unit, { total: Number(total), used: Number(used), available: Number(available) }] as const;
  });
  const told = condition && { abnormal: condition.abnormal, message: condition.message, from: condition.from };
  return { name, ...Object.fromEntries(numbers), condition: told ?? null, reason };
}
