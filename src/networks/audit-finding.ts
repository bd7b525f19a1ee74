/** What an audit finds, and what the records say should be there. Pure, but for the list of namespaces that live. */
import { basename, dirname } from 'node:path';
import type { ResolvedNetwork } from '../cni/network.ts';
import type { NetworkRecord, RecordedAttachment } from '../cni/network-record.ts';
import { statusOf } from '../cni/network-status.ts';
import { readMounts } from '../mountinfo.ts';
import type { ContainerId } from '../runtime/container.ts';
import type { Store } from '../store.ts';

/**
 * attachment: a DEL that is due. configuration: the removal of a network that is not finished. The others are what they
 * are called on the host; files are those of a container in the run directory.
 */
export type FindingKind =
  | 'attachment'
  | 'namespace'
  | 'files'
  | 'interface'
  | 'route'
  | 'rule'
  | 'lease'
  | 'configuration';

/** Something that is there without an owner, or is missing though its owner is there. */
export interface Finding {
  readonly kind: FindingKind;
  readonly name: string;
  /** Empty when it belongs to no network. */
  readonly network: string;
  /** Whose it was or is; empty when it does not tell. */
  readonly containerId: ContainerId | '';
  readonly missing: boolean;
  readonly detail: string;
}

/** A finding with what mends it; without that it is only told. */
export interface Suspect extends Finding {
  readonly repair?: (signal: AbortSignal) => Promise<void>;
}

/** An attachment that is to be found on the host. */
export interface Owner {
  readonly containerId: ContainerId;
  readonly entry: RecordedAttachment;
  readonly netnsPath: string;
  /** "10.86.0.5/16" */
  readonly addresses: readonly string[];
  /** Its run is over: a DEL is due, and what is missing is of no interest. */
  readonly stale: boolean;
}

/** Everything on record about one network. */
export interface Owners {
  readonly network: ResolvedNetwork;
  readonly owners: readonly Owner[];
  /** Ids that may hold anything: with an attachment here, or with a record that does not decode. */
  readonly ids: ReadonlySet<ContainerId>;
  /** False while something is not known: a call that was cut short, a record that does not decode. */
  readonly certain: boolean;
  /** Containers of the network whose namespace lives, but is not one of this daemon's: another uses it as well. */
  readonly elsewhere: ReadonlySet<string>;
}

/** What the records say about a network. */
export function ownersOf(
  network: ResolvedNetwork,
  store: Store<NetworkRecord>,
  stale: ReadonlySet<ContainerId>,
  elsewhere: ReadonlySet<string>,
): Owners {
  const owners = [...store.entries()].flatMap(([containerId, record]) =>
    record.attachments
      .filter((entry) => entry.network.name === network.name)
      .map((entry) => ownerOf(containerId, record, entry, stale.has(containerId))),
  );
  const damaged = [...store.damaged().keys()];
  return {
    network,
    owners,
    ids: new Set([...owners.map(({ containerId }) => containerId), ...damaged]),
    certain: damaged.length === 0 && owners.every(({ entry }) => entry.state === 'added'),
    elsewhere,
  };
}

function ownerOf(containerId: ContainerId, record: NetworkRecord, entry: RecordedAttachment, stale: boolean): Owner {
  const status = statusOf(record).find(({ interfaceName }) => interfaceName === entry.interfaceName);
  return { containerId, entry, netnsPath: record.netnsPath, addresses: status?.addresses ?? [], stale };
}

/** Names of live namespaces outside a directory: runtimes name them by their containers. */
export function namespacesElsewhere(ownDir: string): ReadonlySet<string> {
  const mounts = readMounts().filter(({ fsType, mountPoint }) => fsType === 'nsfs' && dirname(mountPoint) !== ownDir);
  return new Set(mounts.map(({ mountPoint }) => basename(mountPoint)));
}

export const ELSEWHERE = 'its namespace lives outside this daemon: another one uses the network';
