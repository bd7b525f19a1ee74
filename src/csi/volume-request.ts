/**
 * What a user may ask of a volume. Everything is checked here before anything is recorded or sent; what a plugin makes
 * of it is the plugin's to say.
 */
import { invalid } from '../errors.ts';
import type { VolumeMode } from './access-modes.ts';
import { checkMap, checkPluginName, checkText, type StringMap } from './protocol.ts';
import type { OwnershipPolicy, ReclaimPolicy } from './volume.ts';

export type VolumeAccess = 'mount' | 'block';

/** How a volume is to be used, in words that may be left out. */
export interface UseRequest {
  /** The mode that suits the plugin unless given. */
  readonly accessMode?: VolumeMode | undefined;
  /** Options of the mount, handed to the plugin: "noatime". */
  readonly mountFlags?: readonly string[] | undefined;
  /** A group id: the group owns the files and may write. */
  readonly group?: number | undefined;
  /** Whether Berth gives the files to the group when the plugin does not; "root-mismatch" unless given. */
  readonly ownership?: OwnershipPolicy | undefined;
  /** What removing the volume does with the data; "delete" unless given, "retain" for a registered volume. */
  readonly reclaim?: ReclaimPolicy | undefined;
}

/** What a user asks for. */
export interface VolumeRequest extends UseRequest {
  /** Berth's name for the volume: unique on this machine. */
  readonly name: string;
  /** Name of the CSI plugin. */
  readonly driver: string;
  /** At least so many bytes. */
  readonly capacityBytes: number | bigint;
  readonly access: VolumeAccess;
  /** "ext4", "xfs"; the plugin's choice when absent. */
  readonly fsType?: string | undefined;
  /** Handed to the plugin as they are. */
  readonly parameters: StringMap;
}

/** A volume that the storage system has already. */
export interface RegisterRequest extends UseRequest {
  readonly name: string;
  readonly driver: string;
  /** The plugin's own id. */
  readonly volumeId: string;
  readonly access: VolumeAccess;
  readonly fsType?: string | undefined;
  /** Bytes; zero when not known. */
  readonly capacityBytes: number | bigint;
  /** What CreateVolume would have answered. */
  readonly volumeContext: StringMap;
}

/** The part of a record that says what was asked for. */
export interface RequestedVolume {
  readonly accessMode: VolumeMode;
  readonly mountFlags: readonly string[];
  readonly group?: number | undefined;
  readonly ownership: OwnershipPolicy;
  readonly reclaim: ReclaimPolicy;
  readonly driver: string;
  /** Bytes in decimal. */
  readonly requestedBytes: string;
  readonly access: VolumeAccess;
  readonly fsType?: string | undefined;
  readonly parameters: StringMap;
}

/** Berth's own names of volumes. */
export const VOLUME_NAME: RegExp = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
export const CONTAINER_ID: RegExp = /^[0-9a-f]{32}$/;
const FS_TYPE = /^[a-z0-9][a-z0-9_.-]{0,31}$/;
const MAX_INT64 = 2n ** 63n - 1n;
/** CSI "Size Limits": all flags together. */
const MAX_FLAG_BYTES = 4096;
/** The id that means "leave it as it is" (chown(2)). */
const NO_ID = 2 ** 32 - 1;

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field and the reason */
export function validateVolumeRequest(request: VolumeRequest): void {
  checkShape(request);
  checkCapacity(request.capacityBytes, 1);
  checkMap('parameters', request.parameters);
  if (Object.keys(request.parameters).includes('')) throw invalid('parameters', 'a key is empty');
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field and the reason */
export function validateRegisterRequest(request: RegisterRequest): void {
  checkShape(request);
  if (request.volumeId === '') throw invalid('volumeId', 'is empty');
  checkText('volumeId', request.volumeId);
  checkCapacity(request.capacityBytes, 0);
  checkMap('volumeContext', request.volumeContext);
}

function checkShape(request: UseRequest & Pick<VolumeRequest, 'name' | 'driver' | 'access' | 'fsType'>): void {
  if (!VOLUME_NAME.test(request.name))
    throw invalid('name', `${quoted(request.name)} must match ${VOLUME_NAME.source}`);
  checkPluginName('driver', request.driver);
  const { access, fsType, group } = request;
  if (access !== 'mount' && access !== 'block') throw invalid('access', `${quoted(access)} must be mount or block`);
  if (fsType !== undefined && access === 'block') throw invalid('fsType', 'a block volume has no file system');
  if (fsType !== undefined && !FS_TYPE.test(fsType)) {
    throw invalid('fsType', `${quoted(fsType)} must match ${FS_TYPE.source}`);
  }
  if (group !== undefined && access === 'block') throw invalid('group', 'a block volume has no files');
  checkGroup(group);
  checkMountFlags(request);
}

/** The flags themselves may be secret: errors say which one, not what it says. */
function checkMountFlags({ access, mountFlags = [] }: Pick<VolumeRequest, 'access' | 'mountFlags'>): void {
  if (mountFlags.length > 0 && access === 'block') throw invalid('mountFlags', 'a block volume is not mounted');
  const bad = mountFlags.findIndex((flag) => flag === '' || !flag.isWellFormed() || /\p{Cc}/u.test(flag));
  if (bad >= 0) throw invalid('mountFlags', `flag ${bad + 1} is empty or has control characters`);
  const bytes = mountFlags.reduce((sum, flag) => sum + Buffer.byteLength(flag), 0);
  if (bytes > MAX_FLAG_BYTES) throw invalid('mountFlags', `have ${bytes} bytes, at most ${MAX_FLAG_BYTES} are allowed`);
}

/** @throws {RuntimeError} INVALID_ARGUMENT */
export function checkGroup(group: number | undefined): void {
  if (group === undefined || (Number.isInteger(group) && group >= 0 && group < NO_ID)) return;
  throw invalid('group', `${group} is outside 0 to ${NO_ID - 1}`);
}

/** @throws {RuntimeError} INVALID_ARGUMENT */
export function checkContainerId(id: string): void {
  if (!CONTAINER_ID.test(id)) throw invalid('container', `${quoted(id)} is no container id`);
}

function checkCapacity(bytes: number | bigint, least: number): void {
  if (typeof bytes === 'number' && !Number.isSafeInteger(bytes)) {
    throw invalid('capacityBytes', `${bytes} is no whole number of bytes`);
  }
  if (bytes < least || BigInt(bytes) > MAX_INT64) {
    throw invalid('capacityBytes', `${bytes} is outside ${least} to ${MAX_INT64}`);
  }
}

function quoted(text: string): string {
  return JSON.stringify(String(text).slice(0, 80));
}

/** True when the volume was asked for with the very same words. */
export function isSameRequest(made: RequestedVolume, request: VolumeRequest): boolean {
  return (
    made.driver === request.driver &&
    made.requestedBytes === String(request.capacityBytes) &&
    made.access === request.access &&
    made.fsType === request.fsType &&
    isSameUse(made, request) &&
    isSameMap(made.parameters, request.parameters)
  );
}

/** Words that were left out fit whatever was chosen. */
export function isSameUse(made: RequestedVolume, request: UseRequest): boolean {
  const { accessMode = made.accessMode, ownership = made.ownership, reclaim = made.reclaim } = request;
  return (
    made.accessMode === accessMode &&
    made.ownership === ownership &&
    made.reclaim === reclaim &&
    made.group === request.group &&
    JSON.stringify(made.mountFlags) === JSON.stringify(request.mountFlags ?? [])
  );
}

/** Same keys with the same values, in any order. */
export function isSameMap(a: StringMap, b: StringMap): boolean {
  const sorted = (map: StringMap): string => JSON.stringify(Object.entries(map).sort(([x], [y]) => (x < y ? -1 : 1)));
  return sorted(a) === sorted(b);
}
