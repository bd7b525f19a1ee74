/**
 * Fresh pid, mount, ipc, uts and cgroup namespaces for every container, and its host name. The network namespace is
 * the network isolator's.
 */
import type { ContainerRecord } from '../container.ts';
import type { Contribution, Isolator, NamespaceType } from '../isolator.ts';

/** Namespaces a container never shares with the host. */
export const PRIVATE_NAMESPACES: readonly NamespaceType[] = ['pid', 'mount', 'ipc', 'uts', 'cgroup'];

/** The host name a container sees: the one asked for, else the first 12 digits of its id. */
export function hostnameOf(container: ContainerRecord): string {
  return container.spec.hostname ?? container.id.slice(0, 12);
}

/** Contributes namespaces and host name. Holds nothing. */
export class NamespacesIsolator implements Isolator {
  readonly name = 'linux/namespaces';

  async recover(): Promise<void> {
    // Namespaces end with their last process.
  }

  async prepare(container: ContainerRecord): Promise<Contribution> {
    return { namespaces: PRIVATE_NAMESPACES.map((type) => ({ type })), hostname: hostnameOf(container) };
  }

  async cleanup(): Promise<void> {
    // Nothing was taken.
  }
}
