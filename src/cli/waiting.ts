/** A line on stderr that shows how long something takes; on a terminal only. */
import type { Writable } from 'node:stream';
import type { Session } from './session.ts';
import { formatDuration } from './size.ts';

const REDRAW_MS = 1000;
/** Carriage return, erase to the end of the line. */
const LINE_START = '\r\u001b[K';

/** Waits for the work and says so meanwhile. The line is gone when it ends. */
export async function whileWaiting<T>(session: Session, what: string, work: () => Promise<T>): Promise<T> {
  if (!isTerminal(session.stderr)) return work();
  const startedMs = performance.now();
  const draw = (): boolean =>
    session.stderr.write(`${LINE_START}${what}: ${formatDuration(performance.now() - startedMs)}`);
  draw();
  const timer = setInterval(draw, REDRAW_MS);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    session.stderr.write(LINE_START);
  }
}

function isTerminal(stream: Writable): boolean {
  return 'isTTY' in stream && stream.isTTY === true;
}
