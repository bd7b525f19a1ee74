/**
 * The allocator: the verbs of an IPAM plugin over leases on disk (CNI 1.1.0 §2, §4). Everything happens in one turn of
 * the event loop, so that calls never see each other half done, and what an answer says is on disk before it is given.
 *
 *   ADD      one address of each range set (allocator.ts); code 11 with the counts when one has nothing left
 *   DEL      gives back all that the owner holds; succeeds when that is nothing
 *   CHECK    code 101 when a lease of the owner is not there
 *   GC       gives back what no listed attachment holds
 *   STATUS   code 50 when a range set has nothing left
 */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import type { Logger } from 'pino';
import type { CniIp, CniResult, OldCniResult } from '../cni/protocol.ts';
import { parseResolvConf } from '../cni/resolver.ts';
import { readResult, writeResult } from '../cni/result-conversion.ts';
import type { Store } from '../store.ts';
import { formatAddress, parseAddress, parseAddressOrCidr } from './address.ts';
import { Allocator, type Choice } from './allocator.ts';
import { IPAM_CODES, IpamError } from './ipam-error.ts';
import type { IpamRequest, LeaseOwner } from './ipam-request.ts';
import { type Lease, LeaseTable } from './lease-table.ts';
import { describeSet, type RangeSet, rangeWith } from './range.ts';

/** Options of {@link Ipam}. */
export interface IpamOptions {
  readonly store: Store<Lease>;
  readonly log: Logger;
  /** The clock; the host's unless given. */
  readonly now?: () => Date;
}

const MAX_RESOLV_CONF_BYTES = 64 * 1024;

/** See the module's head. */
export class Ipam {
  readonly #leases: LeaseTable;
  readonly #log: Logger;
  readonly #now: () => Date;
  readonly #allocator: Allocator;

  constructor(options: IpamOptions) {
    this.#leases = new LeaseTable(options.store);
    this.#allocator = new Allocator(this.#leases);
    this.#log = options.log.child({ component: 'ipam' });
    this.#now = options.now ?? (() => new Date());
    for (const [key, reason] of options.store.damaged()) {
      this.#log.error({ lease: key, reason }, 'lease record does not decode: left alone, its address is not given');
    }
  }

  /**
   * Carries out a call. What it did is durable when it returns.
   * @returns the result of ADD, undefined for the others
   * @throws {IpamError} see the module's head
   */
  handle(request: IpamRequest): CniResult | OldCniResult | undefined {
    this.#expire();
    switch (request.command) {
      case 'ADD':
        return this.#add(request, ownerOf(request));
      case 'DEL':
        this.#give(this.#leases.heldBy(request.network, ownerOf(request)), 'container');
        return undefined;
      case 'CHECK':
        this.#check(request, ownerOf(request));
        return undefined;
      case 'GC':
        this.#collect(request);
        return undefined;
      case 'STATUS':
        this.#status(request);
        return undefined;
    }
  }

  /** Every lease, held and kept. */
  list(): readonly Lease[] {
    this.#expire();
    return this.#leases.all();
  }

  /** Takes an address back whoever holds it; a kept one is forgotten. */
  release(lease: Lease): void {
    this.#leases.forget(lease);
    this.#log.info({ ...describe(lease), reason: 'operator' }, 'address released');
  }

  #add(request: IpamRequest, owner: LeaseOwner): CniResult | OldCniResult {
    const { network, workload, sticky, stickySeconds } = request;
    const choices = this.#allocator.choose(request, owner);
    // What can fail comes before the record.
    const result = resultOf(request, choices);
    const allocatedAt = this.#now().toISOString();
    const fresh = choices
      .filter(({ isHeld }) => !isHeld)
      .map(({ address }) => ({
        ...owner,
        ...{ network, address: formatAddress(address), workload, sticky, allocatedAt },
        ...(sticky ? { stickySeconds } : {}),
      }));
    this.#leases.add(fresh);
    this.#allocator.advance(network, choices);
    for (const lease of fresh) this.#log.info(describe(lease), 'address given');
    return result;
  }

  #check({ network, sets, cniVersion, prevResult }: IpamRequest, owner: LeaseOwner): void {
    const held = this.#leases.heldBy(network, owner);
    const who = `${owner.interfaceName} of container ${owner.containerId}`;
    const bare = sets.find((set) => !held.some(({ address }) => isIn(set, address)));
    if (bare !== undefined) {
      throw new IpamError(IPAM_CODES.noLease, `${who} holds no address of network ${network} in ${describeSet(bare)}`);
    }
    for (const address of addressesIn(prevResult, cniVersion)) {
      const given = parseAddressOrCidr(address);
      if (given === undefined || !sets.some((set) => rangeWith(set, given) !== undefined)) continue;
      const text = formatAddress(given);
      if (held.some((lease) => lease.address === text)) continue;
      throw new IpamError(IPAM_CODES.noLease, `${who} has no lease of ${text} of network ${network}`);
    }
  }

  #collect({ network, valid }: IpamRequest): void {
    if (valid === undefined) {
      throw new IpamError(IPAM_CODES.config, 'cni.dev/valid-attachments: is missing, nothing was released');
    }
    const keys = new Set(valid.map(({ containerId, interfaceName }) => `${containerId}/${interfaceName}`));
    const stale = this.#leases
      .all()
      .filter((lease) => lease.network === network && lease.releasedAt === undefined)
      .filter(({ containerId, interfaceName }) => !keys.has(`${containerId}/${interfaceName}`));
    this.#give(stale, 'GC');
  }

  #status({ network, sets }: IpamRequest): void {
    for (const set of sets) this.#allocator.requireRoom(network, set, IPAM_CODES.unavailable);
  }

  /** Looked at whenever leases are: nobody sees one that is kept for too long. */
  #expire(): void {
    const over = this.#leases.expire(this.#now().getTime());
    for (const lease of over) this.#log.info({ ...describe(lease), reason: 'kept long enough' }, 'address forgotten');
  }

  #give(leases: readonly Lease[], reason: string): void {
    this.#leases.release(leases, this.#now().toISOString());
    for (const lease of leases) this.#log.info({ ...describe(lease), reason }, 'address released');
  }
}

function ownerOf({ owner, command }: IpamRequest): LeaseOwner {
  if (owner === undefined) throw new IpamError(IPAM_CODES.environment, `CNI_CONTAINERID: ${command} needs one`);
  return owner;
}

function isIn(set: RangeSet, text: string): boolean {
  const address = parseAddress(text);
  return address !== undefined && rangeWith(set, address) !== undefined;
}

function resultOf(request: IpamRequest, choices: readonly Choice[]): CniResult | OldCniResult {
  const { cniVersion, routes, resolvConfPath } = request;
  const ips = choices.flatMap(({ set, address }): CniIp[] => {
    const range = rangeWith(set, address);
    if (range === undefined) return [];
    const gateway = formatAddress({ family: set.family, value: range.gateway });
    return [{ address: `${formatAddress(address)}/${range.subnet.prefix}`, gateway }];
  });
  const dns = resolvConfPath === undefined ? {} : { dns: dnsOf(resolvConfPath) };
  return writeResult({ cniVersion, ips, ...(routes.length === 0 ? {} : { routes: [...routes] }), ...dns }, cniVersion);
}

/** Addresses of a result, as they are written. */
function addressesIn(result: unknown, cniVersion: string): readonly string[] {
  if (result === undefined) return [];
  try {
    return (readResult(result, cniVersion).ips ?? []).map(({ address }) => address);
  } catch (error) {
    throw new IpamError(IPAM_CODES.undecodable, 'prevResult: is no result of ADD', { cause: error });
  }
}

function describe({ network, address, containerId, interfaceName }: Lease): object {
  return { network, address, containerId, interfaceName };
}

/** Settings of a resolv.conf. What is no regular file could keep the daemon waiting. */
function dnsOf(path: string): NonNullable<CniResult['dns']> {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stats = fstatSync(fd);
      if (!stats.isFile() || stats.size > MAX_RESOLV_CONF_BYTES) throw new TypeError('is no short regular file');
      const { nameservers, search, options } = parseResolvConf(readFileSync(fd, 'utf8'));
      return { nameservers: [...nameservers], search: [...search], options: [...options] };
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new IpamError(IPAM_CODES.io, `ipam.resolvConf: ${reason}`, { cause: error });
  }
}
