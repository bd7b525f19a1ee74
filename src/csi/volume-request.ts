/**
 * What a user may ask of a volume. Everything is checked here before anything is recorded or sent; what a plugin makes
 * of it is the plugin's to say.
 */
import { invalid } from '../errors.ts';
import { checkMap, checkPluginName, type StringMap } from './protocol.ts';

export type VolumeAccess = 'mount' | 'block';

/** What a new volume is filled from, by Berth's name. */
export interface VolumeSource {
  readonly kind: 'snapshot' | 'volume';
  readonly name: string;
}

/** What a user asks for. */
export interface VolumeRequest {
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
  readonly source?: VolumeSource | undefined;
}

/** The same, where the source says what the user does not: who makes it, how large and of what kind it is. */
export type VolumeWish = Omit<VolumeRequest, 'driver' | 'capacityBytes' | 'access'> &
  Partial<Pick<VolumeRequest, 'driver' | 'capacityBytes' | 'access'>>;

/** The part of a record that says what was asked for. */
export interface RequestedVolume {
  readonly driver: string;
  /** Bytes in decimal. */
  readonly requestedBytes: string;
  readonly access: VolumeAccess;
  readonly fsType?: string | undefined;
  readonly parameters: StringMap;
  readonly source?: VolumeSource | undefined;
}

/** Berth's own names of volumes. */
export const VOLUME_NAME: RegExp = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
export const CONTAINER_ID: RegExp = /^[0-9a-f]{32}$/;
const FS_TYPE = /^[a-z0-9][a-z0-9_.-]{0,31}$/;
const MAX_INT64 = 2n ** 63n - 1n;

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field and the reason */
export function validateVolumeRequest(wish: VolumeWish): void {
  checkName('name', wish.name);
  if (wish.source !== undefined) checkName(`source ${wish.source.kind}`, wish.source.name);
  const request = wish.source === undefined ? complete(wish) : wish;
  if (request.driver !== undefined) checkPluginName('driver', request.driver);
  if (request.capacityBytes !== undefined) checkCapacity(request.capacityBytes);
  const { access = 'mount', fsType } = request;
  if (access !== 'mount' && access !== 'block') throw invalid('access', `${quoted(access)} must be mount or block`);
  if (fsType !== undefined && access === 'block') throw invalid('fsType', 'a block volume has no file system');
  if (fsType !== undefined && !FS_TYPE.test(fsType)) {
    throw invalid('fsType', `${quoted(fsType)} must match ${FS_TYPE.source}`);
  }
  checkMap('parameters', request.parameters);
  if (Object.keys(request.parameters).includes('')) throw invalid('parameters', 'a key is empty');
}

/** A wish that leaves nothing to a source. @throws {RuntimeError} INVALID_ARGUMENT naming what is missing */
export function complete(wish: VolumeWish): VolumeRequest {
  const { driver, capacityBytes, access = 'mount' } = wish;
  if (driver === undefined) throw invalid('driver', 'is missing');
  if (capacityBytes === undefined) throw invalid('capacityBytes', 'is missing: say a size');
  return { ...wish, driver, capacityBytes, access };
}

function checkName(field: string, name: string): void {
  if (!VOLUME_NAME.test(name)) throw invalid(field, `${quoted(name)} must match ${VOLUME_NAME.source}`);
}

/** @throws {RuntimeError} INVALID_ARGUMENT */
export function checkContainerId(id: string): void {
  if (!CONTAINER_ID.test(id)) throw invalid('container', `${quoted(id)} is no container id`);
}

function checkCapacity(bytes: number | bigint): void {
  if (typeof bytes === 'number' && !Number.isSafeInteger(bytes)) {
    throw invalid('capacityBytes', `${bytes} is no whole number of bytes`);
  }
  if (bytes <= 0 || BigInt(bytes) > MAX_INT64) throw invalid('capacityBytes', `${bytes} is outside 1 to ${MAX_INT64}`);
}

function quoted(text: string): string {
  return JSON.stringify(String(text).slice(0, 80));
}

/** True when the volume was asked for with the very same words; what was left to a source is not compared. */
export function isSameRequest(made: RequestedVolume, wish: VolumeWish): boolean {
  const { driver, requestedBytes, access, fsType } = made;
  const left: Partial<RequestedVolume> = wish.source === undefined ? { access: 'mount' } : made;
  return (
    driver === (wish.driver ?? left.driver) &&
    requestedBytes === String(wish.capacityBytes ?? left.requestedBytes) &&
    access === (wish.access ?? left.access) &&
    fsType === (wish.fsType ?? left.fsType) &&
    made.source?.kind === wish.source?.kind &&
    made.source?.name === wish.source?.name &&
    isSameMap(made.parameters, wish.parameters)
  );
}

/** Same keys with the same values, in any order. */
export function isSameMap(a: StringMap, b: StringMap): boolean {
  const sorted = (map: StringMap): string => JSON.stringify(Object.entries(map).sort(([x], [y]) => (x < y ? -1 : 1)));
  return sorted(a) === sorted(b);
}
