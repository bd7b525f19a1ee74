/**
 * A cgroup for each container ("/<parent>/<id>" in every hierarchy) with the limits of the request. The OCI runtime
 * makes it and sets the limits; this reads usage and sees to it that no directory stays. An OOM kill is told by the
 * exit (`oomKilled`), not as a limitation: the kernel has already ended whom it chose, and a container whose helper
 * process died may well go on.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../../errors.ts';
import { hierarchyOf, readCgroupLayout } from '../cgroup-layout.ts';
import { CgroupTree } from '../cgroup-tree.ts';
import { readUsage } from '../cgroup-usage.ts';
import type { ContainerId, ContainerRecord } from '../container.ts';
import type { Contribution, Isolator, Usage } from '../isolator.ts';

/** The controller that each limit needs. */
const LIMITS = [
  { field: 'memory', resource: 'memoryBytes', controller: 'memory' },
  { field: 'cpus', resource: 'cpuMillis', controller: 'cpu' },
  { field: 'pids-limit', resource: 'pidsLimit', controller: 'pids' },
] as const;

export interface CgroupsIsolatorOptions {
  /** "berth": the directory below each hierarchy that holds all containers. */
  readonly cgroupParent: string;
  readonly log: Logger;
}

export class CgroupsIsolator implements Isolator {
  readonly name = 'cgroups';
  readonly #tree: CgroupTree;
  readonly #log: Logger;
  #pending: ReadonlySet<ContainerId> = new Set();

  constructor(options: CgroupsIsolatorOptions) {
    this.#tree = new CgroupTree({ parent: options.cgroupParent });
    this.#log = options.log.child({ component: 'cgroups' });
  }

  /** @throws {RuntimeError} FAILED_PRECONDITION when this host cannot set a limit that is asked for */
  validate({ spec }: ContainerRecord): void {
    const wanted = LIMITS.filter(({ resource }) => spec.resources[resource] !== undefined);
    if (wanted.length === 0) return;
    const layout = readCgroupLayout();
    for (const { field, controller } of wanted) {
      if (hierarchyOf(layout, controller) !== undefined) continue;
      throw new RuntimeError('FAILED_PRECONDITION', `${field}: this host has no ${controller} cgroup controller`);
    }
  }

  /** Removes empty directories of ended runs; those still in use stay pending. */
  async recover(running: ReadonlySet<ContainerId>, _: ReadonlySet<ContainerId>, signal: AbortSignal): Promise<void> {
    const left = new Set<ContainerId>();
    for (const id of this.#tree.ids()) {
      if (running.has(id)) continue;
      try {
        await this.cleanup(id, signal);
        this.#log.info({ containerId: id }, 'removed the cgroup of an ended run');
      } catch (error) {
        left.add(id);
        this.#log.warn({ containerId: id, err: error }, 'cgroup of an ended run is still in use');
      }
    }
    this.#pending = left;
  }

  async prepare({ id, spec }: ContainerRecord): Promise<Contribution> {
    return { cgroupsPath: this.#tree.pathOf(id), resources: spec.resources };
  }

  async usage(id: ContainerId): Promise<Usage> {
    return readUsage(this.#tree.pathOf(id));
  }

  pending(): ReadonlySet<ContainerId> {
    return this.#pending;
  }

  async cleanup(id: ContainerId, signal: AbortSignal): Promise<void> {
    await this.#tree.remove(id, signal);
    this.#pending = new Set([...this.#pending].filter((other) => other !== id));
  }
}
