/**
 * The host's packet rules as iptables-save writes them, and changes to them in one transaction a table. Knows the marks
 * that the reference plugins leave: comments with network and container, chains named by a hash of both.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { RuntimeError } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import type { Family } from '../ipam/address.ts';
import type { RunProgram } from '../run-program.ts';

export type TableName = 'nat' | 'filter';

/** One rule, or one chain of its own when `rule` is empty. */
export interface HostRule {
  readonly family: Family;
  readonly table: TableName;
  readonly chain: string;
  /** "-A CHAIN ..." as iptables-save writes it; empty for the chain itself. */
  readonly rule: string;
  /** Network and container of the comment, where there is one of that form. */
  readonly network: string;
  readonly containerId: string;
  /** The chain of one attachment that it leads to or stands in; empty when there is none. */
  readonly ownChain: string;
}

/** A chain of one attachment: those that all share have no hash. */
const OWN_CHAIN = /\bCNI-(?:[DS]N-)?[0-9a-f]{20,}\b/;
const CHAIN_LENGTH = 28;
const TABLES: readonly TableName[] = ['nat', 'filter'];

/** "CNI-", or "CNI-DN-" of portmap, and as much of a hash of network and container as fits. */
export function ownChainName(prefix: 'CNI-' | 'CNI-DN-', network: string, containerId: string): string {
  const hash = createHash('sha512').update(`${network}${containerId}`).digest('hex');
  return `${prefix}${hash}`.slice(0, CHAIN_LENGTH);
}

/** Rules of the host; none where iptables is not installed, since then no plugin made any. */
export async function readHostRules(run: RunProgram | undefined, signal: AbortSignal): Promise<HostRule[]> {
  const families: readonly Family[] = existsSync('/proc/sys/net/ipv6') ? [4, 6] : [4];
  const reads = families.flatMap((family) =>
    TABLES.map(async (table) => {
      const text = await tableText(family, table, run, signal);
      return text.split('\n').flatMap((line) => parseRule(family, table, line) ?? []);
    }),
  );
  return (await Promise.all(reads)).flat();
}

/** A line of iptables-save; undefined when it is neither a rule nor a chain of an attachment. */
export function parseRule(family: Family, table: TableName, line: string): HostRule | undefined {
  const ownChain = OWN_CHAIN.exec(line)?.[0] ?? '';
  if (line.startsWith(':')) {
    if (ownChain === '') return undefined;
    return { family, table, chain: ownChain, rule: '', network: '', containerId: '', ownChain };
  }
  const chain = /^-A (\S+) /.exec(line)?.[1];
  if (chain === undefined) return undefined;
  const comment = /--comment "((?:[^"\\]|\\.)*)"/.exec(line)?.[1]?.replaceAll('\\"', '"') ?? '';
  const [, network = '', containerId = ''] = /name: "([^"]+)" id: "([^"]+)"/.exec(comment) ?? [];
  return { family, table, chain, rule: line, network, containerId, ownChain };
}

/**
 * Applies lines of iptables-restore to a table, all or none; other rules stay.
 * @throws {RuntimeError} INTERNAL with the program's words
 */
export async function changeRules(
  family: Family,
  table: TableName,
  lines: readonly string[],
  { run, signal }: { readonly run: RunProgram | undefined; readonly signal: AbortSignal },
): Promise<void> {
  const input = `*${table}\n${lines.join('\n')}\nCOMMIT\n`;
  const options = { input, ...(run === undefined ? {} : { run }) };
  await hostCommand(`${program(family)}-restore`, ['--noflush', '--wait', '5'], signal, options);
}

/**
 * Removes rules, with the chains of attachments that they lead to or stand in, all of a table or none.
 * @throws {RuntimeError} INTERNAL when one has gone meanwhile, among others
 */
export async function removeRules(
  rules: readonly HostRule[],
  parts: { readonly run: RunProgram | undefined; readonly signal: AbortSignal },
): Promise<void> {
  for (const { family, table } of tablesOf(rules)) {
    const here = rules.filter((rule) => rule.family === family && rule.table === table);
    const chains = [...new Set(here.map(({ ownChain }) => ownChain))].filter((chain) => chain !== '');
    // Rules inside a chain go with it.
    const outside = here.filter(({ rule, chain }) => rule !== '' && !chains.includes(chain));
    const deletions = outside.map(({ rule }) => `-D${rule.slice(2)}`);
    const emptied = chains.map((chain) => `:${chain} - [0:0]`);
    await changeRules(family, table, [...emptied, ...deletions, ...chains.map((chain) => `-X ${chain}`)], parts);
  }
}

function tablesOf(rules: readonly HostRule[]): readonly { family: Family; table: TableName }[] {
  const families: readonly Family[] = [4, 6];
  return families
    .flatMap((family) => TABLES.map((table) => ({ family, table })))
    .filter(({ family, table }) => rules.some((rule) => rule.family === family && rule.table === table));
}

async function tableText(
  family: Family,
  table: TableName,
  run: RunProgram | undefined,
  signal: AbortSignal,
): Promise<string> {
  try {
    return await hostCommand(`${program(family)}-save`, ['-t', table], signal, run === undefined ? {} : { run });
  } catch (error) {
    if (error instanceof RuntimeError && error.code === 'NOT_FOUND') return '';
    throw error;
  }
}

function program(family: Family): string {
  return family === 4 ? 'iptables' : 'ip6tables';
}
