/**
 * Paths of the kernel's own file systems that a container must not read or write (docker's lists). Masked ones are
 * covered, read-only ones can be read.
 */
import type { Contribution, Isolator } from '../isolator.ts';

/** Covered: a file by /dev/null, a directory by an empty read-only tmpfs. */
export const MASKED_PATHS: readonly string[] = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/devices/virtual/powercap',
  '/sys/firmware',
];

/** Readable only. */
export const READONLY_PATHS: readonly string[] = [
  '/proc/bus',
  '/proc/fs',
  '/proc/irq',
  '/proc/sys',
  '/proc/sysrq-trigger',
];

/** Contributes both lists to every container. Holds nothing. */
export class PathsIsolator implements Isolator {
  readonly name = 'linux/paths';

  async recover(): Promise<void> {
    // Nothing outlives a run.
  }

  async prepare(): Promise<Contribution> {
    return { maskedPaths: MASKED_PATHS, readonlyPaths: READONLY_PATHS };
  }

  async cleanup(): Promise<void> {
    // Nothing was taken.
  }
}
