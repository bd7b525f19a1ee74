/**
 * How containers on one network find each other: each has the others in its hosts file, by container name and alias.
 * When one comes or goes the files of all members of its networks are written anew, in place, since a container holds
 * the file itself and not its name. Addresses and names are read off the records, so a start of the daemon loses none.
 */
import { setImmediate as endOfTurn } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { ContainerId } from '../runtime/container.ts';
import type { Store } from '../store.ts';
import { attachedTexts, hostsText, type Peer, peerOf } from './container-file-texts.ts';
import type { ContainerFiles } from './container-files.ts';
import type { NetworkRecord, RecordedAttachment } from './network-record.ts';
import { statusOf } from './network-status.ts';

/** Options of {@link NetworkNames}. */
export interface NetworkNamesOptions {
  readonly store: Store<NetworkRecord>;
  readonly files: ContainerFiles;
  readonly log: Logger;
}

/** See the module's head. */
export class NetworkNames {
  readonly #store: Store<NetworkRecord>;
  readonly #files: ContainerFiles;
  readonly #log: Logger;
  /** Networks whose members are to be told. */
  readonly #changed = new Set<string>();
  #round: Promise<void> | undefined;

  constructor(options: NetworkNamesOptions) {
    this.#store = options.store;
    this.#files = options.files;
    this.#log = options.log;
  }

  /**
   * Fills the files of a container whose networks are attached.
   * @throws {RuntimeError} as {@link attachedTexts}, and when a file cannot be written
   */
  fill(id: ContainerId, record: NetworkRecord): void {
    this.#files.fill(id, attachedTexts(record, new Directory(this.#store.entries()).peersOf(id, record)));
  }

  /**
   * Writes the hosts files of all members of these networks. Calls of one turn of the event loop are served together.
   * Never rejects: a file that cannot be written is that container's trouble, and is logged.
   */
  refresh(networks: readonly string[]): Promise<void> {
    if (networks.length === 0) return Promise.resolve();
    for (const network of networks) this.#changed.add(network);
    this.#round ??= this.#tell();
    return this.#round;
  }

  async #tell(): Promise<void> {
    await endOfTurn();
    this.#round = undefined;
    const changed = new Set(this.#changed);
    this.#changed.clear();
    const directory = new Directory(this.#store.entries());
    for (const [id, record] of this.#store.entries()) {
      if (record.names === undefined || !networksOf(record).some((network) => changed.has(network))) continue;
      try {
        this.#files.fill(id, { hosts: hostsText(record, directory.peersOf(id, record)) });
      } catch (error) {
        this.#log.warn({ err: error, containerId: id }, 'hosts file cannot be kept current');
      }
    }
  }
}

/** Who is on which network at one moment. Asked for each member of a network, it looks at the records once. */
class Directory {
  readonly #records: ReadonlyMap<ContainerId, NetworkRecord>;
  readonly #members = new Map<string, readonly Peer[]>();

  constructor(records: ReadonlyMap<ContainerId, NetworkRecord>) {
    this.#records = records;
  }

  /** The others on the networks of a container: in the order of its networks, then by name. */
  peersOf(id: ContainerId, record: NetworkRecord): readonly Peer[] {
    return networksOf(record).flatMap((network) => this.#on(network).filter(({ containerId }) => containerId !== id));
  }

  #on(network: string): readonly Peer[] {
    const known = this.#members.get(network);
    if (known !== undefined) return known;
    const members = [...this.#records].flatMap(([id, record]) => membersOf(id, record, network));
    members.sort((a, b) => order(a.names[0], b.names[0]));
    this.#members.set(network, members);
    return members;
  }
}

/** Names of the networks a container is attached to. */
export function networksOf(record: NetworkRecord): readonly string[] {
  return record.attachments.filter(({ state }) => state === 'added').map(({ network }) => network.name);
}

/** A container as others on the network see it: one entry for each of its addresses there. */
function membersOf(id: ContainerId, record: NetworkRecord, network: string): Peer[] {
  if (record.names === undefined) return [];
  const { name, naming } = record.names;
  return record.attachments
    .filter((entry) => entry.state === 'added' && entry.network.name === network)
    .flatMap((entry) => {
      const names = [...new Set([name, ...(naming?.aliases ?? []), ...aliasesOf(entry)])];
      const addresses = statusOf({ ...record, attachments: [entry] }).flatMap((status) => status.addresses);
      return addresses.map((cidr) => peerOf(id, cidr.split('/')[0] ?? cidr, names));
    });
}

/** Names for one network only: recorded in the words of the capability, for plugins that declare it. */
function aliasesOf({ capabilityArgs }: RecordedAttachment): readonly string[] {
  const aliases = capabilityArgs['aliases'];
  return Array.isArray(aliases) ? aliases.filter((alias) => typeof alias === 'string') : [];
}

function order(a = '', b = ''): number {
  return a < b ? -1 : Number(a > b);
}
