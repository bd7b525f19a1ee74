/** `-p [IP:]HOST:CONTAINER[/PROTO]`, as in docker. An IPv6 address stands in brackets. */
import type { PortMapping } from '../api/generated/berth/v1/PortMapping.ts';
import { usage } from './failure.ts';

const PORT = /^(?:(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]*)):)?(\d{1,5}):(\d{1,5})(?:\/([a-z]+))?$/i;
const PROTOCOLS = new Map([
  ['tcp', 'PROTOCOL_TCP'],
  ['udp', 'PROTOCOL_UDP'],
  ['sctp', 'PROTOCOL_SCTP'],
] as const);

/** @throws {Failure} when the text is no port mapping */
export function parsePort(text: string): PortMapping {
  const match = PORT.exec(text);
  if (match === null) {
    throw usage(
      '--publish',
      `${JSON.stringify(text)} must be [IP:]HOST:CONTAINER[/PROTO], as in 8080:80 or [::1]:53:53/udp`,
    );
  }
  const [, address6, address4, host, container, protocolText = 'tcp'] = match;
  const protocol = [...PROTOCOLS].find(([name]) => name === protocolText.toLowerCase())?.[1];
  if (protocol === undefined) {
    throw usage(
      '--publish',
      `${JSON.stringify(text)}: protocol ${JSON.stringify(protocolText)} must be tcp, udp or sctp`,
    );
  }
  const hostIp = address6 ?? address4;
  const ports = { hostPort: Number(host), containerPort: Number(container), protocol };
  return hostIp === undefined || hostIp === '' ? ports : { ...ports, hostIp };
}
