/**
 * Makes the host's cgroup layout one that crun takes. With v1 controllers in use, crun 1.8 wants every controller it
 * knows mounted; hugetlb often is not. A host with the unified hierarchy needs nothing.
 */

import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { mountAt, readMounts } from '../../src/mountinfo.ts';

const HUGETLB = '/sys/fs/cgroup/hugetlb';

/** True where controllers of cgroup v1 are mounted (v1 only, or hybrid). */
export function hasCgroupV1(): boolean {
  return readMounts().some((entry) => entry.fsType === 'cgroup' && entry.superOptions.includes('memory'));
}

/**
 * Mounts hugetlb as v1 where v1 is in use and the kernel has it to give. Idempotent, safe from several processes at
 * once, and left mounted: other tests rely on it. Without the right to mount it does nothing.
 */
export function mountHugetlb(): void {
  if (!hasCgroupV1() || !kernelHas('hugetlb') || mountAt(HUGETLB) !== undefined) return;
  mkdirSync(HUGETLB, { recursive: true });
  // Exit code 32 "already mounted" means that another process was faster.
  spawnSync('mount', ['-t', 'cgroup', '-o', 'hugetlb', 'cgroup', HUGETLB]);
}

function kernelHas(controller: string): boolean {
  return readFileSync('/proc/cgroups', 'utf8')
    .split('\n')
    .some((line) => line.startsWith(`${controller}\t`));
}
