/** What a caller wants a volume for: checks of VolumeCapability and its mount flags. */
import { createHash } from 'node:crypto';
import { invalid, RuntimeError } from '../../errors.ts';
import type { VolumeCapability__Output } from '../generated/csi/v1/VolumeCapability.ts';
import { type AccessMode, checkText } from '../protocol.ts';
import { type AccessType, FILE_SYSTEMS, type FileSystem, type VolumeRecord } from './volume-record.ts';

/** A checked capability. */
export interface Capability {
  readonly access: AccessType;
  readonly mode: AccessMode;
  /** Undefined: whatever the volume has. */
  readonly fsType: FileSystem | undefined;
  readonly mountFlags: readonly string[];
  /** The group that shall own the mounted volume. */
  readonly group: number | undefined;
  /** Equal for equal capabilities; says nothing about the flags. */
  readonly fingerprint: string;
}

/** The largest number a group can have. */
const MAX_GROUP = 2 ** 32 - 2;

/** A volume lies on one node. */
const MODES: ReadonlySet<AccessMode> = new Set<AccessMode>([
  'SINGLE_NODE_WRITER',
  'SINGLE_NODE_READER_ONLY',
  'SINGLE_NODE_SINGLE_WRITER',
  'SINGLE_NODE_MULTI_WRITER',
]);

/** Flags of a mount, not of the file system: those a bind mount can have by itself. */
const BIND_FLAGS: ReadonlySet<string> = new Set(
  'ro rw nosuid suid nodev dev noexec exec noatime atime nodiratime diratime relatime norelatime'.split(' '),
);

/** Flags that change how a volume is used. Those that choose what is mounted, or where, are not among them. */
const MOUNT_FLAGS: readonly RegExp[] = [
  /^(ro|rw|(no)?(suid|dev|exec|atime|diratime|relatime|strictatime|lazytime)|sync|async|dirsync)$/,
  /^((no)?(discard|barrier|user_xattr|acl|auto_da_alloc|delalloc)|dax(=(always|never|inode))?)$/,
  /^(commit=\d{1,5}|data=(journal|ordered|writeback)|errors=(continue|remount-ro|panic)|(no)?init_itable(=\d{1,5})?)$/,
  /^(usrquota|grpquota|prjquota|uquota|gquota|pquota|noquota|inode32|inode64|largeio|nolargeio|swalloc|filestreams)$/,
  /^(logbufs=\d|logbsize=\d{1,4}k?|allocsize=\d{1,6}[kKmM]?)$/,
];

/**
 * Checks one capability of a request.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field
 */
export function parseCapability(field: string, capability: VolumeCapability__Output | null): Capability {
  if (capability === null) throw invalid(field, 'is missing');
  const mode = capability.accessMode?.mode ?? 'UNKNOWN';
  if (!MODES.has(mode)) throw invalid(`${field}.access_mode`, `${mode} is not supported: volumes lie on one node`);
  if (capability.accessType === 'block')
    return withFingerprint({ access: 'block', mode, fsType: undefined, mountFlags: [], group: undefined });
  const { mount } = capability;
  if (mount === null || mount === undefined) throw invalid(`${field}.access_type`, 'is missing');
  const mountFlags = mount.mountFlags.map((flag) => checkMountFlag(`${field}.mount_flags`, flag));
  return withFingerprint({
    access: 'mount',
    mode,
    fsType: parseFileSystem(`${field}.fs_type`, mount.fsType),
    mountFlags,
    group: parseGroup(`${field}.volume_mount_group`, mount.volumeMountGroup),
  });
}

/** Groups by number only: names are those of the orchestrator's machine. */
function parseGroup(field: string, text: string): number | undefined {
  if (text === '') return undefined;
  checkText(field, text);
  const group = Number(text);
  if (!/^\d{1,10}$/.test(text) || group > MAX_GROUP) throw invalid(field, 'is not the number of a group');
  return group;
}

/** A file system by name; undefined for the empty name. */
export function parseFileSystem(field: string, name: string): FileSystem | undefined {
  if (name === '') return undefined;
  const known = FILE_SYSTEMS.find((fsType) => fsType === name);
  if (known === undefined)
    throw invalid(field, `${JSON.stringify(checkText(field, name))} is none of ${FILE_SYSTEMS.join(', ')}`);
  return known;
}

/** Why the volume cannot be used like this; undefined when it can. */
export function misfit(volume: VolumeRecord, { access, fsType }: Capability): string | undefined {
  if (!volume.access.includes(access))
    return `volume ${volume.id} was made for ${volume.access.join(' and ')}, not ${access}`;
  if (fsType === undefined || volume.type === 'directory' || fsType === volume.fsType) return undefined;
  return `volume ${volume.id} has file system ${volume.fsType}, not ${fsType}`;
}

/** @throws {RuntimeError} FAILED_PRECONDITION when the volume cannot be used like this */
export function requireFit(volume: VolumeRecord, capability: Capability): void {
  const reason = misfit(volume, capability);
  if (reason !== undefined) throw new RuntimeError('FAILED_PRECONDITION', reason);
}

/** True when the volume may be published at several places at once. */
export function isShared({ mode }: Capability): boolean {
  return mode === 'SINGLE_NODE_MULTI_WRITER';
}

export function isReaderOnly({ mode }: Capability): boolean {
  return mode === 'SINGLE_NODE_READER_ONLY';
}

/** Those flags that a bind mount takes. */
export function bindFlagsOf({ mountFlags }: Capability): string[] {
  return mountFlags.filter((flag) => BIND_FLAGS.has(flag));
}

/** Flags may be secret (CSI), so a refused one is not repeated. */
function checkMountFlag(field: string, flag: string): string {
  if (!MOUNT_FLAGS.some((known) => known.test(flag))) throw invalid(field, 'has a flag that is not supported');
  return flag;
}

function withFingerprint(capability: Omit<Capability, 'fingerprint'>): Capability {
  const { access, mode, fsType, mountFlags, group } = capability;
  const text = JSON.stringify([access, mode, fsType ?? '', mountFlags, ...(group === undefined ? [] : [group])]);
  return { ...capability, fingerprint: createHash('sha256').update(text).digest('hex') };
}
