/** What texts of settings mean, one function a setting. Pure; errors name the flag (config.ts). */
import { isIPv4 } from 'node:net';
import { invalid } from './errors.ts';

export const CNI_COMMANDS = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'] as const;

/** Chains of CNI plugins that run side by side, at most; 0: any number. */
export interface CniConcurrency {
  /** On each network that is not named. */
  readonly everywhere: number;
  /** On one network, by its name. */
  readonly networks: ReadonlyMap<string, number>;
}

const MAX_TIMEOUT_SECONDS = 3600;

/** "10.64.0.0/12" */
export function pool(text: string): string {
  const [address = '', prefix = '', ...rest] = text.split('/');
  const fits = /^\d{1,2}$/.test(prefix) && Number(prefix) >= 8 && Number(prefix) <= 30;
  if (isIPv4(address) && fits && rest.length === 0) return text;
  throw invalid('network-pool', `${JSON.stringify(text)} is no IPv4 subnet of 8 to 30 bits such as "10.64.0.0/12"`);
}

/** "ADD=90" */
export function cniTimeout(text: string): [command: string, timeoutMs: number] {
  const [command = '', seconds = '', ...rest] = text.split('=');
  const known = CNI_COMMANDS.some((name) => name === command);
  if (!known || rest.length > 0 || !/^\d{1,4}$/.test(seconds)) {
    throw invalid('cni-timeout', `${JSON.stringify(text)} must be COMMAND=SECONDS, one of ${CNI_COMMANDS.join(', ')}`);
  }
  if (Number(seconds) < 1 || Number(seconds) > MAX_TIMEOUT_SECONDS) {
    throw invalid('cni-timeout', `${JSON.stringify(text)} is outside 1 to ${MAX_TIMEOUT_SECONDS} seconds`);
  }
  return [command, Number(seconds) * 1000];
}

/** "4" for every network, "front=2" for one; of two for the same the last one counts. */
export function cniConcurrency(texts: readonly string[]): CniConcurrency {
  const networks = new Map<string, number>();
  let everywhere = 0;
  for (const text of texts) {
    const [, name, digits = ''] = /^(?:([a-zA-Z0-9][a-zA-Z0-9_.-]*)=)?(\d{1,6})$/.exec(text) ?? [];
    if (digits === '') throw invalid('cni-concurrency', `${JSON.stringify(text)} must be N or NETWORK=N`);
    if (name === undefined) everywhere = Number(digits);
    else networks.set(name, Number(digits));
  }
  return { everywhere, networks };
}

/**
 * Longest root directory, in bytes: paths of volumes below it are 63 bytes longer, and CSI plugins need to take 128 only
 * (CSI "Size Limits").
 */
export const MAX_ROOT_BYTES = 65;

/** A root directory below which volumes can be mounted. @throws {RuntimeError} INVALID_ARGUMENT */
export function rootPath(path: string): string {
  const bytes = Buffer.byteLength(path);
  if (bytes <= MAX_ROOT_BYTES) return path;
  const reason = `paths of volumes below it would be longer than the 128 bytes that CSI plugins take`;
  throw invalid('root', `${path} has ${bytes} bytes, at most ${MAX_ROOT_BYTES} are possible: ${reason}`);
}

const MAX_CONTROLLER_CALLS = 1000;

/** How many calls a controller is given at a time: 1 to 1000. @throws {RuntimeError} INVALID_ARGUMENT */
export function controllerCalls(calls: number): number {
  if (calls >= 1 && calls <= MAX_CONTROLLER_CALLS) return calls;
  throw invalid('csi-controller-calls', `${calls} is outside 1 to ${MAX_CONTROLLER_CALLS}`);
}
