/** Why no daemon answers, and what to do about it. Asked only after a call has failed. */
import { once } from 'node:events';
import { connect } from 'node:net';

const PROBE_TIMEOUT_MS = 2000;

/** Advice for the user; undefined when a daemon does answer at the socket. */
export async function whyUnreachable(socketPath: string): Promise<string | undefined> {
  const socket = connect(socketPath);
  try {
    await once(socket, 'connect', { signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) });
    return undefined;
  } catch (error) {
    return advice(socketPath, error);
  } finally {
    socket.destroy();
  }
}

function advice(socketPath: string, error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const elsewhere = 'or say where it listens: --host unix:///path, or BERTH_HOST';
  if (code === 'EACCES' || code === 'EPERM') {
    return `${socketPath} is not open to this user: run berth as the user of berthd (sudo berth ...)`;
  }
  if (code === 'ENOENT') return `no berthd at ${socketPath}: start one (sudo berthd), ${elsewhere}`;
  if (code === 'ECONNREFUSED') {
    return `berthd at ${socketPath} has ended: start it again (sudo berthd), ${elsewhere}`;
  }
  const reason = error instanceof Error ? error.message : String(error);
  return `berthd does not answer at ${socketPath} (${reason}): look at its log, ${elsewhere}`;
}
