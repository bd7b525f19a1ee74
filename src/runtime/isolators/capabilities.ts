/**
 * Capabilities of a container: docker's default set less NET_RAW (raw sockets allow spoofing on a bridge), plus what
 * the request adds, less what it drops. Inheritable and ambient sets stay empty (CVE-2022-24769): see oci-spec.ts.
 */
import { readFileSync } from 'node:fs';
import { invalid } from '../../errors.ts';
import type { ContainerRecord, ContainerSpec } from '../container.ts';
import type { Contribution, Isolator } from '../isolator.ts';

/** Every capability of Linux 5.9 and later, in the kernel's order: the index is the number (linux/capability.h). */
export const CAPABILITIES: readonly string[] = [
  'CHOWN',
  'DAC_OVERRIDE',
  'DAC_READ_SEARCH',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'LINUX_IMMUTABLE',
  'NET_BIND_SERVICE',
  'NET_BROADCAST',
  'NET_ADMIN',
  'NET_RAW',
  'IPC_LOCK',
  'IPC_OWNER',
  'SYS_MODULE',
  'SYS_RAWIO',
  'SYS_CHROOT',
  'SYS_PTRACE',
  'SYS_PACCT',
  'SYS_ADMIN',
  'SYS_BOOT',
  'SYS_NICE',
  'SYS_RESOURCE',
  'SYS_TIME',
  'SYS_TTY_CONFIG',
  'MKNOD',
  'LEASE',
  'AUDIT_WRITE',
  'AUDIT_CONTROL',
  'SETFCAP',
  'MAC_OVERRIDE',
  'MAC_ADMIN',
  'SYSLOG',
  'WAKE_ALARM',
  'BLOCK_SUSPEND',
  'AUDIT_READ',
  'PERFMON',
  'BPF',
  'CHECKPOINT_RESTORE',
];

/** What a container has when the request says nothing. */
export const DEFAULT_CAPABILITIES: readonly string[] = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'NET_BIND_SERVICE',
  'SYS_CHROOT',
  'SETFCAP',
];

const ALL = 'ALL';

/**
 * Full names ("CAP_CHOWN") a request comes to. `ALL` in the drops clears the defaults; `ALL` in the additions means
 * every capability berthd itself may hold. A name in both lists is dropped, except that an addition survives `drop ALL`.
 */
export function effectiveCapabilities(spec: Pick<ContainerSpec, 'capAdd' | 'capDrop'>): string[] {
  const added = spec.capAdd.includes(ALL) ? boundingSet() : spec.capAdd;
  const base = spec.capDrop.includes(ALL) ? [] : DEFAULT_CAPABILITIES;
  const dropped = new Set(spec.capDrop);
  const names = new Set([...base, ...added]);
  return CAPABILITIES.filter((name) => names.has(name) && !dropped.has(name)).map((name) => `CAP_${name}`);
}

/** Contributes the set; refuses names the kernel does not have. Holds nothing. */
export class CapabilitiesIsolator implements Isolator {
  readonly name = 'linux/capabilities';

  validate({ spec }: ContainerRecord): void {
    checkNames('cap-add', spec.capAdd);
    checkNames('cap-drop', spec.capDrop);
    const bounding = new Set(boundingSet());
    const beyond = spec.capAdd.find((name) => name !== ALL && !bounding.has(name));
    if (beyond !== undefined) throw invalid('cap-add', `${beyond} cannot be given: berthd itself may not hold it`);
  }

  async recover(): Promise<void> {
    // Nothing outlives a run.
  }

  async prepare({ spec }: ContainerRecord): Promise<Contribution> {
    return { capabilities: effectiveCapabilities(spec) };
  }

  async cleanup(): Promise<void> {
    // Nothing was taken.
  }
}

function checkNames(field: string, names: readonly string[]): void {
  const unknown = names.find((name) => name !== ALL && !CAPABILITIES.includes(name));
  if (unknown !== undefined) throw invalid(field, `${JSON.stringify(unknown)} is no capability of Linux`);
}

/** What this process may hand on: a capability outside its bounding set makes the runtime fail. */
function boundingSet(): string[] {
  const mask = /^CapBnd:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const bits = BigInt(`0x${mask}`);
  return CAPABILITIES.filter((_, number) => (bits & (1n << BigInt(number))) !== 0n);
}
