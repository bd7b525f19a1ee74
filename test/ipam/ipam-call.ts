/** Calls of the allocator as a plugin makes them, without a plugin. */
import type { Ipam } from '../../src/ipam/ipam.ts';
import { IpamError } from '../../src/ipam/ipam-error.ts';
import { type IpamCall, readIpamRequest } from '../../src/ipam/ipam-request.ts';

/** What a configuration may say beside its name and version. */
export interface CallOptions {
  readonly container?: string;
  readonly interfaceName?: string;
  readonly args?: string;
  readonly network?: string;
  readonly cniVersion?: string;
  readonly ipam?: object;
  /** Members of the configuration beside `ipam`. */
  readonly more?: object;
}

/** A call with 10.87.30.0/29 unless the options say otherwise: five addresses to give. */
export function callOf(command: string, options: CallOptions = {}): IpamCall {
  const variables = new Map([
    ['CNI_COMMAND', command],
    ['CNI_CONTAINERID', options.container ?? 'c1'],
    ['CNI_IFNAME', options.interfaceName ?? 'eth0'],
    ['CNI_ARGS', options.args ?? ''],
  ]);
  const ipam = { type: 'berth-ipam', ...(options.ipam ?? { ranges: [[{ subnet: '10.87.30.0/29' }]] }) };
  const config = { cniVersion: options.cniVersion ?? '1.0.0', name: options.network ?? 'net', ipam, ...options.more };
  return { variables, stdin: JSON.stringify(config) };
}

/** Addresses that ADD gives, with their prefix lengths. */
export function add(ipam: Ipam, options: CallOptions = {}): string[] {
  const result: unknown = ipam.handle(readIpamRequest(callOf('ADD', options)));
  if (typeof result !== 'object' || result === null || !('ips' in result) || !Array.isArray(result.ips)) return [];
  return result.ips.map(({ address }: { readonly address: string }) => address);
}

/** Carries out a call that answers nothing. */
export function call(ipam: Ipam, command: string, options: CallOptions = {}): void {
  ipam.handle(readIpamRequest(callOf(command, options)));
}

/** The code and the text of the failure that `work` ends in. */
export function failureOf(work: () => unknown): { readonly code: number; readonly message: string } {
  try {
    work();
  } catch (error) {
    const failure = IpamError.of(error);
    return { code: failure.cniCode, message: failure.message };
  }
  throw new Error('the call succeeded');
}
