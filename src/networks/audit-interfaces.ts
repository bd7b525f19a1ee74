/** The ports of a network's bridge beside the records. Only of a bridge that no other network uses. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { ResolvedNetwork } from '../cni/network.ts';
import { RuntimeError, systemCode } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import type { RunProgram } from '../run-program.ts';
import type { Owner, Owners, Suspect } from './audit-finding.ts';

const NET = '/sys/class/net';
/** What the bridge plugin calls its bridge when a configuration does not. */
const DEFAULT_BRIDGE = 'cni0';
/** How plugins name the host's end of a pair: nothing else is ever removed. */
const HOST_END = /^veth[0-9a-f]{8}$/;

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
      const wanted = hostEnds(owner).filter((port) => !ports.includes(port));
      const detail = `is no port of ${bridge}: disconnect and connect the container, or start it again`;
      return wanted.map((port) => found(port, name, owner.containerId, { missing: true, detail }));
    });
  if (!owners.certain) return absent;
  const known = new Set(owners.owners.flatMap(hostEnds));
  const shared = owners.elsewhere.size > 0;
  const extra = ports
    .filter((port) => !known.has(port))
    .map((port) => {
      const suspect = found(port, name, '', { missing: false, detail: `a port of ${bridge} that no attachment has` });
      const ours = HOST_END.test(port) && !shared;
      return ours ? { ...suspect, repair: (signal: AbortSignal) => remove(port, run, signal) } : suspect;
    });
  return [...absent, ...extra];
}

function found(
  name: string,
  network: string,
  containerId: string,
  { missing, detail }: { readonly missing: boolean; readonly detail: string },
): Suspect {
  return { kind: 'interface', name, network, containerId, missing, detail };
}

function bridgeOf({ plugins }: ResolvedNetwork): string | undefined {
  const plugin = plugins.find(({ type }) => type === 'bridge');
  if (plugin === undefined) return undefined;
  const bridge = plugin['bridge'];
  return typeof bridge === 'string' && bridge !== '' ? bridge : DEFAULT_BRIDGE;
}

/** Ends on the host, as the result of ADD names them, less the bridge. */
function hostEnds({ entry }: Owner): string[] {
  const bridge = bridgeOf(entry.network);
  const outside = (entry.result?.interfaces ?? []).filter(({ sandbox }) => sandbox == null || sandbox === '');
  return outside.map(({ name }) => name).filter((name) => name !== bridge);
}

function portsOf(bridge: string): string[] {
  try {
    return readdirSync(join(NET, bridge, 'brif'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw RuntimeError.from(error, `read ports of ${bridge}`);
  }
}

async function remove(port: string, run: RunProgram | undefined, signal: AbortSignal): Promise<void> {
  await hostCommand('ip', ['link', 'delete', port], signal, run === undefined ? {} : { run });
}
