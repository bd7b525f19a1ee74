/** `--network-arg` and `--network-capability`: what plugins of a container's networks are told. */
import type { Option } from 'commander';
import type { NetworkOption, NetworkOption__Output } from '../api/generated/berth/v1/NetworkOption.ts';
import { usage } from './failure.ts';
import { listOption } from './session.ts';

/** What commander makes of the flags. */
export interface NetworkOptionFlags {
  readonly networkArg?: readonly string[];
  readonly networkCapability?: readonly string[];
}

/** "[NETWORK:]NAME=VALUE" */
const OPTION = /^(?:([^:=]+):)?([^:=]+)=(.*)$/s;

export function networkOptionFlags(): Option[] {
  return [
    listOption('--network-arg <[network:]key=value>', 'CNI argument for the plugins of its networks, or of one'),
    listOption(
      '--network-capability <[network:]name=value>',
      'value, text or JSON, for plugins that declare the capability: deviceID, bandwidth, ipRanges, ...',
    ),
  ];
}

/** The words that the flags ask for. @throws {Failure} naming the flag */
export function networkOptions({ networkArg = [], networkCapability = [] }: NetworkOptionFlags): NetworkOption[] {
  return [
    ...networkArg.map(
      (text): NetworkOption => ({
        ...parsed('--network-arg', text),
        kind: 'NETWORK_OPTION_KIND_ARGUMENT',
      }),
    ),
    ...networkCapability.map((text): NetworkOption => {
      const { value, ...rest } = parsed('--network-capability', text);
      return { ...rest, kind: 'NETWORK_OPTION_KIND_CAPABILITY', value: jsonOf(value) };
    }),
  ];
}

/** As inspect shows one. */
export function networkOptionObject({ network, kind, name, value }: NetworkOption__Output): Record<string, unknown> {
  if (kind !== 'NETWORK_OPTION_KIND_CAPABILITY') return { network, kind: 'argument', name, value };
  return { network, kind: 'capability', name, value: JSON.parse(value) };
}

function parsed(flag: string, text: string): { network: string; name: string; value: string } {
  const [, network = '', name, value = ''] = OPTION.exec(text) ?? [];
  if (name === undefined) throw usage(flag, `${JSON.stringify(text)} must be [NETWORK:]NAME=VALUE`);
  return { network, name, value };
}

/** What is no JSON is a text: "0000:00:1f.6" needs no quotes. */
function jsonOf(value: string): string {
  try {
    return JSON.stringify(JSON.parse(value));
  } catch {
    return JSON.stringify(value);
  }
}
