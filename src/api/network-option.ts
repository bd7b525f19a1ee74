/** Words to plugins, from the wire to the runtime's own and back. */
import { invalid } from '../errors.ts';
import type { NetworkOption } from '../runtime/container.ts';
import type { NetworkOption as Message, NetworkOption__Output } from './generated/berth/v1/NetworkOption.ts';

const KINDS = {
  argument: 'NETWORK_OPTION_KIND_ARGUMENT',
  capability: 'NETWORK_OPTION_KIND_CAPABILITY',
} as const satisfies Record<NetworkOption['kind'], Message['kind']>;

/** @throws {RuntimeError} INVALID_ARGUMENT for a kind that is none */
export function networkOptionOf({ network, kind, name, value }: NetworkOption__Output): NetworkOption {
  if (kind === KINDS.argument) return { network, kind: 'argument', name, value };
  if (kind === KINDS.capability) return { network, kind: 'capability', name, value };
  throw invalid('network-arg', `${JSON.stringify(name.slice(0, 80))} is of no known kind`);
}

export function networkOptionMessage({ network, kind, name, value }: NetworkOption): Message {
  return { network, kind: KINDS[kind], name, value };
}
