/**
 * Leases of one network beside the records: those of host-local on disk, and those of Berth's own allocator. No plugin is
 * asked: while the network is held alone nobody else gives or takes an address of it.
 */
import { constants } from 'node:fs';
import { mkdir, open, readFile, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResolvedNetwork } from '../cni/network.ts';
import { RuntimeError, systemCode } from '../errors.ts';
import { HOST_LOCAL_DATA_DIR, type HostLocalLease, readHostLocalLeases } from '../ipam/host-local-leases.ts';
import type { Ipam } from '../ipam/ipam.ts';
import { IPAM_PLUGIN } from '../ipam/ipam-plugin.ts';
import { ELSEWHERE, type Owner, type Owners, type Suspect } from './audit-finding.ts';
import { objectIn } from './network-subnets.ts';

/** host-local's leases of a network; none when another plugin gives its addresses. */
export async function leasesOf(network: ResolvedNetwork): Promise<HostLocalLease[]> {
  const dataDir = leaseDirOf(network);
  if (dataDir === undefined) return [];
  const all = await readHostLocalLeases(dataDir);
  return all.filter((lease) => lease.network === network.name);
}

/** Leases without an owner, and owners without a lease. */
export function auditLeases(owners: Owners, leases: readonly HostLocalLease[]): Suspect[] {
  const dataDir = leaseDirOf(owners.network);
  if (dataDir === undefined) return [];
  return [...leases.flatMap((lease) => orphan(lease, owners)), ...missing(leases, owners, dataDir)];
}

/** Leases of Berth's own allocator that no attachment has, and attachments without one. */
export function auditOwnLeases({ network, owners, ids }: Owners, ipam: Pick<Ipam, 'list' | 'release'>): Suspect[] {
  const held = ipam.list().filter((lease) => lease.network === network.name && lease.releasedAt === undefined);
  const extra = held.filter(({ containerId, interfaceName }) => {
    const unclear = ids.has(containerId) && !owners.some((owner) => owner.containerId === containerId);
    return !unclear && !owners.some((owner) => has(owner, containerId, interfaceName));
  });
  const added = network.plugins.some((plugin) => objectIn(plugin, 'ipam')?.['type'] === IPAM_PLUGIN)
    ? owners.filter(({ entry, stale }) => entry.state === 'added' && !stale)
    : [];
  const about = { kind: 'lease', network: network.name } as const;
  return [
    ...extra.map((lease) => ({
      ...about,
      ...{ name: lease.address, containerId: lease.containerId, missing: false },
      detail: 'belongs to no attachment',
      repair: async () => ipam.release(lease),
    })),
    ...added.flatMap((owner) =>
      owner.addresses
        .map((cidr) => cidr.split('/')[0] ?? '')
        .filter(
          (address) => !held.some((lease) => lease.address === address && lease.containerId === owner.containerId),
        )
        .map((name) => ({
          ...about,
          ...{ name, containerId: owner.containerId, missing: true },
          detail: 'the address has no lease: disconnect and connect the container, or start it again',
        })),
    ),
  ];
}

function has({ containerId, entry }: Owner, id: string, interfaceName: string): boolean {
  // host-local's older versions did not write the interface down.
  return containerId === id && (interfaceName === '' || entry.interfaceName === interfaceName);
}

/** Where host-local keeps the leases of a network; undefined when another plugin gives its addresses. */
function leaseDirOf({ plugins }: ResolvedNetwork): string | undefined {
  for (const plugin of plugins) {
    const ipam = objectIn(plugin, 'ipam');
    if (ipam?.['type'] !== 'host-local') continue;
    const dataDir = ipam['dataDir'];
    return typeof dataDir === 'string' && dataDir !== '' ? dataDir : HOST_LOCAL_DATA_DIR;
  }
  return undefined;
}

function orphan(lease: HostLocalLease, { owners, ids, elsewhere, network }: Owners): Suspect[] {
  const { containerId, interfaceName, address, file } = lease;
  const held = owners.some((owner) => has(owner, containerId, interfaceName));
  // Of a record that does not decode only the id is known.
  const unclear = ids.has(containerId) && !owners.some((owner) => owner.containerId === containerId);
  if (held || unclear) return [];
  const about = { kind: 'lease', name: address, network: network.name, containerId, missing: false } as const;
  if (elsewhere.has(containerId)) return [{ ...about, detail: ELSEWHERE }];
  return [{ ...about, detail: `${file} belongs to no attachment`, repair: () => release(lease) }];
}

/** Removes a lease if it is still the one that was read. */
async function release({ file, containerId }: HostLocalLease): Promise<void> {
  try {
    const text = await readFile(file, 'utf8');
    if (text.split(/\r?\n/)[0]?.trim() === containerId) await unlink(file);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove lease ${file}`);
  }
}

function missing(leases: readonly HostLocalLease[], { owners, network }: Owners, dataDir: string): Suspect[] {
  const added = owners.filter(({ entry, stale }) => entry.state === 'added' && !stale);
  return added.flatMap((owner) =>
    owner.addresses.flatMap((cidr) => {
      const address = cidr.split('/')[0] ?? '';
      const lease = leases.find((other) => other.address === address);
      if (lease?.containerId === owner.containerId) return [];
      const about = { kind: 'lease', name: address, network: network.name, missing: true } as const;
      const { containerId } = owner;
      if (lease !== undefined) {
        return [
          { ...about, containerId, detail: `the lease belongs to ${lease.containerId}: two may have the address` },
        ];
      }
      const repair = (): Promise<void> => write(join(dataDir, network.name), address, owner);
      return [{ ...about, containerId, detail: 'the address has no lease: another container may get it', repair }];
    }),
  );
}

/** A lease as host-local writes it. */
async function write(dir: string, address: string, { containerId, entry }: Owner): Promise<void> {
  const file = join(dir, address);
  try {
    await mkdir(dir, { recursive: true, mode: 0o755 });
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    await using handle = await open(file, flags, 0o600);
    await handle.writeFile(`${containerId}\r\n${entry.interfaceName}`);
    await handle.sync();
  } catch (error) {
    throw RuntimeError.from(error, `write lease ${file}`);
  }
}
