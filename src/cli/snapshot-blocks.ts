/** `snapshot blocks | diff`: which bytes of a snapshot hold data, and which differ between two. */
import type { Command } from 'commander';
import type { SnapshotBlocksRequest } from '../api/generated/berth/v1/SnapshotBlocksRequest.ts';
import { Failure, usage } from './failure.ts';
import { type Format, formatOption, type Session } from './session.ts';

interface BlockFlags {
  readonly offset?: string;
  readonly format: Format;
}

const OFFSET = '--offset <bytes>';
const OFFSET_TEXT = 'begin at this byte: where an earlier answer ended (default: 0)';
const JSON_TEXT = '\nWith --format json each line is an object: {"offset":0,"size":65536}.';
const COLUMN_WIDTH = 20;

/** Adds the verbs to the group `snapshot`. */
export function addBlockVerbs(group: Command, session: Session): void {
  group
    .command('blocks')
    .summary('which bytes of a snapshot hold data')
    .description('Shows which bytes of a snapshot hold data, in ascending order, as the plugin tells them.')
    .argument('<snapshot>', 'name')
    .option(OFFSET, OFFSET_TEXT)
    .addOption(formatOption())
    .addHelpText('after', `${JSON_TEXT}\n\nExample:\n  berth snapshot blocks data-monday`)
    .action((name: string, flags: BlockFlags, command: Command) => print(session, command, { name, base: '' }, flags));
  group
    .command('diff')
    .summary('which bytes differ between two snapshots of a volume')
    .description(
      'Shows which bytes of the newer snapshot differ from the older one, in ascending order, as the plugin tells them.',
    )
    .argument('<older>', 'name of the older snapshot')
    .argument('<newer>', 'name of the newer snapshot, of the same volume')
    .option(OFFSET, OFFSET_TEXT)
    .addOption(formatOption())
    .addHelpText('after', `${JSON_TEXT}\n\nExample:\n  berth snapshot diff data-monday data-tuesday --format json`)
    .action((base: string, name: string, flags: BlockFlags, command: Command) =>
      print(session, command, { name, base }, flags),
    );
}

async function print(
  session: Session,
  command: Command,
  what: Pick<SnapshotBlocksRequest, 'name' | 'base'>,
  { offset = '0', format }: BlockFlags,
): Promise<void> {
  if (!/^\d{1,19}$/.test(offset)) throw usage('--offset', `${JSON.stringify(offset)} is no number of bytes`);
  const daemon = await session.daemon(command);
  const line = format === 'json' ? jsonLine : tableLine;
  let at = BigInt(offset);
  if (format === 'table') await session.print(tableLine('OFFSET', 'SIZE'));
  try {
    for await (const { runs } of daemon.stream('Snapshots', 'Blocks', { ...what, startingOffset: offset })) {
      await session.print(runs.map((run) => line(run.offset, run.size)).join(''));
      const last = runs.at(-1);
      if (last !== undefined) at = BigInt(last.offset) + BigInt(last.size);
    }
  } catch (error) {
    if (error instanceof Failure && at > BigInt(offset)) {
      await session.warn(`berth: this is not all: go on with --offset ${at}\n`);
    }
    throw error;
  }
}

function tableLine(offset: string, size: string): string {
  return `${offset.padEnd(COLUMN_WIDTH)}${size}\n`;
}

function jsonLine(offset: string, size: string): string {
  return `{"offset":${offset},"size":${size}}\n`;
}
