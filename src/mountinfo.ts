/**
 * The kernel's own list of mounts, read from /proc/self/mountinfo. Berth believes this list and nothing else when it
 * asks whether something is mounted: a stat on a dead volume would hang, reading the list never does.
 */
import { readFileSync } from 'node:fs';

/** One line of mountinfo (proc_pid_mountinfo(5)). */
export interface MountEntry {
  readonly mountId: number;
  readonly parentId: number;
  /** "major:minor" of the file system. */
  readonly device: string;
  /** Path inside the file system that forms the root of this mount. */
  readonly root: string;
  readonly mountPoint: string;
  readonly options: readonly string[];
  /** Optional fields such as "shared:1". */
  readonly propagation: readonly string[];
  readonly fsType: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

/** Parses the text of a mountinfo file; a line that does not fit is left out. */
export function parseMountInfo(text: string): MountEntry[] {
  return text.split('\n').flatMap((line) => {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    const [mountId, parentId, device, root, mountPoint, options] = fields;
    const [fsType, source, superOptions] = fields.slice(dash + 1);
    if (dash < 0 || mountPoint === undefined || root === undefined || fsType === undefined) return [];
    return [
      {
        mountId: Number(mountId),
        parentId: Number(parentId),
        device: device ?? '',
        root: unescaped(root),
        mountPoint: unescaped(mountPoint),
        options: (options ?? '').split(','),
        propagation: fields.slice(6, dash),
        fsType,
        source: unescaped(source ?? ''),
        superOptions: (superOptions ?? '').split(','),
      },
    ];
  });
}

/** Mounts of this process's namespace, in mount order: later entries cover earlier ones at the same place. */
export function readMounts(): MountEntry[] {
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/** The topmost mount at exactly `path`, if there is one. */
export function mountAt(path: string): MountEntry | undefined {
  return readMounts().findLast((entry) => entry.mountPoint === path);
}

/** Mounts at `path` or below it, deepest and latest first: the order in which they can be taken away. */
export function mountsBelow(path: string): MountEntry[] {
  return readMounts()
    .filter((entry) => entry.mountPoint === path || entry.mountPoint.startsWith(`${path}/`))
    .reverse();
}

/** Undoes the kernel's octal escapes for space, tab, line feed and backslash. */
function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
