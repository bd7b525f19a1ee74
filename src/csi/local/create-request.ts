/** CreateVolume's request, checked and turned into what the volume shall be. */
import { invalid, RuntimeError } from '../../errors.ts';
import type { CapacityRange__Output } from '../generated/csi/v1/CapacityRange.ts';
import type { CreateVolumeRequest__Output } from '../generated/csi/v1/CreateVolumeRequest.ts';
import type { VolumeCapability__Output } from '../generated/csi/v1/VolumeCapability.ts';
import { checkMap, checkText, type StringMap } from '../protocol.ts';
import { type Capability, misfit, parseCapability, parseFileSystem } from './capability.ts';
import { parseContentSource, sourceDifference } from './content-source.ts';
import { SMALLEST_BYTES } from './file-system.ts';
import { type MutableParameters, parseMutableParameters } from './mutable-parameters.ts';
import {
  type AccessType,
  type ContentSource,
  type FileSystem,
  VOLUME_TYPES,
  type VolumeRecord,
  type VolumeType,
} from './volume-record.ts';

/** Images are whole pages: every file system and direct I/O can use all of them. */
const GRAIN_BYTES = 4096;
const DEFAULT_BYTES = 1024 ** 3;
/** Largest file of ext4 with 4 KiB blocks. */
const LARGEST_BYTES = 16 * 1024 ** 4 - GRAIN_BYTES;
/** Characters CSI forbids in names: control characters less tab, line feed and carriage return. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: exactly these are forbidden
const FORBIDDEN_IN_NAME = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/;
/** Orchestrators add keys of their own under this prefix. */
export const FOREIGN_PARAMETER = 'csi.storage.k8s.io/';

/** Bounds in bytes; both inclusive. */
export interface SizeRange {
  readonly requiredBytes: number;
  readonly limitBytes: number;
}

/** What CreateVolume was asked for. */
export interface WantedVolume {
  readonly name: string;
  readonly type: VolumeType;
  readonly access: readonly AccessType[];
  /** Undefined: the volume is not formatted. */
  readonly fsType: FileSystem | undefined;
  /** What of this was said, and not chosen for want of a word. */
  readonly asked: { readonly type: VolumeType | undefined; readonly fsType: FileSystem | undefined };
  /** Undefined: the volume is empty. */
  readonly source: ContentSource | undefined;
  readonly mutable: MutableParameters;
  readonly size: SizeRange;
  readonly capabilities: readonly Capability[];
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field */
export function parseCreateRequest(request: CreateVolumeRequest__Output): WantedVolume {
  const name = checkName(request.name);
  checkMap('secrets', request.secrets);
  const source = parseContentSource(request.volumeContentSource);
  const mutable = parseMutableParameters(request.mutableParameters);
  const capabilities = parseCapabilities(request.volumeCapabilities);
  const access = [...new Set(capabilities.map((capability) => capability.access))].sort();
  const { type, fsType } = parseParameters(request.parameters);
  const asked = [fsType, ...capabilities.map((capability) => capability.fsType)];
  if (type === 'directory' && mutable.allocation === 'reserved') {
    throw invalid('mutable_parameters.allocation', 'a directory has no blocks of its own');
  }
  if (type === 'directory' && access.includes('block')) throw invalid('type', 'a directory has no block access');
  const size = parseSizeRange(request.capacityRange);
  return {
    name,
    type,
    access,
    fsType: chosenFileSystem(type, access, asked),
    asked: {
      type: request.parameters['type'] === undefined ? undefined : type,
      fsType: asked.find((one) => one !== undefined),
    },
    source,
    mutable,
    size,
    capabilities,
  };
}

/** @throws {RuntimeError} INVALID_ARGUMENT when there is none, or one is not supported */
function parseCapabilities(capabilities: readonly VolumeCapability__Output[]): Capability[] {
  if (capabilities.length === 0) throw invalid('volume_capabilities', 'are missing');
  return capabilities.map((capability, index) => parseCapability(`volume_capabilities[${index}]`, capability));
}

/** What CreateVolume's parameters say: `type` (image, directory) and `fsType` (ext4, xfs). */
export function parseParameters(parameters: StringMap): { type: VolumeType; fsType: FileSystem | undefined } {
  checkMap('parameters', parameters);
  const known = ['type', 'fsType'];
  for (const key of Object.keys(parameters)) {
    if (known.includes(key) || key.startsWith(FOREIGN_PARAMETER)) continue;
    throw invalid('parameters', `${JSON.stringify(key)} is not known: there are ${known.join(', ')}`);
  }
  const wanted = parameters['type'] ?? 'image';
  const type = VOLUME_TYPES.find((candidate) => candidate === wanted);
  if (type === undefined) {
    throw invalid('parameters.type', `${JSON.stringify(wanted)} is none of ${VOLUME_TYPES.join(', ')}`);
  }
  return { type, fsType: parseFileSystem('parameters.fsType', parameters['fsType'] ?? '') };
}

/**
 * The size a new volume gets: what is required, rounded up to what the volume can have.
 * @throws {RuntimeError} OUT_OF_RANGE when that is more than the limit
 */
export function sizeFor({ type, fsType, size }: WantedVolume): number {
  if (size.requiredBytes > LARGEST_BYTES) {
    throw new RuntimeError('OUT_OF_RANGE', `capacity_range: more than ${LARGEST_BYTES} bytes are required`);
  }
  if (type === 'directory') return size.requiredBytes;
  const smallest = fsType === undefined ? GRAIN_BYTES : SMALLEST_BYTES[fsType];
  const asked = size.requiredBytes > 0 ? size.requiredBytes : Math.min(DEFAULT_BYTES, size.limitBytes);
  // Without a lower bound the size is rounded down, to stay within the limit.
  const round = size.requiredBytes > 0 ? Math.ceil : Math.floor;
  const sizeBytes = Math.max(smallest, round(asked / GRAIN_BYTES) * GRAIN_BYTES);
  if (sizeBytes > size.limitBytes) {
    throw new RuntimeError(
      'OUT_OF_RANGE',
      `capacity_range: no size of at least ${smallest} bytes and a multiple of ${GRAIN_BYTES} lies within`,
    );
  }
  return sizeBytes;
}

/**
 * The size an existing volume gets by an expansion: what is required, or what it has when that is enough.
 * @throws {RuntimeError} OUT_OF_RANGE when that is more than the limit, or than a volume can have
 */
export function grownSize({ id, type, sizeBytes }: VolumeRecord, { requiredBytes, limitBytes }: SizeRange): number {
  const grain = type === 'image' ? GRAIN_BYTES : 1;
  const grown = Math.max(sizeBytes, Math.ceil(requiredBytes / grain) * grain);
  if (grown <= Math.min(limitBytes, LARGEST_BYTES)) return grown;
  const reason = `capacity_range: volume ${id} has ${sizeBytes} bytes and does not shrink, its sizes are multiples of ${grain} up to ${LARGEST_BYTES}`;
  throw new RuntimeError('OUT_OF_RANGE', reason);
}

/** How an existing volume of the same name differs from what is asked; undefined when it will do. */
export function difference(volume: VolumeRecord, wanted: WantedVolume): string | undefined {
  const origin = sourceDifference(volume, wanted);
  if (origin !== undefined) return origin;
  // A copy is what its source was, unless something else was asked for.
  const { type, fsType } =
    wanted.source === undefined ? wanted : { ...wanted.asked, type: wanted.asked.type ?? volume.type };
  if (volume.type !== type) return `it is of type ${volume.type}, not ${type}`;
  if (volume.type === 'image' && fsType !== undefined && volume.fsType !== fsType) {
    return `it has file system ${volume.fsType ?? 'none'}, not ${fsType}`;
  }
  const { requiredBytes, limitBytes } = wanted.size;
  // A volume that was expanded since is still the one that was asked for.
  const createdBytes = volume.createdBytes ?? volume.sizeBytes;
  if (createdBytes < requiredBytes || createdBytes > limitBytes) return `it was made with ${createdBytes} bytes`;
  return wanted.capabilities.map((capability) => misfit(volume, capability)).find((reason) => reason !== undefined);
}

/** @throws {RuntimeError} INVALID_ARGUMENT when the name is missing or not one CSI allows */
export function checkName(name: string): string {
  if (name === '') throw invalid('name', 'is missing');
  checkText('name', name);
  if (FORBIDDEN_IN_NAME.test(name)) throw invalid('name', 'has a control character');
  return name;
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field */
export function parseSizeRange(range: CapacityRange__Output | null): SizeRange {
  const requiredBytes = parseBytes('capacity_range.required_bytes', range?.requiredBytes ?? '0');
  const limitBytes = parseBytes('capacity_range.limit_bytes', range?.limitBytes ?? '0');
  if (limitBytes === 0) return { requiredBytes, limitBytes: Number.MAX_SAFE_INTEGER };
  if (limitBytes < requiredBytes) throw invalid('capacity_range', 'the limit is below what is required');
  return { requiredBytes, limitBytes };
}

/** int64 arrives as decimal text. What a double cannot count is beyond every disk, so the nearest double will do. */
function parseBytes(field: string, text: string): number {
  const bytes = Number(text);
  if (bytes < 0) throw invalid(field, 'is negative');
  return bytes;
}

/** One file system for a volume that is to be mounted; none for a directory or a volume for block access only. */
function chosenFileSystem(
  type: VolumeType,
  access: readonly AccessType[],
  asked: readonly (FileSystem | undefined)[],
): FileSystem | undefined {
  const [first, ...others] = new Set(asked.filter((fsType) => fsType !== undefined));
  if (others.length > 0) throw invalid('fs_type', 'one volume cannot have several file systems');
  if (type === 'directory' || !access.includes('mount')) return undefined;
  return first ?? 'ext4';
}
