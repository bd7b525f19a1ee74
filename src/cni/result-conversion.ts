/**
 * Results from one version of the specification to another: a plugin may answer in another version than the one its
 * configuration names, and `prevResult` must be in the configuration's. Pure.
 *
 *   old     0.1.0, 0.2.0           ip4, ip6
 *   rich    0.3.0, 0.3.1, 0.4.0    interfaces, ips with `version`, routes, dns always there
 *   modern  1.0.0, 1.1.0           the same without `version`
 *
 * Going down loses what the older version cannot say. Inside the modern generation nothing is changed but the number:
 * plugins ignore fields they do not know.
 */
import { isIP } from 'node:net';
import { generationOf, isKnownVersion } from './cni-version.ts';
import {
  type CniIp,
  type CniResult,
  type CniRoute,
  decodeOldResult,
  decodeResult,
  type OldCniResult,
  printable,
} from './protocol.ts';

/**
 * Decodes an answer to ADD into the form Berth works with (0.3.0 and later). A missing `cniVersion` is taken from the
 * configuration.
 * @throws when the value is no result, or one of an unknown version
 */
export function readResult(value: unknown, configVersion: string): CniResult {
  const version = versionIn(value) ?? configVersion;
  // What a version to come means by its fields, and so what DEL must be told later, nobody knows.
  if (!isKnownVersion(version)) throw new TypeError(`cniVersion ${JSON.stringify(printable(version))} is unknown`);
  if (generationOf(version) !== 'old') return { ...decodeResult(value), cniVersion: version };
  return { ...fromOld(decodeOldResult(value)), cniVersion: version };
}

/**
 * A result as `prevResult` of a plugin whose configuration has `version`.
 * @throws {TypeError} when the version is 0.2.0 or older and the result has no address
 */
export function writeResult(result: CniResult, version: string): CniResult | OldCniResult {
  const generation = generationOf(version);
  if (generation === 'old') return toOld(result, version);
  const rich = generation === 'rich';
  const { dns, interfaces, ips, ...rest } = result;
  return {
    ...rest,
    cniVersion: version,
    ...(interfaces == null ? {} : { interfaces: rich ? interfaces.map(plainInterface) : interfaces }),
    ...(ips == null ? {} : { ips: ips.map((entry) => (rich ? withFamily(entry) : withoutFamily(entry))) }),
    ...(rich || dns != null ? { dns: dns ?? {} } : {}),
  };
}

function versionIn(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null || !('cniVersion' in value)) return undefined;
  return typeof value.cniVersion === 'string' && value.cniVersion !== '' ? value.cniVersion : undefined;
}

function familyOf(address: string): 4 | 6 {
  return isIP(address.split('/')[0] ?? '') === 4 ? 4 : 6;
}

function withFamily(entry: CniIp): CniIp {
  return { ...entry, version: String(familyOf(entry.address)) };
}

function withoutFamily(entry: CniIp): CniIp {
  const { version: _, ...rest } = entry;
  return rest;
}

/** Interfaces before 1.0 had a name, an address and a sandbox. */
function plainInterface(entry: NonNullable<CniResult['interfaces']>[number]): typeof entry {
  const { mtu: _mtu, socketPath: _path, pciID: _pci, ...rest } = entry;
  return rest;
}

function fromOld(old: OldCniResult): CniResult {
  const { ip4, ip6, dns } = old;
  const entries = [ip4, ip6].filter((entry) => entry != null);
  return {
    ips: entries.map((entry) => ({ address: entry.ip, ...(entry.gateway ? { gateway: entry.gateway } : {}) })),
    routes: entries.flatMap((entry) => entry.routes ?? []),
    ...(dns == null ? {} : { dns }),
  };
}

function toOld(result: CniResult, version: string): OldCniResult {
  const ip4 = oldEntry(result, 4);
  const ip6 = oldEntry(result, 6);
  if (ip4 === undefined && ip6 === undefined)
    throw new TypeError(`a result without addresses has no form in ${version}`);
  return {
    cniVersion: version,
    ...(ip4 === undefined ? {} : { ip4 }),
    ...(ip6 === undefined ? {} : { ip6 }),
    dns: result.dns ?? {},
  };
}

function oldEntry(result: CniResult, family: 4 | 6): NonNullable<OldCniResult['ip4']> | undefined {
  const entry = (result.ips ?? []).find((candidate) => familyOf(candidate.address) === family);
  if (entry === undefined) return undefined;
  const routes = (result.routes ?? []).filter((route) => familyOf(route.dst) === family).map(oldRoute);
  return {
    ip: entry.address,
    ...(entry.gateway ? { gateway: entry.gateway } : {}),
    ...(routes.length === 0 ? {} : { routes }),
  };
}

function oldRoute(route: CniRoute): CniRoute {
  return { dst: route.dst, ...(route.gw ? { gw: route.gw } : {}) };
}
