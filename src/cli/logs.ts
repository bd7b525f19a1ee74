/** `logs`: what a container wrote, each stream to its own. */
import { type Command, Option } from 'commander';
import type { OutputChunk__Output } from '../api/generated/berth/v1/OutputChunk.ts';
import { usage } from './failure.ts';
import type { Session } from './session.ts';
import { parseDuration } from './size.ts';

interface Flags {
  readonly follow?: boolean;
  readonly tail: string;
  readonly since?: string;
  readonly timestamps?: boolean;
}

const LF = 0x0a;

/** Adds the verb to the program. */
export function addLogsVerb(program: Command, session: Session): void {
  program
    .command('logs')
    .summary('show what a container wrote')
    .description('Shows what a container wrote, in all its runs: stdout on stdout, stderr on stderr.')
    .argument('<container>', 'id, beginning of an id, or name')
    .option('-f, --follow', 'go on until the container has exited')
    .addOption(new Option('-n, --tail <lines>', 'only the last lines').default('all'))
    .option('--since <time>', 'only what was written since: 2026-01-31T12:00:00Z, or 10m ago')
    .option('-t, --timestamps', 'begin each line with the instant at which it came')
    .addHelpText('after', '\nExample:\n  berth logs -f --tail 20 web')
    .action(async (ref: string, flags: Flags, command: Command) => {
      const request = { ref, follow: flags.follow ?? false, ...tailOf(flags.tail), ...sinceOf(flags.since) };
      const daemon = await session.daemon(command);
      const stamp = flags.timestamps === true ? new LineStamps() : undefined;
      for await (const chunk of daemon.stream('Containers', 'Logs', request)) {
        const data = stamp?.apply(chunk) ?? chunk.data;
        if (chunk.stream === 'OUTPUT_STREAM_STDERR') await session.warn(data);
        else await session.print(data);
      }
    });
}

/** The field for a number of lines, or for "all". */
export function tailOf(text: string): { tailLines?: string } {
  if (text === 'all') return {};
  if (!/^\d{1,15}$/.test(text)) throw usage('--tail', `${JSON.stringify(text)} is no number of lines, and not "all"`);
  return { tailLines: text };
}

function sinceOf(text: string | undefined): { since?: string } {
  if (text === undefined) return {};
  const ageMs = parseDuration(text);
  const time = ageMs === undefined ? Date.parse(text) : Date.now() - ageMs;
  if (!Number.isFinite(time)) {
    throw usage('--since', `${JSON.stringify(text)} is neither an instant (2026-01-31T12:00:00Z) nor an age (10m)`);
  }
  return { since: new Date(time).toISOString() };
}

/** Puts the instant in front of each line; a chunk may hold several lines, or a part of one. */
export class LineStamps {
  readonly #inLine = new Set<string>();

  /** The chunk with its stamps. */
  apply({ stream, data, at }: Pick<OutputChunk__Output, 'stream' | 'data' | 'at'>): Buffer {
    const key = String(stream);
    const stamp = Buffer.from(`${at} `);
    const parts: Buffer[] = [];
    for (let from = 0; from < data.length; ) {
      const end = data.indexOf(LF, from);
      const to = end < 0 ? data.length : end + 1;
      if (!this.#inLine.has(key)) parts.push(stamp);
      parts.push(data.subarray(from, to));
      if (end < 0) this.#inLine.add(key);
      else this.#inLine.delete(key);
      from = to;
    }
    return Buffer.concat(parts);
  }
}
