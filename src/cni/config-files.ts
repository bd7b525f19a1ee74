/** Configuration files of a directory: which there are, in which order, and what is in them. */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { RuntimeError, systemCode } from '../errors.ts';
import { CNI_NAME } from './protocol.ts';

const MAX_FILE_BYTES = 1024 * 1024;

/** The name of the file that `berth network create` makes for a network. */
export function createdFileName(network: string): string {
  return `80-berth-${network}.conflist`;
}

/** The network a file was made for by `berth network create`; undefined for other files. */
export function createdNetwork(file: string): string | undefined {
  const name = /^80-berth-(.+)\.conflist$/.exec(file)?.[1];
  return name !== undefined && CNI_NAME.test(name) ? name : undefined;
}

/** True for files that `berth network create` made. */
export function isCreatedFile(file: string): boolean {
  return createdNetwork(file) !== undefined;
}

/** Names in byte order, whatever the locale; none when there is no such directory. */
export function sortedNames(dir: string): string[] {
  try {
    return readdirSync(dir).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}

/**
 * The text of a file; what is no regular file could block the daemon or never end.
 * @throws {RuntimeError} FAILED_PRECONDITION when it is none or too long
 */
export function readRegularFile(file: string): string {
  const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stats = fstatSync(fd);
    if (!stats.isFile()) throw new RuntimeError('FAILED_PRECONDITION', 'not a regular file');
    if (stats.size > MAX_FILE_BYTES)
      throw new RuntimeError('FAILED_PRECONDITION', `longer than ${MAX_FILE_BYTES} bytes`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}
