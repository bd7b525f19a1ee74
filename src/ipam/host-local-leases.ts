/**
 * host-local's leases as they lie on disk, to look at only: they are locked, given and taken back by host-local alone.
 *
 *   DATADIR/NETWORK/10.86.0.5      "<container id>\r\n<interface>"; older versions wrote the id only
 *   DATADIR/NETWORK/lock, last_reserved_ip.0      no leases
 */
import { constants } from 'node:fs';
import { lstat, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CNI_NAME } from '../cni/protocol.ts';
import { RuntimeError, systemCode } from '../errors.ts';
import { formatAddress, parseAddress } from './address.ts';
import type { LeaseOwner } from './ipam-request.ts';

/** Where host-local keeps leases when a configuration names no `dataDir`. */
export const HOST_LOCAL_DATA_DIR = '/var/lib/cni/networks';

/** A lease of host-local. */
export interface HostLocalLease extends LeaseOwner {
  readonly network: string;
  readonly address: string;
  readonly allocatedAt: string;
  /** The file that is the lease. */
  readonly file: string;
}

const MAX_FILE_BYTES = 1024;

/** Every lease below a data directory; none when there is no such directory. What is no lease is passed over. */
export async function readHostLocalLeases(dataDir: string): Promise<readonly HostLocalLease[]> {
  const leases: HostLocalLease[] = [];
  for (const network of await namesIn(dataDir)) {
    const dir = join(dataDir, network);
    if (!CNI_NAME.test(network) || !(await lstat(dir)).isDirectory()) continue;
    for (const name of await namesIn(dir)) {
      const address = parseAddress(name);
      const lease = address === undefined ? undefined : await readLease(join(dir, name));
      if (address === undefined || lease === undefined) continue;
      leases.push({ ...lease, network, address: formatAddress(address), file: join(dir, name) });
    }
  }
  return leases;
}

async function readLease(file: string): Promise<(LeaseOwner & { readonly allocatedAt: string }) | undefined> {
  try {
    await using handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const stats = await handle.stat();
    if (!stats.isFile() || stats.size > MAX_FILE_BYTES) return undefined;
    const [containerId = '', interfaceName = ''] = (await handle.readFile('utf8')).trim().split(/\r?\n/);
    return { containerId, interfaceName, allocatedAt: stats.mtime.toISOString() };
  } catch (error) {
    // Given back meanwhile, or a link.
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ELOOP') return undefined;
    throw RuntimeError.from(error, `read ${file}`);
  }
}

async function namesIn(dir: string): Promise<readonly string[]> {
  try {
    return (await readdir(dir)).sort();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw RuntimeError.from(error, `read ${dir}`);
  }
}
