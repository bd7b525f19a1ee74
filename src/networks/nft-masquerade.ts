/**
 * The masquerading rules that bridge and ptp make with `ipMasqBackend: nftables`: one table of the host, one rule for each
 * address of a container, found again by its comment. Their ADD cannot be run again for an interface that is there;
 * these rules can be made again without it, as the plugins make them, so that their DEL finds them.
 */
import { createHash } from 'node:crypto';
import * as z from 'zod';
import { RuntimeError } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import { parseAddressOrCidr, parseSubnet } from '../ipam/address.ts';
import type { RunProgram } from '../run-program.ts';
import { masqueradeBackend, type RuleOwner } from './masquerade.ts';
import { formatSubnet } from './subnet-choice.ts';

const TABLE = 'inet cni_plugins_masquerade';
const CHAIN = 'masq_checks';
const HOOK = 'postrouting';
/** Longest comment the plugins write. */
const COMMENT_LENGTH = 128;
const HASH_LENGTH = 16;

/** A rule that the plugins made for one address. */
export interface NftRule {
  readonly handle: number;
  readonly comment: string;
  /** Network and container as the comment names them; the last may be cut short. */
  readonly network: string;
  readonly containerId: string;
  /** Address it masquerades; empty when it names none. */
  readonly source: string;
}

/** What the host has of the table. */
export interface NftMasquerade {
  /** Packets are sent through the rules. */
  readonly hooked: boolean;
  readonly rules: readonly NftRule[];
}

/** A rule that is to be there. */
export interface WantedNftRule {
  readonly source: string;
  readonly comment: string;
  readonly text: string;
}

/** An attachment whose rules are asked for. */
export interface NftRuleOwner extends RuleOwner {
  readonly interfaceName: string;
}

/** The rules an attachment has, one for each address; none unless its network masquerades by nftables. */
export function nftMasqueradeRules(owner: NftRuleOwner): WantedNftRule[] {
  if (masqueradeBackend(owner.network) !== 'nftables') return [];
  const comment = commentOf(owner);
  return owner.addresses.flatMap((cidr) => {
    const [address, subnet] = [parseAddressOrCidr(cidr), parseSubnet(cidr)];
    if (address === undefined || subnet === undefined) return [];
    const source = cidr.split('/')[0] ?? '';
    const word = address.family === 4 ? 'ip' : 'ip6';
    const match = `${word} saddr == ${source} ${word} daddr != ${formatSubnet(subnet)}`;
    return [{ source, comment, text: `${match} masquerade comment "${comment}"` }];
  });
}

/** Wanted rules that are not there, all of them when no packet comes to any. */
export function missingNftRules(wanted: readonly WantedNftRule[], present: NftMasquerade): readonly WantedNftRule[] {
  if (!present.hooked) return wanted;
  return wanted.filter(
    ({ source, comment }) => !present.rules.some((rule) => rule.source === source && rule.comment === comment),
  );
}

/**
 * Makes the rules of one attachment, in one transaction, instead of those it has. Table and chains come with them.
 * @throws {RuntimeError} INTERNAL with the program's words
 */
export async function makeNftRules(
  wanted: readonly WantedNftRule[],
  present: NftMasquerade,
  parts: NftParts,
): Promise<void> {
  const comments = new Set(wanted.map(({ comment }) => comment));
  const stale = present.rules.filter(({ comment }) => comments.has(comment));
  await nft(
    [
      `add table ${TABLE} { comment "Masquerading for plugins from github.com/containernetworking/plugins" ; }`,
      `add chain ${TABLE} ${CHAIN} { comment "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet" ; }`,
      `add chain ${TABLE} ${HOOK} { type nat hook postrouting priority 100 ; }`,
      `flush chain ${TABLE} ${HOOK}`,
      `add rule ${TABLE} ${HOOK} ip daddr == 224.0.0.0/4 return`,
      `add rule ${TABLE} ${HOOK} ip6 daddr == ff00::/8 return`,
      `add rule ${TABLE} ${HOOK} goto ${CHAIN}`,
      ...stale.map(deletion),
      ...wanted.map(({ text }) => `add rule ${TABLE} ${CHAIN} ${text}`),
    ],
    parts,
  );
}

/** Removes rules, all or none. @throws {RuntimeError} INTERNAL when one has gone meanwhile, among others */
export async function removeNftRules(rules: readonly NftRule[], parts: NftParts): Promise<void> {
  await nft(rules.map(deletion), parts);
}

export interface NftParts {
  readonly run: RunProgram | undefined;
  readonly signal: AbortSignal;
}

/** The table as it is; nothing where there is none, and where nftables is not installed. */
export async function readNftMasquerade({ run, signal }: NftParts): Promise<NftMasquerade> {
  const options = run === undefined ? {} : { run };
  const list = async (...words: readonly string[]): Promise<readonly Listed[]> =>
    decoded(await hostCommand('nft', ['-j', 'list', ...words], signal, options));
  try {
    const tables = await list('tables', 'inet');
    if (!tables.some(({ table }) => `${table?.family} ${table?.name}` === TABLE)) return NOTHING;
    const all = (await list('table', ...TABLE.split(' '))).flatMap(({ rule }) => rule ?? []);
    const hooked = all.some(({ chain, expr }) => chain === HOOK && JSON.stringify(expr).includes(`"${CHAIN}"`));
    return { hooked, rules: all.filter(({ chain }) => chain === CHAIN).map(ruleOf) };
  } catch (error) {
    if (error instanceof RuntimeError && error.code === 'NOT_FOUND') return NOTHING;
    throw error;
  }
}

/** How comments begin that name an attachment. */
export function nftMark(network: string, interfaceName: string, containerId: string): string {
  return `${hash(network)}-${hash(`${interfaceName}:${containerId}`)}`;
}

/** How comments begin that name a network. */
export function nftNetworkMark(network: string): string {
  return `${hash(network)}-`;
}

const NOTHING: NftMasquerade = { hooked: false, rules: [] };

const listedSchema = z.object({
  nftables: z.array(
    z.object({
      table: z.object({ family: z.string(), name: z.string() }).optional(),
      rule: z
        .object({
          chain: z.string(),
          handle: z.number(),
          comment: z.string().default(''),
          expr: z.array(z.unknown()).default([]),
        })
        .optional(),
    }),
  ),
});

type Listed = z.infer<typeof listedSchema>['nftables'][number];
type ListedRule = NonNullable<Listed['rule']>;

const sourceSchema = z.object({
  match: z.object({ left: z.object({ payload: z.object({ field: z.literal('saddr') }) }), right: z.string() }),
});

function decoded(text: string): readonly Listed[] {
  try {
    return listedSchema.parse(JSON.parse(text)).nftables;
  } catch (error) {
    throw new RuntimeError('INTERNAL', 'nft lists its rules in a form that is not known', { cause: error });
  }
}

function ruleOf({ handle, comment, expr }: ListedRule): NftRule {
  const [, network = '', containerId = ''] = /, net: (.*), if: [^,]*, id: (.*)$/.exec(comment) ?? [];
  const [source = ''] = expr.flatMap((part) => {
    const parsed = sourceSchema.safeParse(part);
    return parsed.success ? [parsed.data.match.right] : [];
  });
  return { handle, comment, network, containerId, source };
}

function deletion({ handle }: NftRule): string {
  return `delete rule ${TABLE} ${CHAIN} handle ${handle}`;
}

function commentOf({ network, interfaceName, containerId }: NftRuleOwner): string {
  const mark = nftMark(network.name, interfaceName, containerId);
  return `${mark}, net: ${network.name}, if: ${interfaceName}, id: ${containerId}`.slice(0, COMMENT_LENGTH);
}

function hash(text: string): string {
  return createHash('sha512').update(text).digest('hex').slice(0, HASH_LENGTH);
}

async function nft(lines: readonly string[], { run, signal }: NftParts): Promise<void> {
  const input = `${lines.join('\n')}\n`;
  await hostCommand('nft', ['-f', '-'], signal, { input, ...(run === undefined ? {} : { run }) });
}
