/** The masquerading rules of nftables beside the records of one network. A rule tells whose it is by its comment. */
import type { ResolvedNetwork } from '../cni/network.ts';
import { parseAddressOrCidr } from '../ipam/address.ts';
import type { RunProgram } from '../run-program.ts';
import { ELSEWHERE, type Owners, type Suspect } from './audit-finding.ts';
import { subnetsOf } from './network-subnets.ts';
import {
  missingNftRules,
  type NftMasquerade,
  type NftRule,
  nftMark,
  nftMasqueradeRules,
  nftNetworkMark,
  removeNftRules,
} from './nft-masquerade.ts';

/** Rules without an owner, and owners without their rules. What is missing has no `repair`: a reload brings it back. */
export function auditNftRules(owners: Owners, present: NftMasquerade, run: RunProgram | undefined): Suspect[] {
  return [...strange(owners, present, run), ...absent(owners, present)];
}

/** Rules that name the network, and an address of it: another daemon may have one of the same name. */
export function nftRulesNaming(network: ResolvedNetwork, { rules }: NftMasquerade): readonly NftRule[] {
  const subnets = subnetsOf(network);
  return rules.filter(({ comment, source }) => {
    const address = parseAddressOrCidr(source);
    if (!comment.startsWith(nftNetworkMark(network.name)) || address === undefined) return false;
    return subnets.some(
      ({ family, first, last }) => family === address.family && first <= address.value && address.value <= last,
    );
  });
}

/** One finding for each container that rules name and no record. */
function strange(
  { network, owners, ids, certain, elsewhere }: Owners,
  present: NftMasquerade,
  run: RunProgram | undefined,
): Suspect[] {
  const marks = owners.map(({ entry, containerId }) => nftMark(network.name, entry.interfaceName, containerId));
  const lost = nftRulesNaming(network, present).filter(
    ({ comment, containerId }) => !ids.has(containerId) && !marks.some((mark) => comment.startsWith(mark)),
  );
  return [...Map.groupBy(lost, ({ containerId }) => containerId)].map(([containerId, rules]) => {
    const name = 'masq_checks';
    const about = { kind: 'rule', name, network: network.name, containerId, missing: false } as const;
    if (elsewhere.has(containerId)) return { ...about, detail: ELSEWHERE };
    const detail = `${rules.length} rules of nftables name a container that is not attached`;
    // A comment that was cut short does not tell for certain whose it is.
    if (!certain) return { ...about, detail };
    return { ...about, detail, repair: (signal: AbortSignal) => removeNftRules(rules, { run, signal }) };
  });
}

function absent({ network, owners }: Owners, present: NftMasquerade): Suspect[] {
  return owners
    .filter(({ entry, stale }) => entry.state === 'added' && !stale)
    .filter(({ containerId, entry, addresses }) => {
      const wanted = nftMasqueradeRules({ ...entry, containerId, addresses });
      return missingNftRules(wanted, present).length > 0;
    })
    .map(({ containerId }) => ({
      ...({ kind: 'rule', name: 'masquerade', network: network.name, containerId, missing: true } as const),
      detail: 'rules of nftables are missing: berth network reload brings them back',
    }));
}
