/** Mounts, loop devices, files, sockets and database records of a scope. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { systemCode } from '../../../src/errors.ts';
import { readMounts } from '../../../src/mountinfo.ts';
import { isInside, list, read, type Scope } from './scope.ts';

/** Mounts at or below our directories, less named namespaces, which are a kind of their own. */
export function mounts(scope: Pick<Scope, 'dirs'>): string[] {
  return readMounts()
    .filter((entry) => entry.fsType !== 'nsfs' && isInside(scope, entry.mountPoint))
    .map((entry) => `${entry.mountPoint} (${entry.fsType} from ${entry.source})`);
}

/** Loop devices whose backing file lies, or lay, in our directories. */
export function loopDevices(scope: Pick<Scope, 'dirs'>): string[] {
  return list('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .flatMap((name) => {
      const backing = read(`/sys/block/${name}/loop/backing_file`).trim();
      const inside = backing !== '' && isInside(scope, backing.replace(/ \(deleted\)$/, ''));
      return inside ? [`/dev/${name} on ${backing}`] : [];
    });
}

/**
 * Every file and directory below our directories, less what lies in mounts, sockets, databases and leases. Directories
 * that give our directories their shape ("netns", "csi/mounts") are made once and stay: what lies in them counts.
 */
export function files(scope: Scope): string[] {
  const mounted = new Set(readMounts().map((entry) => entry.mountPoint));
  const skip = (path: string): boolean =>
    mounted.has(path) || scope.leaseDirs.includes(path) || scope.ignoreFiles?.(path) === true || isDatabase(path);
  return scope.dirs.flatMap((dir) => below(dir, skip, 2));
}

function below(dir: string, skip: (path: string) => boolean, shapeDepth: number): string[] {
  return entries(dir).flatMap((entry) => {
    const path = join(dir, entry.name);
    if (skip(path) || entry.isSocket()) return [];
    if (!entry.isDirectory()) return [path];
    const isShape = shapeDepth > 0 && /^[a-z-]+$/.test(entry.name);
    return [...(isShape ? [] : [`${path}/`]), ...below(path, skip, shapeDepth - 1)];
  });
}

/** Sockets that have a name in our directories, live or stale. */
export function sockets(scope: Scope): string[] {
  const live = read('/proc/net/unix')
    .split('\n')
    .map((line) => line.split(' ').slice(7).join(' ').trim())
    .filter((path) => path.startsWith('/') && isInside(scope, path));
  const mounted = new Set(readMounts().map((entry) => entry.mountPoint));
  const named = scope.dirs.flatMap((dir) => socketFiles(dir, mounted));
  return [...live, ...named];
}

function socketFiles(dir: string, mounted: ReadonlySet<string>): string[] {
  return entries(dir).flatMap((entry) => {
    const path = join(dir, entry.name);
    if (entry.isSocket()) return [path];
    return entry.isDirectory() && !mounted.has(path) ? socketFiles(path, mounted) : [];
  });
}

/** Rows of the daemon's database, "kind/key", read without disturbing a daemon that has it open. */
export function records(scope: Scope): string[] {
  return scope.dirs
    .flatMap((dir) =>
      list(dir)
        .filter(isDatabaseFile)
        .map((name) => join(dir, name)),
    )
    .flatMap(rows);
}

function rows(path: string): string[] {
  const db = new DatabaseSync(path, { readOnly: true, timeout: 5000 });
  try {
    // A daemon that was killed while it made the file has no tables in it yet.
    if (db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'records'").get() === undefined) return [];
    return db
      .prepare('SELECT kind, key FROM records')
      .all()
      .map((row) => `${row['kind']}/${row['key']}`);
  } finally {
    db.close();
  }
}

function isDatabaseFile(name: string): boolean {
  return name.endsWith('.db');
}

function isDatabase(path: string): boolean {
  return /\.db(-wal|-shm|-journal)?$/.test(path);
}

function entries(dir: string) {
  try {
    return readdirSync(dir, { withFileTypes: true });
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}
