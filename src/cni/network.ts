/**
 * A network as it is used: name, version and the full chain of plugin configurations, with nothing left to look up.
 * This is what is recorded before ADD and what DEL and CHECK use later, whatever the files say by then.
 */
import * as z from 'zod';
import { isKnownVersion } from './cni-version.ts';
import { CNI_NAME, type JsonObject, jsonObject } from './protocol.ts';

/** A resolved network configuration (CNI 1.1.0 §1). */
export interface ResolvedNetwork {
  readonly name: string;
  /** The one version the whole chain runs at. */
  readonly cniVersion: string;
  /** CHECK is never run and counts as passed. */
  readonly disableCheck: boolean;
  /** GC is never run: another runtime uses the same configuration. */
  readonly disableGC: boolean;
  /**
   * Nobody but this daemon uses the network ("io.berth/owned" of the list): what is found there without an owner may be
   * removed.
   */
  readonly owned: boolean;
  /** In order of ADD, those of the plugin folder included; never empty. */
  readonly plugins: readonly JsonObject[];
}

/** Decodes a stored network. */
export const resolvedNetworkSchema: z.ZodType<ResolvedNetwork> = z.object({
  name: z.string().regex(CNI_NAME),
  cniVersion: z.string().refine(isKnownVersion),
  disableCheck: z.boolean(),
  disableGC: z.boolean(),
  owned: z.boolean().default(false),
  plugins: z.array(jsonObject).min(1),
});

/** The `type` of a plugin configuration; empty when it has none. */
export function typeOf(plugin: JsonObject): string {
  const type = plugin['type'];
  return typeof type === 'string' ? type : '';
}

/**
 * Names of all executables a plugin configuration asks for: its own and its IPAM delegate's. Plugins written in Go
 * decode keys without regard to case, so every spelling counts.
 */
export function executablesOf(plugin: JsonObject): readonly string[] {
  const delegates = membersNamed(plugin, 'ipam').flatMap((ipam) => {
    const object = jsonObject.safeParse(ipam);
    return object.success ? membersNamed(object.data, 'type') : [];
  });
  return [typeOf(plugin), ...delegates.filter((type) => typeof type === 'string' && type !== '').map(String)];
}

/** Capabilities a plugin configuration declares (CNI 1.1.0 §1 "capabilities"). */
export function capabilitiesOf(plugin: JsonObject): ReadonlySet<string> {
  const declared = jsonObject.safeParse(plugin['capabilities']);
  if (!declared.success) return new Set();
  return new Set(Object.entries(declared.data).flatMap(([name, on]) => (on === true ? [name] : [])));
}

/** True when some plugin of the chain acts on the capability. */
export function hasCapability(network: ResolvedNetwork, capability: string): boolean {
  return network.plugins.some((plugin) => capabilitiesOf(plugin).has(capability));
}

function membersNamed(object: JsonObject, name: string): readonly unknown[] {
  return Object.entries(object).flatMap(([key, value]) => (key.toLowerCase() === name ? [value] : []));
}
