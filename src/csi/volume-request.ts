/**
 * What a user may ask of a volume. Everything is checked here before anything is recorded or sent; what a plugin makes
 * of it is the plugin's to say.
 */
import { invalid } from '../errors.ts';
import { type AskedMode, fitsMode, type VolumeMode } from './access-modes.ts';
import { checkMap, checkPluginName, checkText, type StringMap } from './protocol.ts';
import type { OwnershipPolicy, ReclaimPolicy } from './volume.ts';

export type VolumeAccess = 'mount' | 'block';

/** Makes the volumes of which nobody said who should. */
export const DEFAULT_DRIVER = 'local.csi.berth';

/** How a volume is to be used, in words that may be left out. */
export interface UseRequest {
  /** The mode that suits the plugin unless given. */
  readonly accessMode?: AskedMode | undefined;
  /** Options of the mount, handed to the plugin: "noatime". */
  readonly mountFlags?: readonly string[] | undefined;
  /** A group id: the group owns the files and may write. */
  readonly group?: number | undefined;
  /** Whether Berth gives the files to the group when the plugin does not; "root-mismatch" unless given. */
  readonly ownership?: OwnershipPolicy | undefined;
  /** What removing the volume does with the data; "delete" unless given, "retain" for a registered volume. */
  readonly reclaim?: ReclaimPolicy | undefined;
}

/** What a new volume is filled from, by Berth's name. */
export interface VolumeSource {
  readonly kind: 'snapshot' | 'volume';
  readonly name: string;
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
  /** The same, for parameters that can be changed later; sent only to a plugin that offers MODIFY_VOLUME. */
  readonly mutableParameters?: StringMap | undefined;
  readonly source?: VolumeSource | undefined;
  /** Name of the class it takes from what is not said here (volume-class.ts). */
  readonly volumeClass?: string | undefined;
  /** The file that says where its secrets are; the plugin's own when absent. */
  readonly secretsName?: string | undefined;
  /** Where it may be, of its class: alternatives in the plugin's labels; anywhere when absent. */
  readonly allowedTopologies?: readonly StringMap[] | undefined;
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

/** The same, where class and source say what the user does not: who makes it, how large and of what kind it is. */
export interface VolumeWish extends Omit<VolumeRequest, 'driver' | 'capacityBytes' | 'access'> {
  readonly driver?: string | undefined;
  readonly capacityBytes?: number | bigint | undefined;
  readonly access?: VolumeAccess | undefined;
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
  readonly mutableParameters: StringMap;
  readonly source?: VolumeSource | undefined;
  readonly volumeClass?: string | undefined;
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

/** What is said must make sense; what is missing may come from a class or a source. @throws {RuntimeError} INVALID_ARGUMENT naming the field and the reason */
export function validateVolumeWish(wish: VolumeWish): void {
  const { source, capacityBytes, mutableParameters = {} } = wish;
  if (source !== undefined) checkName(`source ${source.kind}`, source.name);
  checkShape(wish);
  if (capacityBytes !== undefined) checkCapacity(capacityBytes, 1);
  for (const [field, map] of Object.entries({ parameters: wish.parameters, mutableParameters })) {
    checkMap(field, map);
    if (Object.keys(map).includes('')) throw invalid(field, 'a key is empty');
  }
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field and the reason */
export function validateRegisterRequest(request: RegisterRequest): void {
  checkShape(request);
  if (request.volumeId === '') throw invalid('volumeId', 'is empty');
  checkText('volumeId', request.volumeId);
  checkCapacity(request.capacityBytes, 0);
  checkMap('volumeContext', request.volumeContext);
}

function checkShape(request: UseRequest & Pick<VolumeWish, 'name' | 'driver' | 'access' | 'fsType'>): void {
  checkName('name', request.name);
  if (request.driver !== undefined) checkPluginName('driver', request.driver);
  const { access = 'mount', fsType, group } = request;
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
function checkMountFlags({ access, mountFlags = [] }: Pick<VolumeWish, 'access' | 'mountFlags'>): void {
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

/** A wish that leaves nothing to a source. @throws {RuntimeError} INVALID_ARGUMENT naming what is missing */
export function complete(wish: VolumeWish): VolumeRequest {
  const { driver, capacityBytes, access = 'mount' } = wish;
  if (driver === undefined) throw invalid('driver', 'is missing');
  if (capacityBytes === undefined)
    throw invalid('size', 'is missing: say one (--size 10Gi), or name a class that does');
  return { ...wish, driver, capacityBytes, access };
}

function checkName(field: string, name: string): void {
  if (!VOLUME_NAME.test(name)) throw invalid(field, `${quoted(name)} must match ${VOLUME_NAME.source}`);
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

/**
 * True when the volume was asked for with the very same words; what was left to a source or a class is not compared: the
 * class may say something else by now.
 */
export function isSameRequest(made: RequestedVolume, wish: VolumeWish): boolean {
  const { driver, requestedBytes, access, fsType, volumeClass } = made;
  const classed = volumeClass !== undefined;
  const left: Partial<RequestedVolume> =
    wish.source === undefined && !classed ? { access: 'mount', driver: DEFAULT_DRIVER } : made;
  return (
    (wish.volumeClass === undefined || wish.volumeClass === volumeClass) &&
    driver === (wish.driver ?? left.driver) &&
    requestedBytes === String(wish.capacityBytes ?? left.requestedBytes) &&
    access === (wish.access ?? left.access) &&
    fsType === (wish.fsType ?? left.fsType) &&
    made.source?.kind === wish.source?.kind &&
    made.source?.name === wish.source?.name &&
    isSameUse(
      made,
      classed ? { ...wish, group: wish.group ?? made.group, mountFlags: wish.mountFlags ?? made.mountFlags } : wish,
    ) &&
    isSameWords(made.parameters, wish.parameters, classed) &&
    isSameWords(made.mutableParameters, wish.mutableParameters ?? {}, classed)
  );
}

/** Beside those of a class, parameters that were not said are of no account. */
function isSameWords(made: StringMap, said: StringMap, classed: boolean): boolean {
  return isSameMap(made, classed ? { ...made, ...said } : said);
}

/** Words that were left out fit whatever was chosen. */
export function isSameUse(made: RequestedVolume, request: UseRequest): boolean {
  const { ownership = made.ownership, reclaim = made.reclaim } = request;
  return (
    fitsMode(made.accessMode, request.accessMode) &&
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
