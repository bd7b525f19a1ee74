/**
 * The last step of a start without a process: crun's init waits, after create, for one byte in the FIFO `exec.fifo` of
 * its state directory, and `crun start` is what writes it. Writing it here spares the start of a program between the
 * container's being ready and its first instruction. Only a waiting reader is served: where nobody reads (runc's init
 * writes instead, others have no such file) nothing is done, and the runtime's own verb is due.
 */
import { closeSync, constants, openSync, unlinkSync, writeSync } from 'node:fs';
import { systemCode } from '../../errors.ts';

export const EXEC_FIFO = 'exec.fifo';
const FLAGS = constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW;
/** No file, nobody who reads, a link. */
const NOT_THIS_WAY: ReadonlySet<string> = new Set(['ENOENT', 'ENXIO', 'ELOOP']);

/** True when an init that waited at this FIFO goes on now. */
export function releaseInit(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, FLAGS);
  } catch (error) {
    if (NOT_THIS_WAY.has(systemCode(error) ?? '')) return false;
    throw error;
  }
  try {
    // The runtime takes the file's absence as "running", so it goes first, as with the runtime's own verb.
    unlinkSync(path);
    writeSync(fd, '0');
    return true;
  } finally {
    closeSync(fd);
  }
}
