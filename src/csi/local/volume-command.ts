/**
 * Runs the programs that change what the kernel holds of a volume: mount, umount, losetup. Each runs under the volume's
 * lock file, held by the program itself: when the driver is killed in the middle, the program goes on alone, and the
 * next driver must not start another one on the same volume before it has ended. Two mounts of one image would ruin it.
 */
import { readFileSync, statSync } from 'node:fs';
import { RuntimeError } from '../../errors.ts';
import { hostCommand } from '../../host-command.ts';

const TIMEOUT_MS = 60_000;

/**
 * Runs `file` while holding `lockFile`, which is made when absent; returns its stdout. It is ended after `timeoutMs`.
 * @throws {RuntimeError} ABORTED when a program of an earlier driver still runs on the volume
 */
export async function volumeCommand(
  lockFile: string,
  file: string,
  args: readonly string[],
  timeoutMs: number = TIMEOUT_MS,
): Promise<string> {
  try {
    // Not bound to the call: its caller may go away, the work must still reach a known end.
    const signal = AbortSignal.timeout(timeoutMs);
    const lock = ['--exclusive', '--nonblock', '--no-fork', lockFile];
    return await hostCommand('flock', [...lock, file, ...args], signal, { timeoutMs });
  } catch (error) {
    // The lock of this program went with it; one that is there belongs to another.
    if (!isLocked(lockFile)) throw error;
    throw new RuntimeError('ABORTED', `${file}: an earlier command still runs on this volume`, { cause: error });
  }
}

/**
 * True when somebody holds the file's lock (proc_locks(5)). Compared by inode alone, since the device is not the one
 * stat(2) shows on every file system: a match by chance makes a failure look repeatable, no more.
 */
function isLocked(lockFile: string): boolean {
  const inode = statSync(lockFile, { throwIfNoEntry: false })?.ino;
  return readFileSync('/proc/locks', 'utf8')
    .split('\n')
    .some((line) => line.includes(' FLOCK ') && line.includes(`:${inode} `));
}
