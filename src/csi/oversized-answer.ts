/**
 * Answers that are too large to be read. Megabytes of map entries would hold up the daemon while they are decoded, so
 * such an answer is passed over; only the id of a volume that was made is looked for, since the volume must be deleted.
 */
import { CsiError, type Rpc, type StreamRpc } from './protocol.ts';

/**
 * Longest answer read, in bytes. The longest lawful one about a single thing is some 10 KiB, and lists are asked for in
 * pages.
 */
export const MAX_ANSWER_BYTES: number = 1024 * 1024;

/** Longest answer received at all, in bytes; of a longer one nothing is known but that it began. */
export const MAX_RECEIVED_BYTES: number = 16 * 1024 * 1024;

/** A plugin's answer was longer than {@link MAX_ANSWER_BYTES}. What was asked for has been done. */
export class OversizedAnswer extends CsiError {
  /** Of CreateVolume; absent where the answer names none. */
  readonly volumeId: string | undefined;

  /** `bytes`: the answer; undefined when it was too long even to be received. */
  constructor(plugin: string, rpc: Rpc | StreamRpc, bytes: Buffer | undefined) {
    const size = bytes === undefined ? `more than ${MAX_RECEIVED_BYTES}` : String(bytes.length);
    const reason = `its answer has ${size} bytes, larger than max ${MAX_ANSWER_BYTES}`;
    super('RESOURCE_EXHAUSTED', plugin, rpc, reason, { isRepeated: true });
    this.volumeId = rpc === 'CreateVolume' && bytes !== undefined ? volumeIdIn(bytes) : undefined;
  }

  override repeated(): this {
    return this;
  }
}

/** Numbers of fields: CreateVolumeResponse.volume, Volume.volume_id. */
const VOLUME = 1;
const VOLUME_ID = 2;
/** Longer ones are not lawful, and no plugin finds its volume by them. */
const MAX_ID_BYTES = 64 * 1024;

/** The volume_id in a CreateVolumeResponse, found without decoding the rest. */
export function volumeIdIn(answer: Buffer): string | undefined {
  const volume = lastField(answer, VOLUME);
  const id = volume && lastField(volume, VOLUME_ID);
  return id === undefined || id.length === 0 || id.length > MAX_ID_BYTES ? undefined : id.toString('utf8');
}

/** Wire types of protobuf. */
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

/** The bytes of the last field of a number; undefined when there is none or the text is no message. */
function lastField(message: Buffer, wanted: number): Buffer | undefined {
  let found: Buffer | undefined;
  let at = 0;
  while (at < message.length) {
    const tag = varint(message, at);
    if (tag === undefined) return undefined;
    at = tag.end;
    const type = tag.value % 8;
    if (type === BYTES) {
      const size = varint(message, at);
      if (size === undefined || size.end + size.value > message.length) return undefined;
      if (Math.floor(tag.value / 8) === wanted) found = message.subarray(size.end, size.end + size.value);
      at = size.end + size.value;
      continue;
    }
    const end = type === VARINT ? varint(message, at)?.end : fixedEnd(type, at);
    if (end === undefined) return undefined;
    at = end;
  }
  return found;
}

function fixedEnd(type: number, at: number): number | undefined {
  if (type === FIXED64) return at + 8;
  return type === FIXED32 ? at + 4 : undefined;
}

/** A number of up to ten bytes, seven bits in each; those beyond 2^53 are sizes of nothing. */
function varint(message: Buffer, start: number): { readonly value: number; readonly end: number } | undefined {
  let value = 0;
  for (let at = start; at < start + 10; at += 1) {
    const byte = message[at];
    if (byte === undefined) return undefined;
    value += (byte & 0x7f) * 2 ** (7 * (at - start));
    if (byte < 0x80) return { value, end: at + 1 };
  }
  return undefined;
}
