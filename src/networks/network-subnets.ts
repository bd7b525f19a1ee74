/** The subnets that the IPAM parts of a configuration name, whatever plugin they belong to. Pure. */
import type { ResolvedNetwork } from '../cni/network.ts';
import { type JsonObject, jsonObject } from '../cni/protocol.ts';
import { parseSubnet, type Subnet } from '../ipam/address.ts';

/** Every subnet of `ipam.subnet`, `ipam.ranges` and `ipam.addresses` of the chain; what is none is passed over. */
export function subnetsOf(network: ResolvedNetwork): Subnet[] {
  return network.plugins.flatMap((plugin) => {
    const ipam = objectIn(plugin, 'ipam');
    const ranges = listIn(ipam, 'ranges').flatMap((set) => (Array.isArray(set) ? set : []));
    const words = [
      ipam?.['subnet'],
      ...ranges.map((range) => asObject(range)?.['subnet']),
      ...listIn(ipam, 'addresses').map((entry) => asObject(entry)?.['address']),
    ];
    return words.flatMap((word) => (typeof word === 'string' ? (parseSubnet(word) ?? []) : []));
  });
}

/** An object member of an object. */
export function objectIn(object: JsonObject, key: string): JsonObject | undefined {
  return asObject(object[key]);
}

function listIn(object: JsonObject | undefined, key: string): readonly unknown[] {
  const value = object?.[key];
  return Array.isArray(value) ? value : [];
}

function asObject(value: unknown): JsonObject | undefined {
  const parsed = jsonObject.safeParse(value);
  return parsed.success ? parsed.data : undefined;
}
