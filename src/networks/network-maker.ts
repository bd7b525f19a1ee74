/**
 * Networks that people create and remove through Berth. A removal first makes the network unknown, so that nobody can be
 * attached any more, and then takes away what it has on the host: the bridge and the leases. What a crash cuts short is
 * finished at the next start.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { executablesOf } from '../cni/network.ts';
import type { NetworkConfigs } from '../cni/network-config.ts';
import { parseNetworkList } from '../cni/network-config-parser.ts';
import type { NetworkRecord } from '../cni/network-record.ts';
import type { PluginPath } from '../cni/plugin-path.ts';
import { RuntimeError } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import type { Subnet } from '../ipam/address.ts';
import { removeTree } from '../remove-tree.ts';
import type { RunProgram } from '../run-program.ts';
import type { Store } from '../store.ts';
import { CreatedFiles } from './created-files.ts';
import { hostRoutes } from './host-routes.ts';
import { checkNetworkName, designNetwork, type NetworkRequest, type Surroundings } from './network-design.ts';
import { subnetsOf } from './network-subnets.ts';

export interface NetworkMakerOptions {
  readonly configs: NetworkConfigs;
  readonly plugins: PluginPath;
  readonly store: Store<NetworkRecord>;
  /** Where files are written: the first configuration directory. */
  readonly confDir: string;
  /** Where the leases of created networks lie: nobody else's. */
  readonly leaseDir: string;
  readonly pools: readonly Subnet[];
  readonly run?: RunProgram;
  readonly log: Logger;
}

const NET = '/sys/class/net';
const REMOVE_MS = 30_000;

/** See the module's head. */
export class NetworkMaker {
  readonly #options: NetworkMakerOptions;
  readonly #files: CreatedFiles;
  readonly #log: Logger;

  constructor(options: NetworkMakerOptions) {
    this.#options = options;
    this.#files = new CreatedFiles(options.confDir);
    this.#log = options.log.child({ component: 'network' });
  }

  /** Finishes removals that were begun. What cannot be finished yet is logged and found again at the next start. */
  async recover(signal: AbortSignal): Promise<void> {
    this.#files.sweep();
    for (const name of this.#files.beingRemoved()) {
      await this.#takeAway(name, signal).catch((error: unknown) => {
        this.#log.error({ network: name, err: error }, 'removal of network incomplete');
      });
    }
  }

  /** Networks whose removal was begun and is not finished. */
  beingRemoved(): readonly string[] {
    return this.#files.beingRemoved();
  }

  /**
   * Writes the network's file; from then on containers can be attached.
   * @throws {RuntimeError} INVALID_ARGUMENT, ALREADY_EXISTS, FAILED_PRECONDITION or RESOURCE_EXHAUSTED naming the field
   */
  create(request: NetworkRequest): void {
    const { name, parent } = request;
    checkNetworkName(name);
    const known = this.#options.configs.list().find((summary) => summary.name === name);
    if (known !== undefined) throw new RuntimeError('ALREADY_EXISTS', `name: network ${name} is in ${known.file}`);
    if (this.#files.isRetired(name)) {
      throw new RuntimeError('FAILED_PRECONDITION', `name: network ${name} is being removed: berth network rm ${name}`);
    }
    const text = `${JSON.stringify(designNetwork(request, this.#surroundings(name)), null, 2)}\n`;
    for (const type of parseNetworkList(text).plugins.flatMap(executablesOf)) this.#options.plugins.find(type);
    if (parent !== undefined && !existsSync(join(NET, parent))) {
      throw new RuntimeError('FAILED_PRECONDITION', `parent: this host has no interface ${parent}`);
    }
    this.#files.write(name, text);
    this.#log.info({ network: name, file: this.#files.path(name) }, 'network created');
  }

  /**
   * Removes a created network and what it has on the host. May be repeated until it succeeds.
   * @throws {RuntimeError} FAILED_PRECONDITION while a container is attached, or when the file is not ours
   */
  async remove(name: string, signal: AbortSignal): Promise<void> {
    if (!this.#files.isRetired(name)) this.#retire(name);
    await this.#takeAway(name, signal);
  }

  /** Removes created networks that nobody is attached to and `wanted` does not name. Returns their names. */
  async prune(wanted: ReadonlySet<string>, signal: AbortSignal): Promise<string[]> {
    const created = this.#options.configs.list().filter(({ name, file }) => file === this.#files.path(name));
    const names = created.map(({ name }) => name).filter((name) => !wanted.has(name) && !this.#isHeld(name));
    for (const name of names) await this.remove(name, signal);
    return names;
  }

  /** Nothing waits in here: between the look at the records and the rename nobody can be attached. */
  #retire(name: string): void {
    const { summary } = this.#options.configs.inspect(name);
    if (summary.file !== this.#files.path(name)) {
      const text = `network: ${name} was not made by Berth: remove ${summary.file} when nobody uses it any more`;
      throw new RuntimeError('FAILED_PRECONDITION', text);
    }
    if (this.#isHeld(name)) {
      const text = `network: ${name} has containers (berth network inspect ${name}): disconnect or remove them first`;
      throw new RuntimeError('FAILED_PRECONDITION', text);
    }
    this.#files.retire(name);
  }

  /** A container is attached, whatever the state of that; a record that does not decode may stand for one. */
  #isHeld(name: string): boolean {
    const { store } = this.#options;
    const attached = [...store.entries().values()].flatMap(({ attachments }) => attachments);
    return store.damaged().size > 0 || attached.some((entry) => entry.network.name === name);
  }

  async #takeAway(name: string, signal: AbortSignal): Promise<void> {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(REMOVE_MS)]);
    await this.#removeBridge(bridgeName(this.#options.confDir, name), bounded);
    await removeTree(join(this.#options.leaseDir, name), bounded);
    this.#files.forget(name);
    this.#log.info({ network: name }, 'network removed');
  }

  async #removeBridge(bridge: string, signal: AbortSignal): Promise<void> {
    if (!existsSync(join(NET, bridge, 'bridge'))) return;
    const ports = readdirSync(join(NET, bridge, 'brif'));
    if (ports.length > 0) {
      throw new RuntimeError('FAILED_PRECONDITION', `bridge ${bridge} has ports nobody knows: ${ports.join(', ')}`);
    }
    const { run } = this.#options;
    const args = ['link', 'delete', bridge, 'type', 'bridge'];
    await hostCommand('ip', args, signal, run === undefined ? {} : { run });
  }

  #surroundings(name: string): Surroundings {
    const { configs, store, confDir, leaseDir, pools } = this.#options;
    const files = configs.list().filter(({ state }) => state === 'ready' || state === 'missing-plugin');
    const known = files.map((summary) => configs.inspect(summary.name).config);
    // A network whose file has gone may still have containers.
    const records = [...store.entries().values()].flatMap(({ attachments }) => attachments);
    const networks = [...known, ...records.map((entry) => entry.network)];
    return {
      pools,
      networks: networks.flatMap((network) =>
        subnetsOf(network).map((subnet) => ({ subnet, holder: `network ${network.name}` })),
      ),
      routes: hostRoutes().map((subnet) => ({ subnet, holder: 'a route of this host' })),
      leaseDir,
      bridge: bridgeName(confDir, name),
    };
  }
}

/** A name that fits the kernel's 15 bytes, different for daemons with different configurations. */
export function bridgeName(confDir: string, network: string): string {
  return `br-${createHash('sha256').update(`${confDir}\0${network}`).digest('hex').slice(0, 12)}`;
}
