/**
 * What containers get that Berth makes for itself and that work on the host (ContainerSpec.hostAccess): all devices, the
 * host's /dev, a /sys that can be written to, and places of the host whose mounts are seen on both sides. Nothing of it
 * can be asked for through the API.
 */
import { statSync } from 'node:fs';
import { RuntimeError } from '../../errors.ts';
import type { ContainerRecord, HostMount } from '../container.ts';
import type { Contribution, Isolator, Mount } from '../isolator.ts';

const KERNEL_MOUNTS: readonly Mount[] = [
  { destination: '/dev', type: 'bind', source: '/dev', options: ['rbind', 'rslave'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev'] },
  {
    destination: '/sys/fs/cgroup',
    type: 'cgroup',
    source: 'cgroup',
    options: ['nosuid', 'noexec', 'nodev', 'relatime', 'ro'],
  },
];

/** Contributes all of it. Holds nothing: what a process mounted inside ends with its mount namespace. */
export class HostAccessIsolator implements Isolator {
  readonly name = 'linux/host-access';

  /** @throws {RuntimeError} NOT_FOUND when a place of the host is missing */
  validate({ spec }: ContainerRecord): void {
    for (const { source } of spec.hostAccess?.mounts ?? []) {
      if (statSync(source, { throwIfNoEntry: false }) !== undefined) continue;
      throw new RuntimeError('NOT_FOUND', `mounts: ${source} is not there`);
    }
  }

  async recover(): Promise<void> {
    // Nothing outlives a run.
  }

  async prepare({ spec }: ContainerRecord): Promise<Contribution> {
    if (spec.hostAccess === undefined) return {};
    return {
      allDevices: true,
      mountPropagation: 'shared',
      mounts: [...KERNEL_MOUNTS, ...spec.hostAccess.mounts.map(mountOf)],
    };
  }

  async cleanup(): Promise<void> {
    // Nothing was taken.
  }
}

function mountOf({ source, target, readOnly, propagation }: HostMount): Mount {
  // A read-only flag would not reach what is mounted below.
  const options = readOnly ? ['bind', 'ro', propagation] : ['rbind', `r${propagation}`];
  return { destination: target, type: 'bind', source, options };
}
