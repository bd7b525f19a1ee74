/**
 * What one header of a tar archive asks for, checked: a path that stays inside, a kind that a root file system may
 * hold, an owner that exists. Pure. What is refused here never reaches the disk; what passes is still written by a walk
 * that follows no link (tree-writer.ts), since a link made by an earlier entry cannot be seen from a header.
 */
import { parseAccountId } from '../account.ts';
import { invalid, RuntimeError } from '../errors.ts';

/** Owner, permissions and time of an entry. */
export interface Attributes {
  /** Permission bits, set-user-ID and its like included. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds after the epoch, with a fraction. */
  readonly mtime: number;
}

/** A path below the root, by component; empty for the root itself. */
export type Components = readonly string[];

/** An entry that may be written. */
export type ArchiveEntry = EntryKind & {
  /** It has extended attributes, which are not kept. */
  readonly hasXattrs: boolean;
};

type EntryKind =
  | { readonly kind: 'directory' | 'file'; readonly path: Components; readonly attributes: Attributes }
  | { readonly kind: 'symlink'; readonly path: Components; readonly target: string; readonly attributes: Attributes }
  | { readonly kind: 'hardlink'; readonly path: Components; readonly target: Components }
  /** Nothing a root file system needs: device nodes and FIFOs. */
  | { readonly kind: 'dropped'; readonly path: Components };

const MAX_NAME_BYTES = 255;
const MAX_LINK_BYTES = 4095;
const MAX_DEPTH = 256;
/** Nobody needs as many extended records: they would only cost time. */
const MAX_RECORDS = 1024;
const PERMISSIONS = 0o7777;
/** 2^33 seconds: the year 2242, within what every file system keeps. */
const MAX_MTIME = 2 ** 33;
/** What a lower layer of overlayfs is told by names: an imported root file system has nothing to hide. */
const WHITEOUT_PREFIX = '.wh.';
const XATTR = /^(?:SCHILY|LIBARCHIVE)\.xattr\./;
const NO_RECORDS: ReadonlyMap<string, string> = new Map();
/** Extended attributes that would steer overlayfs or the kernel's own bookkeeping. */
const REFUSED_XATTRS = /^(?:SCHILY\.xattr|LIBARCHIVE\.xattr)\.(?:trusted\.|user\.overlay\.)/;

/** A header as tar-stream gives it: fields that the archive left out or wrote wrongly may be null or no number. */
export interface ArchiveHeader {
  readonly name: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: Date;
  /** null for kinds that are not known. */
  readonly type: string | null;
  readonly linkname: string | null;
  /** Extended records (POSIX pax), text by keyword. */
  readonly pax?: unknown;
}

type Records = ReadonlyMap<string, string>;

/**
 * Reads a header.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the entry, RESOURCE_EXHAUSTED for a path above `maxPathBytes` or 256
 * directories deep
 */
export function parseEntry(header: ArchiveHeader, maxPathBytes: number): ArchiveEntry {
  const path = splitPath('entry', header.name, maxPathBytes);
  const records = recordsOf(header);
  refuseRecords(header, records);
  const hasXattrs = [...records.keys()].some((key) => XATTR.test(key));
  return { ...entryKind(header, path, records, maxPathBytes), hasXattrs };
}

function entryKind(header: ArchiveHeader, path: Components, records: Records, maxPathBytes: number): EntryKind {
  if (header.type === 'character-device' || header.type === 'block-device' || header.type === 'fifo') {
    return { kind: 'dropped', path };
  }
  if (header.type !== 'directory' && path.length === 0) throw refused(header.name, 'would replace the root directory');
  switch (header.type) {
    case 'directory':
      return { kind: 'directory', path, attributes: attributesOf(header, records) };
    case 'file':
    case 'contiguous-file':
      return { kind: 'file', path, attributes: attributesOf(header, records) };
    case 'symlink':
      return { kind: 'symlink', path, target: linkTarget(header), attributes: attributesOf(header, records) };
    case 'link':
      return { kind: 'hardlink', path, target: hardlinkTarget(header, maxPathBytes) };
    default:
      throw refused(header.name, 'is of a kind that is not supported (sparse files and multi-volume archives are not)');
  }
}

function hardlinkTarget(header: ArchiveHeader, maxPathBytes: number): Components {
  const target = splitPath('hard link target', header.linkname ?? '', maxPathBytes);
  if (target.length === 0) throw refused(header.name, 'is a hard link to nothing');
  return target;
}

function linkTarget(header: ArchiveHeader): string {
  const target = header.linkname ?? '';
  if (target === '' || target.includes('\0')) throw refused(header.name, 'is a symbolic link without a target');
  if (Buffer.byteLength(target) > MAX_LINK_BYTES)
    throw refused(header.name, 'is a symbolic link with too long a target');
  return target;
}

/** "./usr/bin/" to ["usr", "bin"]. Nothing absolute, nothing that climbs. */
function splitPath(what: string, name: string, maxPathBytes: number): Components {
  const refuse = (reason: string): RuntimeError => invalid('archive', `${what} ${quoted(name)} ${reason}`);
  if (name === '') throw refuse('has no name');
  if (Buffer.byteLength(name) > maxPathBytes) {
    throw new RuntimeError(
      'RESOURCE_EXHAUSTED',
      `archive: ${what} ${quoted(name)} is longer than ${maxPathBytes} bytes`,
    );
  }
  if (name.startsWith('/')) throw refuse('is an absolute path');
  // U+FFFD stands where bytes were no UTF-8: two such names could be one.
  if (name.includes('\0') || name.includes('\ufffd')) throw refuse('is not a UTF-8 file name');
  const components = name.split('/').filter((component) => component !== '' && component !== '.');
  if (components.length > MAX_DEPTH) {
    throw new RuntimeError(
      'RESOURCE_EXHAUSTED',
      `archive: ${what} ${quoted(name)} is deeper than ${MAX_DEPTH} directories`,
    );
  }
  for (const component of components) {
    if (component === '..') throw refuse('climbs out of its directory');
    if (component.startsWith(WHITEOUT_PREFIX)) throw refuse('is a whiteout, which a root file system cannot hold');
    if (Buffer.byteLength(component) > MAX_NAME_BYTES) throw refuse('has a name longer than 255 bytes');
  }
  return components;
}

function refuseRecords(header: ArchiveHeader, records: Records): void {
  for (const key of records.keys()) {
    if (REFUSED_XATTRS.test(key)) throw refused(header.name, `has the extended attribute ${quoted(key)}`);
    if (key.startsWith('GNU.sparse.')) throw refused(header.name, 'is a sparse file: archive it without --sparse');
  }
}

function attributesOf(header: ArchiveHeader, records: Records): Attributes {
  return {
    mode: header.mode & PERMISSIONS,
    uid: accountId(header, records, 'uid'),
    gid: accountId(header, records, 'gid'),
    mtime: mtimeOf(header, records),
  };
}

function accountId(header: ArchiveHeader, records: Records, field: 'uid' | 'gid'): number {
  const text = records.get(field) ?? String(header[field]);
  const id = parseAccountId(text);
  if (id === undefined) throw refused(header.name, `has the ${field} ${quoted(text)}`);
  return id;
}

/** A time that makes no sense is the epoch: it is no reason to refuse a file. */
function mtimeOf(header: ArchiveHeader, records: Records): number {
  const seconds = Number(records.get('mtime') ?? header.mtime.getTime() / 1000);
  return Math.abs(seconds) <= MAX_MTIME ? seconds : 0;
}

/** Extended records by keyword; none for most entries. */
function recordsOf(header: ArchiveHeader): Records {
  if (typeof header.pax !== 'object' || header.pax === null) return NO_RECORDS;
  const entries = Object.entries(header.pax);
  if (entries.length > MAX_RECORDS) throw refused(header.name, `has more than ${MAX_RECORDS} extended records`);
  return new Map(entries.map(([key, value]) => [key, String(value)]));
}

function refused(name: string, reason: string): RuntimeError {
  return invalid('archive', `entry ${quoted(name)} ${reason}`);
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}...` : text);
}
