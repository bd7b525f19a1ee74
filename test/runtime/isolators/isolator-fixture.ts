/** A record of a container as isolators get it. */
import type { ContainerRecord, ContainerSpec } from '../../../src/runtime/container.ts';
import { containerSpec } from '../../support/container-spec.ts';

export const ID = '0123456789abcdef0123456789abcdef';

export function recordOf(change: Partial<ContainerSpec> = {}, id: string = ID): ContainerRecord {
  const createdAt = new Date(0).toISOString();
  return { id, spec: containerSpec(change), createdAt, provisional: false, cleanupFailures: [] };
}
