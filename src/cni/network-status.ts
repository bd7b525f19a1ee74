/** What people see of an attachment: addresses, gateways, hardware address, read off the result of ADD. Pure. */
import type { NetworkStatus } from '../runtime/isolator.ts';
import type { NetworkRecord, RecordedAttachment } from './network-record.ts';
import type { CniInterface, CniResult } from './protocol.ts';

/** The attachments of a container that have a result. */
export function statusOf(record: NetworkRecord): NetworkStatus[] {
  return record.attachments.flatMap((entry) => (entry.result === undefined ? [] : [status(entry, entry.result)]));
}

function status(entry: RecordedAttachment, result: CniResult): NetworkStatus {
  const { interfaceName, network } = entry;
  const interfaces = result.interfaces ?? [];
  const inside = (candidate: CniInterface | undefined): boolean =>
    candidate === undefined ||
    (candidate.name === interfaceName && candidate.sandbox != null && candidate.sandbox !== '');
  // An index of -1, or none, says that the plugin does not tell which interface the address is on.
  const ips = (result.ips ?? []).filter((ip) => inside(interfaces[ip.interface ?? -1]));
  const mac = interfaces.find((candidate) => inside(candidate))?.mac;
  return {
    network: network.name,
    interfaceName,
    addresses: ips.map((ip) => ip.address),
    gateways: [...new Set(ips.flatMap((ip) => (ip.gateway ? [ip.gateway] : [])))],
    ...(mac ? { mac } : {}),
  };
}
