/**
 * Which cgroup hierarchies this host has, read from the mount table: v1 trees, one a controller or group of them, the
 * v2 tree, or both side by side (hybrid). A hierarchy is a directory; the cgroup "/berth/ID" lies below each.
 *
 *   v1       /sys/fs/cgroup/memory   /sys/fs/cgroup/pids   ...
 *   hybrid   the same, and /sys/fs/cgroup/unified without the controllers that v1 holds
 *   v2       /sys/fs/cgroup
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../errors.ts';
import { type MountEntry, readMounts } from '../mountinfo.ts';

/** Where hierarchies are mounted; runtimes look nowhere else. */
export const CGROUP_ROOT = '/sys/fs/cgroup';

/** One tree of cgroups. */
export interface CgroupHierarchy {
  readonly mountPoint: string;
  /** "plain": a directory runtimes take for a v1 tree though nothing is mounted there; crun leaves litter in it. */
  readonly kind: 'v1' | 'v2' | 'plain';
  /** v1: the controllers of this tree, "name=systemd" included. v2: those listed in cgroup.controllers. */
  readonly controllers: readonly string[];
}

/** The layout of a host. */
export interface CgroupLayout {
  readonly mode: 'v1' | 'hybrid' | 'v2' | 'none';
  readonly hierarchies: readonly CgroupHierarchy[];
}

/** Options of a v1 mount that are no controllers. */
const MOUNT_OPTIONS: ReadonlySet<string> = new Set(['rw', 'ro', 'xattr', 'noprefix', 'clone_children']);

/** The hierarchies of this host, as they are mounted now. */
export function readCgroupLayout(mounts: readonly MountEntry[] = readMounts()): CgroupLayout {
  // A mount at the root hides whatever was mounted below it before.
  const covering = mounts.findLastIndex((entry) => entry.mountPoint === CGROUP_ROOT);
  const visible = mounts.slice(Math.max(covering, 0)).filter((entry) => isBelowRoot(entry.mountPoint));
  const mounted = visible.flatMap((entry): CgroupHierarchy[] => {
    const { mountPoint } = entry;
    if (entry.fsType === 'cgroup2') return [{ mountPoint, kind: 'v2', controllers: v2Controllers(mountPoint) }];
    if (entry.fsType !== 'cgroup') return [];
    const controllers = entry.superOptions.filter((option) => !MOUNT_OPTIONS.has(option));
    return [{ mountPoint, kind: 'v1', controllers }];
  });
  const hasV1 = mounted.some((hierarchy) => hierarchy.kind === 'v1');
  const hasV2 = mounted.some((hierarchy) => hierarchy.kind === 'v2');
  const mode = hasV1 ? (hasV2 ? 'hybrid' : 'v1') : hasV2 ? 'v2' : 'none';
  return { mode, hierarchies: hasV1 ? [...mounted, ...plainDirectories(mounted)] : mounted };
}

/** The tree that holds a controller ("memory"), if the host has it; a v2 tree only where it offers the controller. */
export function hierarchyOf(layout: CgroupLayout, controller: string): CgroupHierarchy | undefined {
  return layout.hierarchies.find((hierarchy) => hierarchy.controllers.includes(controller));
}

function isBelowRoot(path: string): boolean {
  return path === CGROUP_ROOT || path.startsWith(`${CGROUP_ROOT}/`);
}

function v2Controllers(mountPoint: string): string[] {
  try {
    const text = readFileSync(join(mountPoint, 'cgroup.controllers'), 'utf8').trim();
    return text === '' ? [] : text.split(' ');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}

function plainDirectories(mounted: readonly CgroupHierarchy[]): CgroupHierarchy[] {
  const known = new Set(mounted.map((hierarchy) => hierarchy.mountPoint));
  return readdirSync(CGROUP_ROOT, { withFileTypes: true }).flatMap((entry): CgroupHierarchy[] => {
    const mountPoint = join(CGROUP_ROOT, entry.name);
    if (!entry.isDirectory() || known.has(mountPoint)) return [];
    return [{ mountPoint, kind: 'plain', controllers: [] }];
  });
}
