/**
 * Pairs of interfaces (veth) as the host sees them, with the addresses and routes that ptp gives them, read by `ip`; and
 * what an audit changes about them.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import * as z from 'zod';
import type { CniResult } from '../cni/protocol.ts';
import { RuntimeError, systemCode } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import { parseAddress } from '../ipam/address.ts';
import type { RunProgram } from '../run-program.ts';
import type { Owner } from './audit-finding.ts';

/** How plugins name the host's end of a pair: nothing else is ever removed or changed. */
const HOST_END = /^veth[0-9a-f]{8}$/;
const NET = '/sys/class/net';

/** The host's end of a pair. */
export interface HostLink {
  readonly name: string;
  /** The bridge or bond it belongs to; empty when it stands alone. */
  readonly master: string;
  /** Addresses of its own, without prefix lengths. */
  readonly addresses: readonly string[];
  /** Single addresses that are routed over it, less those that the kernel routes by itself. */
  readonly routes: readonly string[];
}

/** How changes are made. */
export interface Changing {
  readonly run: RunProgram | undefined;
  readonly signal: AbortSignal;
}

const linksSchema = z.array(
  z.looseObject({
    ifname: z.string().optional(),
    master: z.string().optional(),
    addr_info: z.array(z.looseObject({ local: z.string().optional() })).default([]),
  }),
);
const routesSchema = z.array(
  z.looseObject({ dst: z.string().optional(), dev: z.string().optional(), protocol: z.string().optional() }),
);
const peerSchema = z.tuple([z.looseObject({ link_index: z.int() })]);

export function isHostEnd(name: string): boolean {
  return HOST_END.test(name);
}

/** Ends on the host of an attachment, as the result of ADD names them. */
export function hostEnds(result: CniResult | undefined): string[] {
  const outside = (result?.interfaces ?? []).filter(({ sandbox }) => sandbox == null || sandbox === '');
  return outside.map(({ name }) => name).filter(isHostEnd);
}

/** All ends of pairs that are named as plugins name theirs. */
export async function readHostLinks(run: RunProgram | undefined, signal: AbortSignal): Promise<HostLink[]> {
  const ask = (...args: readonly string[]): Promise<string> => hostCommand('ip', ['-j', ...args], signal, by(run));
  const [links, ...routes] = await Promise.all([
    ask('addr', 'show', 'type', 'veth'),
    ask('-4', 'route', 'show'),
    ask('-6', 'route', 'show'),
  ]);
  return parseHostLinks(links, routes);
}

/** From what `ip -j addr` and `ip -j route` print, one text for each family of routes. */
export function parseHostLinks(linksText: string, routeTexts: readonly string[]): HostLink[] {
  // Without anything to tell some versions print nothing at all.
  const routes = routeTexts.flatMap((text) => routesSchema.parse(JSON.parse(text || '[]')));
  return linksSchema.parse(JSON.parse(linksText || '[]')).flatMap(({ ifname, master, addr_info }) => {
    if (ifname === undefined || !isHostEnd(ifname)) return [];
    const own = routes.filter(({ dev, protocol }) => dev === ifname && protocol !== 'kernel');
    return {
      name: ifname,
      master: master ?? '',
      addresses: addr_info.flatMap(({ local }) => (local === undefined ? [] : [local])),
      // A single address is printed without a prefix length.
      routes: own.flatMap(({ dst }) => (dst !== undefined && parseAddress(dst) !== undefined ? [dst] : [])),
    };
  });
}

/** The bridge an interface is a port of: empty when of none, undefined when there is no such interface. */
export function masterOf(name: string): string | undefined {
  try {
    return basename(readlinkSync(join(NET, name, 'master')));
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `read the bridge of ${name}`);
    return indexOf(name) === undefined ? undefined : '';
  }
}

/** Removes an interface, and its peer and routes with it. */
export async function removeLink(name: string, { run, signal }: Changing): Promise<void> {
  await hostCommand('ip', ['link', 'delete', name], signal, by(run));
}

/**
 * Makes the host's end of an attachment a port of a bridge again.
 * @throws {RuntimeError} FAILED_PRECONDITION when it is not the other end of the container's interface
 */
export async function joinBridge(
  port: string,
  { bridge, hairpin }: { readonly bridge: string; readonly hairpin: boolean },
  owner: Owner,
  changing: Changing,
): Promise<void> {
  await requirePair(port, owner, changing);
  const { run, signal } = changing;
  await hostCommand('ip', ['link', 'set', 'dev', port, 'master', bridge, 'up'], signal, by(run));
  if (!hairpin) return;
  await hostCommand('ip', ['link', 'set', 'dev', port, 'type', 'bridge_slave', 'hairpin', 'on'], signal, by(run));
}

/**
 * Gives the host's end of a pair its gateway and its route to one address again, as ptp gives them.
 * @throws {RuntimeError} FAILED_PRECONDITION when it is not the other end of the container's interface
 */
export async function routeTo(
  link: string,
  { address, gateway }: { readonly address: string; readonly gateway: string },
  owner: Owner,
  changing: Changing,
): Promise<void> {
  await requirePair(link, owner, changing);
  const { run, signal } = changing;
  await hostCommand('ip', ['link', 'set', 'dev', link, 'up'], signal, by(run));
  const words = address.includes(':') ? ['nodad'] : [];
  await hostCommand('ip', ['addr', 'replace', gateway, 'dev', link, ...words], signal, by(run));
  const scope = address.includes(':') ? [] : ['scope', 'host'];
  await hostCommand('ip', ['route', 'replace', address, 'dev', link, ...scope], signal, by(run));
}

/** Takes a route away. */
export async function removeRoute(link: string, address: string, { run, signal }: Changing): Promise<void> {
  await hostCommand('ip', ['route', 'delete', address, 'dev', link], signal, by(run));
}

/** An interface of that name may be another one by now: both ends know each other by their numbers. */
async function requirePair(link: string, { entry, netnsPath }: Owner, { run, signal }: Changing): Promise<void> {
  const inside = ['ip', '-j', 'link', 'show', 'dev', entry.interfaceName];
  const text = await hostCommand('nsenter', [`--net=${netnsPath}`, ...inside], signal, by(run));
  const peer = peerSchema.safeParse(JSON.parse(text));
  if (peer.success && peer.data[0].link_index === indexOf(link)) return;
  throw new RuntimeError(
    'FAILED_PRECONDITION',
    `${link} is not the other end of ${entry.interfaceName}: disconnect and connect the container`,
  );
}

/** The number of an interface; undefined when there is none of that name. */
function indexOf(name: string): number | undefined {
  try {
    return Number(readFileSync(join(NET, name, 'ifindex'), 'utf8'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw RuntimeError.from(error, `look at interface ${name}`);
  }
}

function by(run: RunProgram | undefined): { readonly run?: RunProgram } {
  return run === undefined ? {} : { run };
}
