/**
 * What of a CSI request may be written to a log: everything but the fields that csi.proto marks `csi_secret`, and, out
 * of caution, the values of opaque maps and mount flags, which plugins have been seen to put tokens into.
 */
import type { Rpc, StreamRpc, StringMap } from './protocol.ts';

/** Every field marked `csi_secret`, as Message.field; a test compares the list with the file. */
export const SECRET_FIELDS: readonly string[] = [
  'CreateVolumeRequest.secrets',
  'DeleteVolumeRequest.secrets',
  'ControllerPublishVolumeRequest.secrets',
  'ControllerUnpublishVolumeRequest.secrets',
  'ValidateVolumeCapabilitiesRequest.secrets',
  'ControllerModifyVolumeRequest.secrets',
  'CreateSnapshotRequest.secrets',
  'DeleteSnapshotRequest.secrets',
  'ListSnapshotsRequest.secrets',
  'GetSnapshotRequest.secrets',
  'ControllerExpandVolumeRequest.secrets',
  'NodeStageVolumeRequest.secrets',
  'NodePublishVolumeRequest.secrets',
  'NodeExpandVolumeRequest.secrets',
  'CreateVolumeGroupSnapshotRequest.secrets',
  'DeleteVolumeGroupSnapshotRequest.secrets',
  'GetVolumeGroupSnapshotRequest.secrets',
  'GetMetadataAllocatedRequest.secrets',
  'GetMetadataDeltaRequest.secrets',
];

/** True when requests of a call have a field for secrets. */
export function takesSecrets(rpc: Rpc | StreamRpc): boolean {
  return SECRET_FIELDS.includes(`${rpc}Request.secrets`);
}

/** Unmarked fields whose values are kept out of logs all the same. */
const SENSITIVE: ReadonlySet<string> = new Set([
  'parameters',
  'mutableParameters',
  'volumeContext',
  'publishContext',
  'mountFlags',
]);

const REDACTED = '[redacted]';

/** A copy of a request that is fit for a log. */
export function redacted(rpc: Rpc | StreamRpc, request: object): Readonly<Record<string, unknown>> {
  const shown = Object.entries(request).map(([field, value]): [string, unknown] => {
    if (SECRET_FIELDS.includes(`${rpc}Request.${field}`) || SENSITIVE.has(field)) return [field, REDACTED];
    return [field, withoutMountFlags(value)];
  });
  return Object.fromEntries(shown);
}

/** Volume capabilities hold mount flags, one or two levels down. */
function withoutMountFlags(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutMountFlags);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, SENSITIVE.has(key) ? REDACTED : withoutMountFlags(inner)]),
  );
}

/** Shorter values are no secrets, and cutting them would only garble the text. */
const SHORTEST_SECRET = 4;

/** `text` without the values of `secrets`, plain or base64: a plugin's message may repeat what it was given. */
export function withoutSecrets(text: string, secrets: StringMap): string {
  const values = Object.values(secrets)
    .filter((value) => value.length >= SHORTEST_SECRET)
    .flatMap((value) => [value, Buffer.from(value).toString('base64')])
    // One that begins with another would be cut in two, and its end left.
    .sort((one, other) => other.length - one.length);
  return values.reduce((rest, value) => rest.replaceAll(value, REDACTED), text);
}
