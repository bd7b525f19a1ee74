/** Whether mounts made below a directory reach other mount namespaces, by the kernel's list of mounts. Pure. */
import type { MountEntry } from '../mountinfo.ts';

/** The mount a path lies on, and whether it is shared. */
export interface MountPropagation {
  readonly mountPoint: string;
  readonly shared: boolean;
}

/** The mount that `path` (absolute, without links) lies on: the longest mount point, of several there the latest. */
export function propagationOf(mounts: readonly MountEntry[], path: string): MountPropagation | undefined {
  const above = mounts.filter(({ mountPoint }) => {
    return mountPoint === '/' || path === mountPoint || path.startsWith(`${mountPoint}/`);
  });
  const longest = Math.max(...above.map(({ mountPoint }) => mountPoint.length));
  const entry = above.findLast(({ mountPoint }) => mountPoint.length === longest);
  if (entry === undefined) return undefined;
  return { mountPoint: entry.mountPoint, shared: entry.propagation.some((field) => field.startsWith('shared:')) };
}
