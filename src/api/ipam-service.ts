/** The Ipam service: who holds which address, of Berth's own leases and of host-local's, which are only looked at. */
import { isIP } from 'node:net';
import type { NetworkConfigs } from '../cni/network-config.ts';
import type { NetworkAttachment } from '../cni/network-isolator.ts';
import { jsonObject } from '../cni/protocol.ts';
import { invalid, RuntimeError } from '../errors.ts';
import { HOST_LOCAL_DATA_DIR, type HostLocalLease, readHostLocalLeases } from '../ipam/host-local-leases.ts';
import type { Ipam } from '../ipam/ipam.ts';
import { type Lease as HeldLease, keptUntilMs } from '../ipam/lease-table.ts';
import type { IpamDefinition } from './generated/berth/v1/Ipam.ts';
import type { Lease } from './generated/berth/v1/Lease.ts';
import type { LeaseRequest__Output } from './generated/berth/v1/LeaseRequest.ts';
import type { ListLeasesRequest__Output } from './generated/berth/v1/ListLeasesRequest.ts';
import type { ListLeasesResponse } from './generated/berth/v1/ListLeasesResponse.ts';
import type { ReleaseLeaseRequest__Output } from './generated/berth/v1/ReleaseLeaseRequest.ts';
import type { ReleaseLeaseResponse } from './generated/berth/v1/ReleaseLeaseResponse.ts';
import { checkRef } from './object-ref.ts';
import type { ServiceMethods } from './protocol.ts';

export interface IpamServiceOptions {
  readonly ipam: Pick<Ipam, 'list' | 'release'>;
  readonly configs: Pick<NetworkConfigs, 'list' | 'inspect'>;
  /** Who is attached to the network of this name, those whose DEL is due included. */
  readonly attachments: (network: string) => readonly Pick<NetworkAttachment, 'containerId' | 'interfaceName'>[];
}

/** A lease of either kind. */
type AnyLease = { readonly own: HeldLease } | { readonly foreign: HostLocalLease };

export class IpamService implements ServiceMethods<IpamDefinition> {
  readonly #options: IpamServiceOptions;

  constructor(options: IpamServiceOptions) {
    this.#options = options;
  }

  async list({ network }: ListLeasesRequest__Output): Promise<ListLeasesResponse> {
    if (network !== '') checkRef('network', network);
    const leases = (await this.#all()).filter((lease) => network === '' || bareOf(lease).network === network);
    return { leases: leases.map((lease) => this.#message(lease)) };
  }

  async inspect({ network, address }: LeaseRequest__Output): Promise<Lease> {
    return this.#message(await this.#find(network, address));
  }

  async release({ network, address, force }: ReleaseLeaseRequest__Output): Promise<ReleaseLeaseResponse> {
    const lease = await this.#find(network, address);
    if ('foreign' in lease) {
      const text = `${address} is host-local's: only the DEL of its container gives it back (${lease.foreign.file})`;
      throw new RuntimeError('FAILED_PRECONDITION', `address: ${text}`);
    }
    const { own } = lease;
    if (!force && own.releasedAt === undefined && this.#isAttached(own)) {
      const holder = `${own.interfaceName} of container ${own.containerId}`;
      throw new RuntimeError('FAILED_PRECONDITION', `address: ${address} is held by ${holder}, which is attached`);
    }
    this.#options.ipam.release(own);
    return {};
  }

  async #find(network: string, address: string): Promise<AnyLease> {
    if (network !== '') checkRef('network', network);
    if (isIP(address) === 0) throw invalid('address', `${JSON.stringify(address.slice(0, 64))} is no IP address`);
    const all = await this.#all();
    const found = all.filter((lease) => {
      const bare = bareOf(lease);
      return bare.address === address && (network === '' || bare.network === network);
    });
    const [first, ...others] = found;
    if (first === undefined) throw new RuntimeError('NOT_FOUND', `address: nobody holds ${address}`);
    if (others.length === 0) return first;
    const networks = found.map((lease) => bareOf(lease).network).join(', ');
    throw new RuntimeError('FAILED_PRECONDITION', `address: ${address} is held in several networks: ${networks}`);
  }

  async #all(): Promise<readonly AnyLease[]> {
    const foreign = await Promise.all([...this.#dataDirs()].map(readHostLocalLeases));
    return [
      ...this.#options.ipam.list().map((own) => ({ own })),
      ...foreign.flat().map((lease) => ({ foreign: lease })),
    ].sort((one, other) => {
      const [a, b] = [bareOf(one), bareOf(other)];
      return a.network.localeCompare(b.network) || a.allocatedAt.localeCompare(b.allocatedAt);
    });
  }

  /** Data directories of the networks that use host-local now. */
  #dataDirs(): ReadonlySet<string> {
    const { configs } = this.#options;
    const known = configs.list().filter(({ state }) => state === 'ready' || state === 'missing-plugin');
    return new Set(
      known.flatMap(({ name }) =>
        configs.inspect(name).config.plugins.flatMap((plugin) => {
          const ipam = jsonObject.safeParse(plugin['ipam']);
          if (!ipam.success || ipam.data['type'] !== 'host-local') return [];
          const { dataDir } = ipam.data;
          return [typeof dataDir === 'string' && dataDir !== '' ? dataDir : HOST_LOCAL_DATA_DIR];
        }),
      ),
    );
  }

  #isAttached({ network, containerId, interfaceName }: HeldLease | HostLocalLease): boolean {
    const attached = this.#options.attachments(network);
    // host-local's older versions did not write the interface down.
    return attached.some(
      (other) => other.containerId === containerId && (interfaceName === '' || other.interfaceName === interfaceName),
    );
  }

  #message(lease: AnyLease): Lease {
    const { network, address, containerId, interfaceName, allocatedAt } = bareOf(lease);
    const common = {
      network,
      address,
      containerId,
      interfaceName,
      allocatedAt,
      attached: this.#isAttached(bareOf(lease)),
    };
    if ('foreign' in lease) return { ...common, source: 'LEASE_SOURCE_HOST_LOCAL', file: lease.foreign.file };
    const { releasedAt, sticky, workload } = lease.own;
    const until = keptUntilMs(lease.own);
    return {
      ...common,
      source: 'LEASE_SOURCE_BERTH',
      workload,
      sticky,
      ...(releasedAt === undefined ? {} : { releasedAt, attached: false }),
      ...(until === undefined ? {} : { keptUntil: new Date(until).toISOString() }),
    };
  }
}

function bareOf(lease: AnyLease): HeldLease | HostLocalLease {
  return 'own' in lease ? lease.own : lease.foreign;
}
