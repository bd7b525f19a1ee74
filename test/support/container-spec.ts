/** A request for a container that passes validation, to be changed where a test wants. */
import type { ContainerSpec } from '../../src/runtime/container.ts';

export function containerSpec(change: Partial<ContainerSpec> = {}): ContainerSpec {
  return {
    name: 'box',
    image: 'busybox',
    command: ['true'],
    env: [],
    labels: {},
    resources: {},
    readOnlyRootfs: false,
    capAdd: [],
    capDrop: [],
    network: ['berth'],
    ports: [],
    mounts: [],
    devices: [],
    autoRemove: false,
    ...change,
  };
}
