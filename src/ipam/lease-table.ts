/**
 * Leases: who holds which address of which network. A lease is one record, its key the network and the address, so that
 * one address has one holder whatever happens; it is durable when `add` returns. This table is an index over the
 * records: by number for the search, by owner for the answer.
 *
 *   held   an interface of a container has the address
 *   kept   released; left for the workload that had it (`sticky`) until its time is over or somebody needs it more
 */
import * as z from 'zod';
import type { Durability, Store } from '../store.ts';
import { type Family, parseAddress } from './address.ts';
import { DEFAULT_STICKY_SECONDS, type LeaseOwner } from './ipam-request.ts';

/** One lease. */
export interface Lease extends LeaseOwner {
  readonly network: string;
  /** "10.87.30.5", canonical */
  readonly address: string;
  /** Whose address it is to be again. */
  readonly workload: string;
  readonly sticky: boolean;
  /** How long it is kept once it is released; a week in records of earlier versions. */
  readonly stickySeconds?: number | undefined;
  readonly allocatedAt: string;
  /** Present when it is kept, no longer held. */
  readonly releasedAt?: string | undefined;
}

const leaseSchema = z
  .object({
    network: z.string().min(1),
    address: z.string(),
    containerId: z.string().min(1),
    interfaceName: z.string().min(1),
    workload: z.string(),
    sticky: z.boolean(),
    stickySeconds: z.int().positive().optional(),
    allocatedAt: z.iso.datetime(),
    releasedAt: z.iso.datetime().optional(),
  })
  .refine(({ address }) => parseAddress(address) !== undefined, 'address is none');

/** Decodes a stored lease. @throws when the value does not have the shape of one */
export function decodeLease(value: unknown): Lease {
  return leaseSchema.parse(value);
}

/** Most addresses of one family that are kept for a network; beyond it the one released first is forgotten. */
const MAX_KEPT = 1024;

/** Addresses of one network and family, by number. */
interface Numbers {
  /** Held and kept ones; one whose record does not decode is there without a lease. */
  readonly taken: Map<bigint, Lease | undefined>;
  /** Kept ones, the one released first coming first. */
  readonly kept: Map<bigint, Lease>;
}

/** See the module's head. */
export class LeaseTable {
  readonly #store: Store<Lease>;
  readonly #numbers = new Map<string, Numbers>();
  readonly #owners = new Map<string, readonly Lease[]>();

  constructor(store: Store<Lease>) {
    this.#store = store;
    for (const lease of [...store.entries().values()].sort(byRelease)) this.#index(lease);
    for (const key of store.damaged().keys()) this.#block(key);
  }

  /** Every lease, held and kept. */
  all(): readonly Lease[] {
    return [...this.#store.entries().values()];
  }

  /** What an interface of a container holds. */
  heldBy(network: string, owner: LeaseOwner): readonly Lease[] {
    return this.#owners.get(ownerKey(network, owner)) ?? [];
  }

  /** Addresses of a network that are held or kept, by number; without a lease where its record does not decode. */
  taken(network: string, family: Family): ReadonlyMap<bigint, Lease | undefined> {
    return this.#of(network, family).taken;
  }

  /** Those that are only kept, the one released first coming first. */
  kept(network: string, family: Family): ReadonlyMap<bigint, Lease> {
    return this.#of(network, family).kept;
  }

  /** Records leases, in place of kept ones of the same addresses. Durable when it returns. */
  add(leases: readonly Lease[]): void {
    for (const [index, lease] of leases.entries()) this.#write(lease, durabilityAt(index, leases));
  }

  /** Takes leases back: those of workloads whose address is kept become kept, the others are no more. */
  release(leases: readonly Lease[], releasedAt: string): void {
    for (const [index, lease] of leases.entries()) {
      const durability = durabilityAt(index, leases);
      if (lease.sticky) this.#keep({ ...lease, releasedAt }, durability);
      else this.forget(lease, durability);
    }
  }

  /** Forgets those that were kept as long as they may be. */
  expire(nowMs: number): readonly Lease[] {
    const kept = [...this.#numbers.values()].flatMap((numbers) => [...numbers.kept.values()]);
    const over = kept.filter((lease) => (keptUntilMs(lease) ?? Number.POSITIVE_INFINITY) <= nowMs);
    // A crash brings them back to be forgotten once more.
    for (const lease of over) this.forget(lease, 'process');
    return over;
  }

  /** Removes a lease, kept or held. */
  forget(lease: Lease, durability: Durability = 'power'): void {
    this.#store.remove(leaseKey(lease.network, lease.address), durability);
    this.#unindex(lease);
  }

  #keep(lease: Lease, durability: Durability): void {
    const family = parseAddress(lease.address)?.family ?? 4;
    const kept = this.kept(lease.network, family);
    for (const [, oldest] of kept) {
      if (kept.size < MAX_KEPT) break;
      this.forget(oldest, 'process');
    }
    this.#write(lease, durability);
  }

  #write(lease: Lease, durability: Durability): void {
    const key = leaseKey(lease.network, lease.address);
    const before = this.#store.read(key);
    this.#store.write(key, lease, durability);
    if (before !== undefined) this.#unindex(before);
    this.#index(lease);
  }

  #of(network: string, family: Family): Numbers {
    const key = `${family} ${network}`;
    const known = this.#numbers.get(key) ?? { taken: new Map(), kept: new Map() };
    this.#numbers.set(key, known);
    return known;
  }

  #index(lease: Lease): void {
    const address = parseAddress(lease.address);
    if (address === undefined) return;
    const { taken, kept } = this.#of(lease.network, address.family);
    taken.set(address.value, lease);
    if (lease.releasedAt !== undefined) {
      kept.set(address.value, lease);
      return;
    }
    const key = ownerKey(lease.network, lease);
    this.#owners.set(key, [...(this.#owners.get(key) ?? []), lease]);
  }

  #unindex(lease: Lease): void {
    const address = parseAddress(lease.address);
    if (address === undefined) return;
    const { taken, kept } = this.#of(lease.network, address.family);
    taken.delete(address.value);
    kept.delete(address.value);
    const key = ownerKey(lease.network, lease);
    const others = (this.#owners.get(key) ?? []).filter((other) => other.address !== lease.address);
    if (others.length === 0) this.#owners.delete(key);
    else this.#owners.set(key, others);
  }

  /** What a record says that cannot be read is nobody's to give. */
  #block(key: string): void {
    const slash = key.indexOf('/');
    const address = parseAddress(key.slice(slash + 1));
    if (address !== undefined) this.#of(key.slice(0, slash), address.family).taken.set(address.value, undefined);
  }
}

/** When a kept lease is forgotten; undefined while it is held. */
export function keptUntilMs({ releasedAt, stickySeconds = DEFAULT_STICKY_SECONDS }: Lease): number | undefined {
  return releasedAt === undefined ? undefined : Date.parse(releasedAt) + stickySeconds * 1000;
}

/** A commit that reaches the disk takes all earlier ones with it, so the last one of a call does for all. */
function durabilityAt(index: number, leases: readonly Lease[]): Durability {
  return index === leases.length - 1 ? 'power' : 'process';
}

function byRelease(one: Lease, other: Lease): number {
  return (one.releasedAt ?? '').localeCompare(other.releasedAt ?? '');
}

/** Network names hold no slash. */
function leaseKey(network: string, address: string): string {
  return `${network}/${address}`;
}

function ownerKey(network: string, { containerId, interfaceName }: LeaseOwner): string {
  return `${network}/${containerId}/${interfaceName}`;
}
