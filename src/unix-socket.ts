/**
 * The daemon's socket: who may connect, and what happens when something is at its path already.
 *
 *   nothing             listen
 *   socket, no answer   left by a daemon that was killed: removed, then listen
 *   socket, answers     FAILED_PRECONDITION: another berthd runs
 *   anything else       FAILED_PRECONDITION: a symlink or a file is never followed, replaced or removed
 *
 * The directory is made with mode 0700 when it is missing; the socket is born with mode 0600, there is no moment at
 * which somebody else could connect.
 */
import { once } from 'node:events';
import { lstat, mkdir, stat, unlink } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { RuntimeError, systemCode } from './errors.ts';

const MAX_CONNECTIONS = 4096;
const PROBE_TIMEOUT_MS = 2000;

/**
 * Listens at `path` (absolute, short enough for a socket) and hands every connection to `accept`.
 * @throws {RuntimeError} FAILED_PRECONDITION when the path is taken, see the module's head
 */
export async function listenAt(path: string, accept: (socket: Socket) => void, signal: AbortSignal): Promise<Server> {
  await prepareDirectory(dirname(path));
  await clearPath(path, signal);
  const server = createServer(accept);
  server.maxConnections = MAX_CONNECTIONS;
  // For a unix socket listen() binds before it returns, so the mask is in force for this one file only.
  const mask = process.umask(0o177);
  try {
    server.listen(path);
  } finally {
    process.umask(mask);
  }
  try {
    await once(server, 'listening', { signal });
  } catch (error) {
    server.close();
    if (systemCode(error) === 'EADDRINUSE') throw taken(path, error);
    throw RuntimeError.from(error, `listen at ${path}`);
  }
  return server;
}

async function prepareDirectory(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const { mode } = await stat(dir);
  if ((mode & 0o022) !== 0 && (mode & 0o1000) === 0) {
    const advice = `chmod go-w ${dir}, or listen somewhere else`;
    throw new RuntimeError('FAILED_PRECONDITION', `directory ${dir} is writable by others: ${advice}`);
  }
}

async function clearPath(path: string, signal: AbortSignal): Promise<void> {
  let found: Awaited<ReturnType<typeof lstat>>;
  try {
    found = await lstat(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw RuntimeError.from(error, `look at ${path}`);
  }
  if (!found.isSocket()) {
    const kind = found.isSymbolicLink() ? 'a symbolic link' : 'not a socket';
    throw new RuntimeError('FAILED_PRECONDITION', `${path} is ${kind}: remove it, or listen somewhere else`);
  }
  if (await isAnswered(path, signal)) throw taken(path);
  await unlink(path);
}

/** True unless the kernel says that nobody listens there. */
async function isAnswered(path: string, signal: AbortSignal): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect', { signal: AbortSignal.any([signal, AbortSignal.timeout(PROBE_TIMEOUT_MS)]) });
    return true;
  } catch (error) {
    signal.throwIfAborted();
    return systemCode(error) !== 'ECONNREFUSED';
  } finally {
    socket.destroy();
  }
}

function taken(path: string, cause?: unknown): RuntimeError {
  const advice = 'stop it first, or give this one its own --root, --run and --listen';
  return new RuntimeError('FAILED_PRECONDITION', `another berthd answers at ${path}: ${advice}`, { cause });
}
