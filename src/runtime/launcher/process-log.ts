/**
 * A line that a supervised process wrote, for the daemon's log: a line of pino's JSON keeps its level, message and
 * fields, any other line is the field `line`. What a process writes never counts as the daemon's own words.
 */
import type { Readable } from 'node:stream';
import type { Logger } from 'pino';
import * as z from 'zod';

/** Longest text taken over; a process must not fill the log with one line. */
const MAX_LINE = 8192;

const recordSchema = z.looseObject({ level: z.number(), msg: z.string().optional() });

/** Fields the daemon's log sets by itself. */
const OWN_FIELDS: ReadonlySet<string> = new Set(['level', 'time', 'pid', 'hostname', 'msg', 'component', 'process']);

/** Logs what comes out of a process line by line until it ends; what a line has beyond the limit is dropped. */
export function forwardLines(output: Readable, log: Logger): void {
  let rest = '';
  output.setEncoding('utf8');
  output.on('data', (chunk: string) => {
    const [first = '', ...others] = chunk.split('\n');
    rest += first.slice(0, MAX_LINE + 1 - rest.length);
    for (const next of others) {
      forwardLine(log, rest);
      rest = next.slice(0, MAX_LINE + 1);
    }
  });
  output.on('end', () => forwardLine(log, rest));
}

/** Logs one line, without its line feed. */
function forwardLine(log: Logger, line: string): void {
  if (line.trim() === '') return;
  const record = line.length <= MAX_LINE && line.startsWith('{') ? parseRecord(line) : undefined;
  if (record === undefined) {
    log.info({ line: line.slice(0, MAX_LINE) }, 'process wrote');
    return;
  }
  const { level, msg, ...fields } = record;
  const entries = Object.entries(fields).filter(([key]) => !OWN_FIELDS.has(key));
  const known = Object.fromEntries(entries);
  write(log, level, { ...known, said: msg });
}

function parseRecord(line: string): z.infer<typeof recordSchema> | undefined {
  try {
    return recordSchema.safeParse(JSON.parse(line)).data;
  } catch {
    // Not JSON after all: it is logged as text.
    return undefined;
  }
}

/** Pino's numbers: 20 debug, 30 info, 40 warn, 50 error, 60 fatal. A process cannot be fatal to the daemon. */
function write(log: Logger, level: number, fields: object): void {
  const text = 'process reports';
  if (level < 30) log.debug(fields, text);
  else if (level < 40) log.info(fields, text);
  else if (level < 50) log.warn(fields, text);
  else log.error(fields, text);
}
