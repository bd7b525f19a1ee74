/**
 * Makes the host's rules for running containers again after something flushed them (a firewall that was restarted).
 * Addresses, interfaces and connections stay: only what makes rules is run.
 *
 *   portmap, firewall     their ADD with the recorded result; both make each rule once
 *   bridge, ptp           cannot be added twice: their masquerading rules are written as they write them,
 *                         by iptables or nftables as their configuration says
 */
import type { Logger } from 'pino';
import type { CniRuntime } from '../cni/cni-runtime.ts';
import type { ContainerLanes } from '../cni/container-lanes.ts';
import { typeOf } from '../cni/network.ts';
import type { NetworkConfigs } from '../cni/network-config.ts';
import { attachmentOf, type NetworkRecord, type RecordedAttachment } from '../cni/network-record.ts';
import { statusOf } from '../cni/network-status.ts';
import { RuntimeError } from '../errors.ts';
import type { RunProgram } from '../run-program.ts';
import type { ContainerId } from '../runtime/container.ts';
import type { Store } from '../store.ts';
import { changeRules, readHostRules } from './host-rules.ts';
import { masqueradeRules, missingLines } from './masquerade.ts';
import { makeNftRules, missingNftRules, nftMasqueradeRules, readNftMasquerade } from './nft-masquerade.ts';

export interface NetworkReloadOptions {
  readonly cni: CniRuntime;
  readonly configs: NetworkConfigs;
  readonly store: Store<NetworkRecord>;
  readonly lanes: Pick<ContainerLanes, 'inLane'>;
  readonly run?: RunProgram;
  readonly log: Logger;
}

/** What was made again for one attachment. */
export interface ReloadedAttachment {
  readonly containerId: ContainerId;
  readonly network: string;
  readonly interfaceName: string;
  /** "portmap", "firewall", "masquerade" */
  readonly restored: readonly string[];
  /** Empty when nothing failed. */
  readonly error: string;
}

/** Plugins whose ADD makes rules out of a result, and none twice. */
const RULE_MAKERS: ReadonlySet<string> = new Set(['portmap', 'firewall']);

/** See the module's head. */
export class NetworkReload {
  readonly #options: NetworkReloadOptions;
  readonly #log: Logger;

  constructor(options: NetworkReloadOptions) {
    this.#options = options;
    this.#log = options.log.child({ component: 'network' });
  }

  /**
   * Reloads one network, or all. Attachments are read off the records: the network's file may have gone.
   * @throws {RuntimeError} NOT_FOUND when neither a file nor a record knows the network
   */
  async reload(name: string | undefined, signal: AbortSignal): Promise<ReloadedAttachment[]> {
    const { store, configs } = this.#options;
    const records = [...store.entries()].filter(([, record]) => chosen(record, name).length > 0);
    if (records.length === 0 && name !== undefined) configs.inspect(name);
    return (await Promise.all(records.map(([id]) => this.#reloadContainer(id, name, signal)))).flat();
  }

  async #reloadContainer(
    id: ContainerId,
    name: string | undefined,
    signal: AbortSignal,
  ): Promise<ReloadedAttachment[]> {
    const work = async (_: unknown, joint: AbortSignal): Promise<ReloadedAttachment[]> => {
      const record = this.#options.store.read(id);
      const done: ReloadedAttachment[] = [];
      if (record === undefined) return done;
      for (const entry of chosen(record, name)) done.push(await this.#reloadAttachment(id, record, entry, joint));
      return done;
    };
    try {
      return await this.#options.lanes.inLane(id, work, signal);
    } catch (error) {
      signal.throwIfAborted();
      // It does not run any more, or not yet: its rules come and go with its run.
      if (error instanceof RuntimeError && NOT_RUNNING.has(error.code)) return [];
      throw error;
    }
  }

  async #reloadAttachment(
    containerId: ContainerId,
    record: NetworkRecord,
    entry: RecordedAttachment,
    signal: AbortSignal,
  ): Promise<ReloadedAttachment> {
    const about = { containerId, network: entry.network.name, interfaceName: entry.interfaceName };
    const restored: string[] = [];
    try {
      if (await this.#masquerade(containerId, record, entry, signal)) restored.push('masquerade');
      const makers = entry.network.plugins.filter((plugin) => RULE_MAKERS.has(typeOf(plugin)));
      if (entry.result !== undefined && makers.length > 0) {
        const attachment = attachmentOf(containerId, entry, record.netnsPath);
        await this.#options.cni.addAgain(attachment, entry.result, makers, signal);
        restored.push(...makers.map(typeOf));
      }
      this.#log.info({ ...about, restored }, 'network reloaded');
      return { ...about, restored, error: '' };
    } catch (error) {
      signal.throwIfAborted();
      const failure = RuntimeError.from(error, 'reload');
      this.#log.warn({ ...about, err: failure }, 'network not reloaded');
      return { ...about, restored, error: failure.message };
    }
  }

  /** True when the attachment masquerades: all of its rules are there now. */
  async #masquerade(
    containerId: ContainerId,
    record: NetworkRecord,
    entry: RecordedAttachment,
    signal: AbortSignal,
  ): Promise<boolean> {
    const { run } = this.#options;
    const status = statusOf(record).find(({ interfaceName }) => interfaceName === entry.interfaceName);
    const owner = { ...entry, containerId, addresses: status?.addresses ?? [] };
    const byNft = nftMasqueradeRules(owner);
    if (byNft.length > 0) {
      const present = await readNftMasquerade({ run, signal });
      if (missingNftRules(byNft, present).length > 0) await makeNftRules(byNft, present, { run, signal });
      return true;
    }
    const wanted = masqueradeRules(owner);
    if (wanted.length === 0) return false;
    const present = await readHostRules(run, signal);
    for (const rules of wanted) {
      const lines = missingLines(rules, present);
      if (lines.length > 0) await changeRules(rules.family, 'nat', lines, { run, signal });
    }
    return true;
  }
}

const NOT_RUNNING: ReadonlySet<string> = new Set(['FAILED_PRECONDITION', 'NOT_FOUND', 'ABORTED']);

function chosen({ attachments }: NetworkRecord, name: string | undefined): readonly RecordedAttachment[] {
  return attachments.filter(({ state, network }) => state === 'added' && (name === undefined || network.name === name));
}
