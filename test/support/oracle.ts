/**
 * What is left on the machine, asked of the kernel and of the plugins' own state, never of the daemon. A scope names
 * what belongs to one daemon (directories, cgroup parent, bridges, subnets, lease directories, ids); everything found
 * inside it is named in a snapshot. Two snapshots are compared, or one is asserted to hold nothing.
 *
 *   const before = await snapshot(scope);
 *   ...
 *   await assertClean(scope, { before });
 */

import { files, loopDevices, mounts, records, sockets } from './oracle/files.ts';
import { interfaces, leases, netnsFiles, rules } from './oracle/network.ts';
import { cgroups, namespaces, processes, zombies } from './oracle/processes.ts';
import type { Scope } from './oracle/scope.ts';

export type { Scope } from './oracle/scope.ts';

/** Each finds one kind of thing inside a scope and names it. */
const FINDERS = {
  'netns file': netnsFiles,
  'network namespace': namespaces,
  interface: interfaces,
  'firewall rule': rules,
  lease: leases,
  mount: mounts,
  'loop device': loopDevices,
  cgroup: cgroups,
  process: processes,
  zombie: zombies,
  file: files,
  socket: sockets,
  record: records,
} as const satisfies Record<string, (scope: Scope) => readonly string[]>;

/** A kind of thing that can be left over. */
export type Kind = keyof typeof FINDERS;

export const KINDS: readonly Kind[] = Object.keys(FINDERS).filter(isKind);

/** Names of everything found, by kind. */
export type Snapshot = Readonly<Record<Kind, readonly string[]>>;

/** One thing that was not there before. */
export interface Leak {
  readonly kind: Kind;
  readonly name: string;
}

/** How strict {@link assertClean} is. */
export interface CleanOptions {
  /** What was there at the start and may stay. Without it nothing may be there at all. */
  readonly before?: Snapshot;
  /** Records that may be left, by name ("container/0123..."); those of the whole kind when true. */
  readonly allowRecords?: boolean | ((name: string) => boolean);
  /** Kinds that are not looked at. */
  readonly ignore?: readonly Kind[];
  /** How long the kernel may take to let go (processes being reaped, namespaces being freed); 5,000 unless given. */
  readonly settleMs?: number;
}

/** Everything in the scope, as the machine holds it now. */
export function snapshot(scope: Scope): Snapshot {
  const found = (kind: Kind): readonly string[] => [...new Set(FINDERS[kind](scope))].sort();
  return {
    'netns file': found('netns file'),
    'network namespace': found('network namespace'),
    interface: found('interface'),
    'firewall rule': found('firewall rule'),
    lease: found('lease'),
    mount: found('mount'),
    'loop device': found('loop device'),
    cgroup: found('cgroup'),
    process: found('process'),
    zombie: found('zombie'),
    file: found('file'),
    socket: found('socket'),
    record: found('record'),
  };
}

/** What `after` has and `before` has not. */
export function diff(before: Snapshot, after: Snapshot): Leak[] {
  return KINDS.flatMap((kind) => {
    const known = new Set(before[kind]);
    return after[kind].filter((name) => !known.has(name)).map((name) => ({ kind, name }));
  });
}

/**
 * Waits until nothing but what is allowed is left.
 * @throws naming everything that is still there after `settleMs`
 */
export async function assertClean(scope: Scope, options: CleanOptions = {}): Promise<void> {
  const deadline = Date.now() + (options.settleMs ?? 5000);
  for (;;) {
    const leaks = leaksOf(snapshot(scope), options);
    if (leaks.length === 0) return;
    if (Date.now() >= deadline) throw new Error(`left over:\n${formatLeaks(leaks)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** One line for each leak. */
export function formatLeaks(leaks: readonly Leak[]): string {
  return leaks.map(({ kind, name }) => `  ${kind}: ${name}`).join('\n');
}

function leaksOf(now: Snapshot, options: CleanOptions): Leak[] {
  const allowed = (name: string): boolean =>
    typeof options.allowRecords === 'function' ? options.allowRecords(name) : options.allowRecords === true;
  return diff(options.before ?? NOTHING, now).filter(({ kind, name }) => {
    if (options.ignore?.includes(kind) === true) return false;
    return kind !== 'record' || !allowed(name);
  });
}

const NOTHING: Snapshot = {
  'netns file': [],
  'network namespace': [],
  interface: [],
  'firewall rule': [],
  lease: [],
  mount: [],
  'loop device': [],
  cgroup: [],
  process: [],
  zombie: [],
  file: [],
  socket: [],
  record: [],
};

function isKind(name: string): name is Kind {
  return name in FINDERS;
}
