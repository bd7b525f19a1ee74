/**
 * Runs the programs that change what the kernel holds of a volume: mount, umount, losetup. Each runs under the volume's
 * lock file, held by the program itself: when the driver is killed in the middle, the program goes on alone, and the
 * next driver must not start another one on the same volume before it has ended. Two mounts of one image would ruin it.
 */
import { RuntimeError } from '../../errors.ts';
import { hostCommand } from '../../host-command.ts';

/** flock's exit code for a lock that is taken; none of the programs ends with it. */
const LOCK_TAKEN = 111;
const TIMEOUT_MS = 60_000;

/**
 * Runs `file` while holding `lockFile`, which is made when absent; returns its stdout.
 * @throws {RuntimeError} ABORTED when a program of an earlier driver still runs on the volume
 */
export async function volumeCommand(lockFile: string, file: string, args: readonly string[]): Promise<string> {
  const lock = ['--exclusive', '--nonblock', '--no-fork', '--conflict-exit-code', String(LOCK_TAKEN), lockFile];
  try {
    // Not bound to the call: its caller may go away, the work must still reach a known end.
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    return await hostCommand('flock', [...lock, file, ...args], signal, { timeoutMs: TIMEOUT_MS });
  } catch (error) {
    if (exitCodeOf(error) !== LOCK_TAKEN) throw error;
    throw new RuntimeError('ABORTED', `${file}: an earlier command still runs on this volume`, { cause: error });
  }
}

function exitCodeOf(error: unknown): unknown {
  if (!(error instanceof RuntimeError)) return undefined;
  const { cause } = error;
  return typeof cause === 'object' && cause !== null && 'exitCode' in cause ? cause.exitCode : undefined;
}
