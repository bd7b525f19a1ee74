/**
 * The plugin executable as one daemon installs it: a copy of libexec/berth-ipam in a directory of the daemon's own that
 * knows the daemon's socket, since plugins run with a clean environment and several daemons may share a machine. The
 * directory lies under the data, not under /run, where many machines let nothing be executed.
 */
import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RuntimeError } from '../errors.ts';
import { PACKAGE_DIR } from '../package-dir.ts';

/** The `type` that configurations name. */
export const IPAM_PLUGIN = 'berth-ipam';

const SOURCE = join(PACKAGE_DIR, 'libexec/berth-ipam');
const SOCKET_LINE = /^my \$default_socket = '.*';$/m;

/** Puts the executable into the directory, in one step; what runs of an earlier one goes on. */
export function installIpamPlugin(dir: string, socketPath: string): void {
  const source = readFileSync(SOURCE, 'utf8');
  const quoted = socketPath.replaceAll(/[\\']/g, (char) => `\\${char}`);
  const text = source.replace(SOCKET_LINE, () => `my $default_socket = '${quoted}';`);
  if (text === source && !source.includes(`'${quoted}'`)) {
    throw new RuntimeError('INTERNAL', `${SOURCE} has no line for the socket`);
  }
  mkdirSync(dir, { recursive: true });
  // Whatever the umask: nobody else may write where plugins lie.
  chmodSync(dir, 0o755);
  const fresh = join(dir, `.${IPAM_PLUGIN}`);
  writeFileSync(fresh, text);
  chmodSync(fresh, 0o755);
  renameSync(fresh, join(dir, IPAM_PLUGIN));
}
