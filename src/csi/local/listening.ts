/**
 * The driver's socket: made with mode 0600, and taken over from a driver that was killed. Nothing but a socket that
 * nobody answers on is ever replaced.
 */
import { lstat, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { type Server, ServerCredentials } from '@grpc/grpc-js';
import { invalid, RuntimeError, systemCode } from '../../errors.ts';

/** Room in sockaddr_un; Node cuts longer paths without a word. */
const MAX_SOCKET_PATH_BYTES = 107;

/** @throws {RuntimeError} INVALID_ARGUMENT when CSI_ENDPOINT is not `unix:///path` or too long for a socket */
export function socketPathOf(endpoint: string | undefined): string {
  const path = /^unix:\/\/(\/.+)$/.exec(endpoint ?? '')?.[1];
  if (path === undefined) throw invalid('CSI_ENDPOINT', `${JSON.stringify(endpoint ?? '')} is not unix:///path`);
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    throw invalid('CSI_ENDPOINT', `the path has more than ${MAX_SOCKET_PATH_BYTES} bytes`);
  }
  return path;
}

/** Binds the server to the path. */
export async function listen(server: Server, path: string): Promise<void> {
  await removeStale(path);
  // bind(2) makes the file with what the umask leaves; a chmod afterwards would leave it open for a moment.
  const before = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix://${path}`, ServerCredentials.createInsecure(), (error) => {
        if (error === null) resolve();
        else reject(RuntimeError.from(error, `listen on ${path}`, 'UNAVAILABLE'));
      });
    });
  } finally {
    process.umask(before);
  }
}

/** @throws {RuntimeError} FAILED_PRECONDITION when something other than a dead socket is there */
async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw RuntimeError.from(error, `look at ${path}`);
  });
  if (found === undefined) return;
  if (!found.isSocket()) throw new RuntimeError('FAILED_PRECONDITION', `${path} exists and is not a socket`);
  if (await answers(path)) throw new RuntimeError('FAILED_PRECONDITION', `${path} is served by another process`);
  await unlink(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      if (systemCode(error) === 'ECONNREFUSED' || systemCode(error) === 'ENOENT') resolve(false);
      else reject(RuntimeError.from(error, `connect to ${path}`));
    });
  });
}
