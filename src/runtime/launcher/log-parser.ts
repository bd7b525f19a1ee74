/**
 * conmon's k8s-file format, byte for byte. Each entry is one line: an instant, the stream, a tag, and what was written.
 * Tag F: the line feed at the end was written too. Tag P: it was not (a long line in pieces, or an end without one).
 *
 *   2026-01-02T03:04:05.678901234+00:00 stdout F hello
 */

/** One piece of output. */
export interface LogEntry {
  readonly stream: 'stdout' | 'stderr';
  /** Instant as conmon wrote it, with nanoseconds. */
  readonly at: string;
  /** What the container wrote, its line feed included. */
  readonly data: Uint8Array;
  /** The piece ends a line. */
  readonly endsLine: boolean;
  /** Where the entry begins, in bytes since the first piece. */
  readonly offset: number;
}

const LINE_FEED = 0x0a;
const SPACE = 0x20;
const NEW_LINE = Uint8Array.of(LINE_FEED);

/** Turns pieces of a log into entries; what is not yet a whole line is kept for the next piece. */
export class LogParser {
  #rest: Buffer = Buffer.alloc(0);
  #restOffset = 0;

  /** Entries that are complete with this piece; a line that is none is left out. */
  *push(piece: Buffer): Generator<LogEntry> {
    const text = this.#rest.length === 0 ? piece : Buffer.concat([this.#rest, piece]);
    let start = 0;
    for (;;) {
      const end = text.indexOf(LINE_FEED, start);
      if (end < 0) break;
      const entry = parseEntry(text, start, end);
      const offset = this.#restOffset + start;
      start = end + 1;
      if (entry !== undefined) yield { ...entry, offset };
    }
    // A copy: the caller reuses its buffer.
    this.#rest = Buffer.from(text.subarray(start));
    this.#restOffset += start;
  }
}

function parseEntry(text: Buffer, start: number, end: number): Omit<LogEntry, 'offset'> | undefined {
  const afterTime = text.indexOf(SPACE, start);
  const afterStream = afterTime < 0 ? -1 : text.indexOf(SPACE, afterTime + 1);
  const afterTag = afterStream < 0 ? -1 : text.indexOf(SPACE, afterStream + 1);
  if (afterTag < 0 || afterTag > end) return undefined;
  const stream = text.toString('latin1', afterTime + 1, afterStream);
  const tag = text.toString('latin1', afterStream + 1, afterTag);
  if ((stream !== 'stdout' && stream !== 'stderr') || (tag !== 'F' && tag !== 'P')) return undefined;
  const endsLine = tag === 'F';
  const content = text.subarray(afterTag + 1, end);
  return {
    stream,
    at: text.toString('latin1', start, afterTime),
    data: endsLine ? Buffer.concat([content, NEW_LINE]) : Buffer.from(content),
    endsLine,
  };
}
