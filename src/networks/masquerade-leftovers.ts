/**
 * Masquerading that a DEL could not take away. bridge and ptp find their rules by the addresses of the interface inside:
 * when the pair or the namespace went before DEL, they say that all is well and leave the rules. Each rule names network
 * and container, so those of the attachment that is given back are known for certain, whoever else uses the network.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { HostSide } from '../cni/attacher.ts';
import type { RunProgram } from '../run-program.ts';
import { hostEnds } from './host-links.ts';
import { ownChainName, readHostRules, removeRules } from './host-rules.ts';
import { masqueradeBackend, type RuleOwner } from './masquerade.ts';
import { nftMark, readNftMasquerade, removeNftRules } from './nft-masquerade.ts';

const NET = '/sys/class/net';

/** What is to be done after a DEL, decided before it: nothing as long as the plugins have what they need. */
export function finishDel(run: RunProgram): HostSide['finishDel'] {
  return (containerId, { network, interfaceName, result }, alive) => {
    if (masqueradeBackend(network) === undefined) return undefined;
    const whole = alive && hostEnds(result).every((end) => existsSync(join(NET, end)));
    if (whole) return undefined;
    return (signal) => removeMasquerade({ containerId, network, interfaceName }, { run, signal });
  };
}

/** Removes the masquerading rules of one attachment, with their chain. Idempotent. */
export async function removeMasquerade(
  { containerId, network, interfaceName }: Omit<RuleOwner, 'addresses'> & { readonly interfaceName: string },
  parts: { readonly run: RunProgram | undefined; readonly signal: AbortSignal },
): Promise<void> {
  if (masqueradeBackend(network) === 'nftables') {
    const mark = nftMark(network.name, interfaceName, containerId);
    const { rules } = await readNftMasquerade(parts);
    const own = rules.filter(({ comment }) => comment.startsWith(mark));
    if (own.length > 0) await removeNftRules(own, parts);
    return;
  }
  const chain = ownChainName('CNI-', network.name, containerId);
  const rules = await readHostRules(parts.run, parts.signal);
  await removeRules(
    rules.filter(({ table, ownChain }) => table === 'nat' && ownChain === chain),
    parts,
  );
}
