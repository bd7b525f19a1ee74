/** Subnets this host can reach by a route of its own, read from the kernel's tables: a network must not cover one. */
import { readFileSync } from 'node:fs';
import { RuntimeError, systemCode } from '../errors.ts';
import { formatAddress, parseSubnet, type Subnet } from '../ipam/address.ts';

/** Destinations of the main routing tables, less default routes and what every interface has. */
export function hostRoutes(): Subnet[] {
  return [...parseRoutes4(textOf('/proc/net/route')), ...parseRoutes6(textOf('/proc/net/ipv6_route'))];
}

/** The table of /proc/net/route: interface, destination, ..., mask in the eighth field, as words of this machine. */
export function parseRoutes4(text: string): Subnet[] {
  const lines = text.split('\n').slice(1);
  return lines.flatMap((line) => {
    const [, destination = '', , , , , , mask = ''] = line.split(/\s+/);
    const prefix = onesOf(wordOf(mask));
    const subnet = parseSubnet(`${formatAddress({ family: 4, value: wordOf(destination) })}/${prefix}`);
    return destination === '' || prefix === 0 || subnet === undefined ? [] : [subnet];
  });
}

/** The table of /proc/net/ipv6_route: destination and prefix length come first. */
export function parseRoutes6(text: string): Subnet[] {
  return text.split('\n').flatMap((line) => {
    const [destination = '', length = ''] = line.split(/\s+/);
    if (!/^[0-9a-f]{32}$/.test(destination)) return [];
    const address = destination.match(/.{4}/g)?.join(':') ?? '';
    const prefix = Number.parseInt(length, 16);
    const subnet = parseSubnet(`${address}/${prefix}`);
    // Link-local and multicast routes are there for every interface.
    return subnet === undefined || prefix === 0 || /^(fe[89ab]|ff)/.test(destination) ? [] : [subnet];
  });
}

/** A word in the byte order of the little-endian machines that Berth runs on. */
function wordOf(hex: string): bigint {
  const bytes = hex.match(/[0-9A-Fa-f]{2}/g) ?? [];
  return bytes.length === 4 ? BigInt(`0x${bytes.toReversed().join('')}`) : 0n;
}

function onesOf(mask: bigint): number {
  return mask.toString(2).replaceAll('0', '').length;
}

/** Empty where the kernel has no such protocol. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return '';
    throw RuntimeError.from(error, `read ${path}`);
  }
}
