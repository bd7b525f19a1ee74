/** The ports of a network's bridge beside the records. Only of a bridge that no other network uses. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { ResolvedNetwork } from '../cni/network.ts';
import type { JsonObject } from '../cni/protocol.ts';
import { RuntimeError, systemCode } from '../errors.ts';
import type { RunProgram } from '../run-program.ts';
import type { Owner, Owners, Suspect } from './audit-finding.ts';
import { hostEnds, isHostEnd, joinBridge, masterOf, removeLink } from './host-links.ts';

const NET = '/sys/class/net';
/** What the bridge plugin calls its bridge when a configuration does not. */
const DEFAULT_BRIDGE = 'cni0';
const START_AGAIN = 'disconnect and connect the container, or start it again';

/** Ports without an owner, and owners whose port is missing. */
export function auditInterfaces(
  owners: Owners,
  others: readonly ResolvedNetwork[],
  run: RunProgram | undefined,
): Suspect[] {
  const bridge = bridgeOf(owners.network);
  if (bridge === undefined || others.some((other) => bridgeOf(other) === bridge)) return [];
  const ports = portsOf(bridge);
  const { name } = owners.network;
  const absent = owners.owners
    .filter(({ entry, stale }) => entry.state === 'added' && !stale)
    .flatMap((owner) => {
      const wanted = hostEnds(owner.entry.result).filter((port) => !ports?.includes(port));
      return wanted.map((port) => lost(port, bridge, { owner, isThere: ports !== undefined, run }));
    });
  if (!owners.certain) return absent;
  const known = new Set(owners.owners.flatMap(({ entry }) => hostEnds(entry.result)));
  const shared = owners.elsewhere.size > 0;
  const extra = (ports ?? [])
    .filter((port) => !known.has(port))
    .map((port): Suspect => {
      const detail = `a port of ${bridge} that no attachment has`;
      const suspect = {
        kind: 'interface',
        name: port,
        network: name,
        containerId: '',
        missing: false,
        detail,
      } as const;
      const ours = isHostEnd(port) && !shared;
      return ours ? { ...suspect, repair: (signal) => removeLink(port, { run, signal }) } : suspect;
    });
  return [...absent, ...extra];
}

/** An attachment's port that the bridge has not. */
function lost(
  port: string,
  bridge: string,
  { owner, isThere, run }: { readonly owner: Owner; readonly isThere: boolean; readonly run: RunProgram | undefined },
): Suspect {
  const { containerId, entry } = owner;
  const about = { kind: 'interface', name: port, network: entry.network.name, containerId, missing: true } as const;
  const master = masterOf(port);
  if (master === undefined) return { ...about, detail: `is gone: ${START_AGAIN}` };
  if (!isThere) return { ...about, detail: `its bridge ${bridge} is gone: ${START_AGAIN}` };
  if (master !== '') return { ...about, detail: `is a port of ${master}, not of ${bridge}` };
  const plugin = pluginOf(entry.network);
  if (hasVlan(plugin)) return { ...about, detail: `is no port of ${bridge} in its VLAN: ${START_AGAIN}` };
  const hairpin = plugin?.['hairpinMode'] === true;
  return {
    ...about,
    detail: `is no port of ${bridge}`,
    repair: (signal) => joinBridge(port, { bridge, hairpin }, owner, { run, signal }),
  };
}

function pluginOf({ plugins }: ResolvedNetwork): JsonObject | undefined {
  return plugins.find(({ type }) => type === 'bridge');
}

function bridgeOf(network: ResolvedNetwork): string | undefined {
  const plugin = pluginOf(network);
  if (plugin === undefined) return undefined;
  const bridge = plugin['bridge'];
  return typeof bridge === 'string' && bridge !== '' ? bridge : DEFAULT_BRIDGE;
}

/** What such a port needs beside its bridge is for the plugin alone to say. */
function hasVlan(plugin: JsonObject | undefined): boolean {
  const vlan = plugin?.['vlan'];
  return (typeof vlan === 'number' && vlan !== 0) || plugin?.['vlanTrunk'] != null;
}

/** Undefined when there is no such bridge. */
function portsOf(bridge: string): string[] | undefined {
  try {
    return readdirSync(join(NET, bridge, 'brif'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw RuntimeError.from(error, `read ports of ${bridge}`);
  }
}
