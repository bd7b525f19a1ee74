/**
 * What people have plugins told beside what Berth tells them: CNI_ARGS and capabilities, for one network of a container
 * or for all of them. An argument goes to every plugin of the chain, which may pass over it; a capability goes to those
 * that declare it, and one that nobody declares is refused, since nobody would act on it. Has no effects.
 */
import { invalid } from '../errors.ts';
import type { NetworkOption } from '../runtime/container.ts';
import { checkValues } from './attachment.ts';
import { hasCapability, type ResolvedNetwork } from './network.ts';
import { type JsonObject, printable } from './protocol.ts';

/** CNI_ARGS and capability arguments of one attachment. */
export interface PluginArguments {
  readonly args: readonly (readonly [key: string, value: string])[];
  readonly capabilityArgs: JsonObject;
}

const MAX_OPTIONS = 64;
const MAX_VALUE_BYTES = 16 * 1024;
const KEY = /^[A-Za-z0-9][A-Za-z0-9_./-]{0,127}$/;
/** What has a meaning to Berth itself, and what says it instead. */
const OWN_CAPABILITIES: ReadonlyMap<string, string> = new Map([
  ['portMappings', 'use --publish'],
  ['cgroupPath', "plugins that declare it are told the container's"],
]);

/**
 * Refuses options that make no sense, or that no network of the container can serve.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the flag
 */
export function checkNetworkOptions(options: readonly NetworkOption[], networks: readonly ResolvedNetwork[]): void {
  if (options.length > MAX_OPTIONS) throw invalid('network-arg', `more than ${MAX_OPTIONS} options`);
  for (const option of options) {
    const { kind, name, network } = option;
    const flag = flagOf(option);
    if (!KEY.test(name)) throw invalid(flag, `${quoted(name)} must match ${KEY.source}`);
    if (Buffer.byteLength(option.value) > MAX_VALUE_BYTES) {
      throw invalid(flag, `the value of ${name} is longer than ${MAX_VALUE_BYTES} bytes`);
    }
    const served = networks.filter((candidate) => network === '' || candidate.name === network);
    if (served.length === 0) throw invalid(flag, `${quoted(network)} is no network of the container`);
    if (kind === 'capability') checkCapability(option, served);
    else checkValues(flag, option.value);
  }
}

function checkCapability(option: NetworkOption, served: readonly ResolvedNetwork[]): void {
  const { name } = option;
  const instead = OWN_CAPABILITIES.get(name);
  if (instead !== undefined) throw invalid(flagOf(option), `${name} is Berth's to give: ${instead}`);
  checkValues(flagOf(option), decodedValue(option));
  if (served.some((network) => hasCapability(network, name))) return;
  const names = served.map((network) => network.name).join(', ');
  throw invalid(flagOf(option), `no plugin of ${names} declares the capability ${name}`);
}

/** What the options come to on one network; of two of the same name the last one counts. */
export function optionsFor(network: ResolvedNetwork, options: readonly NetworkOption[]): PluginArguments {
  const here = options.filter((option) => option.network === '' || option.network === network.name);
  const args = new Map(here.flatMap(({ kind, name, value }) => (kind === 'argument' ? [[name, value] as const] : [])));
  const offered = here.filter(({ kind, name }) => kind === 'capability' && hasCapability(network, name));
  return {
    args: withIgnoreUnknown([...args]),
    capabilityArgs: Object.fromEntries(offered.map((option) => [option.name, decodedValue(option)])),
  };
}

/** Plugins that do not know a key refuse the call unless told otherwise. */
export function withIgnoreUnknown(args: PluginArguments['args']): PluginArguments['args'] {
  const told = args.length === 0 || args.some(([key]) => key === 'IgnoreUnknown');
  return told ? args : [['IgnoreUnknown', '1'], ...args];
}

function decodedValue(option: NetworkOption): unknown {
  try {
    return JSON.parse(option.value);
  } catch {
    throw invalid(flagOf(option), `the value of ${option.name} is no JSON`);
  }
}

function flagOf({ kind }: NetworkOption): string {
  return kind === 'argument' ? 'network-arg' : 'network-capability';
}

function quoted(text: string): string {
  return JSON.stringify(printable(text).slice(0, 100));
}
