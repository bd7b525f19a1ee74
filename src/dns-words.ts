/**
 * Words of name resolution, as they may stand in /etc/hosts and /etc/resolv.conf: whatever passes here is one word of
 * one line. Pure.
 */

const DOMAIN = /^(?=.{1,254}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?$|^\.$/;
const OPTION = /^[A-Za-z0-9][A-Za-z0-9_:.-]{0,63}$/;
const HOST = /^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*$/;
const ADDRESS = /^\d+(\.\d+)*$/;

/** Programs use no more name servers (MAXNS of resolv.h). */
export const MAX_NAMESERVERS = 3;

/** A domain to search in: "example.org", or "." for the root. */
export function isSearchDomain(text: string): boolean {
  return DOMAIN.test(text);
}

/** An option of a resolver: "ndots:2", "rotate". */
export function isResolverOption(text: string): boolean {
  return OPTION.test(text);
}

/** A name of a host: letters, digits, "-", "_" and "." between labels; what programs would read as an address is none. */
export function isHostName(text: string): boolean {
  return HOST.test(text) && !ADDRESS.test(text);
}
