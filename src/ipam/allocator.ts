/**
 * Which address comes next: one of each range set, in this order of preference.
 *
 *   1. the one the owner holds already: ADD may be repeated
 *   2. the one that was asked for, if nobody holds it
 *   3. the one kept for the workload
 *   4. the next one that nobody holds and that is kept for nobody, round robin
 *   5. the one that has been kept longest for somebody else
 *
 * Chooses only; the caller records the choice.
 */
import { type Address, formatAddress, parseAddress } from './address.ts';
import { IPAM_CODES, IpamError } from './ipam-error.ts';
import type { IpamRequest, LeaseOwner } from './ipam-request.ts';
import type { LeaseTable } from './lease-table.ts';
import { capacity, describeSet, gives, nextFree, type RangeSet, rangeWith, whyNever } from './range.ts';

/** What one range set gives. */
export interface Choice {
  readonly set: RangeSet;
  readonly address: Address;
  /** By the owner, since an earlier ADD. */
  readonly isHeld: boolean;
}

/** See the module's head. */
export class Allocator {
  readonly #leases: LeaseTable;
  /** The address chosen last, by network and range set. */
  readonly #cursors = new Map<string, bigint>();

  constructor(leases: LeaseTable) {
    this.#leases = leases;
  }

  /**
   * One address of each set.
   * @throws {IpamError} code 7 for addresses that cannot be had, code 11 when none is free
   */
  choose(request: IpamRequest, owner: LeaseOwner): readonly Choice[] {
    const { network, sets, wanted } = request;
    const stray = wanted.find((address) => !sets.some((set) => rangeWith(set, address) !== undefined));
    if (stray !== undefined) {
      const known = sets.map(describeSet).join(', ');
      throw new IpamError(IPAM_CODES.config, `${named(network, stray)} is in no range: ${known}`);
    }
    const choices = sets.map((set) => this.#choose(set, request, owner));
    const missed = wanted.find((address) => !choices.some((choice) => isSame(choice.address, address)));
    if (missed === undefined) return choices;
    throw new IpamError(IPAM_CODES.config, `${named(network, missed)} is one too many: each range set gives one`);
  }

  /** The next search goes on behind these. */
  advance(network: string, choices: readonly Choice[]): void {
    for (const { set, address } of choices) this.#cursors.set(cursorKey(network, set), address.value);
  }

  /** @throws {IpamError} with this code and the counts when the set has nothing left to give */
  requireRoom(network: string, set: RangeSet, code: 11 | 50): bigint {
    const value = this.#next(set, network) ?? this.#longestKept(set, network);
    if (value !== undefined) return value;
    const held = [...this.#leases.taken(network, set.family).keys()].filter((held) =>
      gives(set, { family: set.family, value: held }),
    );
    const text = `network ${network} has no free address in ${describeSet(set)}`;
    throw new IpamError(code, `${text}: ${held.length} of ${capacity(set)} are held`);
  }

  #choose(set: RangeSet, request: IpamRequest, owner: LeaseOwner): Choice {
    const { network, wanted } = request;
    const held = this.#heldIn(set, network, owner);
    const asked = wanted.find((address) => rangeWith(set, address) !== undefined);
    if (held !== undefined && asked !== undefined && !isSame(held, asked)) {
      const holder = `${owner.interfaceName} of container ${owner.containerId}`;
      throw new IpamError(IPAM_CODES.config, `${named(network, held)} is held by ${holder}: DEL comes before another`);
    }
    if (held !== undefined) return { set, address: held, isHeld: true };
    if (asked !== undefined) return { set, address: this.#asked(set, network, asked), isHeld: false };
    const value = this.#kept(set, request) ?? this.requireRoom(network, set, IPAM_CODES.tryAgain);
    return { set, address: { family: set.family, value }, isHeld: false };
  }

  #heldIn(set: RangeSet, network: string, owner: LeaseOwner): Address | undefined {
    const addresses = this.#leases.heldBy(network, owner).map(({ address }) => parseAddress(address));
    return addresses.find((address) => address !== undefined && rangeWith(set, address) !== undefined);
  }

  #asked(set: RangeSet, network: string, address: Address): Address {
    if (!gives(set, address)) {
      throw new IpamError(IPAM_CODES.config, `${named(network, address)} ${whyNever(set, address.value)}`);
    }
    const taken = this.#leases.taken(network, address.family);
    const lease = taken.get(address.value);
    if (lease === undefined && taken.has(address.value)) {
      throw new IpamError(IPAM_CODES.io, `${named(network, address)} has a lease record that does not decode`);
    }
    if (lease !== undefined && lease.releasedAt === undefined) {
      const holder = `${lease.interfaceName} of container ${lease.containerId}`;
      throw new IpamError(
        IPAM_CODES.tryAgain,
        `${named(network, address)} is held by ${holder} since ${lease.allocatedAt}`,
      );
    }
    return address;
  }

  #kept(set: RangeSet, { network, workload, owner }: IpamRequest): bigint | undefined {
    return [...this.#leases.kept(network, set.family)].findLast(
      ([value, lease]) =>
        lease.workload === workload &&
        lease.interfaceName === owner?.interfaceName &&
        gives(set, { family: set.family, value }),
    )?.[0];
  }

  #next(set: RangeSet, network: string): bigint | undefined {
    const taken = this.#leases.taken(network, set.family);
    const after = this.#cursors.get(cursorKey(network, set)) ?? this.#newest(set, network);
    return nextFree(set, (value) => taken.has(value), after);
  }

  /** Where the search stood when the daemon ended, as far as leases tell. */
  #newest(set: RangeSet, network: string): bigint | undefined {
    let newest: { readonly value: bigint; readonly at: string } | undefined;
    for (const [value, lease] of this.#leases.taken(network, set.family)) {
      if (lease === undefined || (newest !== undefined && lease.allocatedAt < newest.at)) continue;
      if (gives(set, { family: set.family, value })) newest = { value, at: lease.allocatedAt };
    }
    return newest?.value;
  }

  #longestKept(set: RangeSet, network: string): bigint | undefined {
    const values = [...this.#leases.kept(network, set.family).keys()];
    return values.find((value) => gives(set, { family: set.family, value }));
  }
}

function cursorKey(network: string, set: RangeSet): string {
  return `${network} ${describeSet(set)}`;
}

function isSame(one: Address, other: Address): boolean {
  return one.family === other.family && one.value === other.value;
}

function named(network: string, address: Address): string {
  return `address ${formatAddress(address)} of network ${network}`;
}
