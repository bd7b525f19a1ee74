/**
 * Runs chains of CNI plugins: which plugin gets which environment, which request and whose result, in which order
 * (CNI 1.1.0 §2, §3). Holds no state and knows no containers: the caller records an attachment before ADD and never
 * runs two commands for one container at once.
 *
 *   ADD     forward   each plugin gets the result of the one before
 *   CHECK   forward   each gets the final result
 *   DEL     reverse   each gets the final result, if there was one
 *   STATUS  forward   first failure counts
 *   GC      forward   every failure counts
 */
import type { Logger } from 'pino';
import { gathered, RuntimeError } from '../errors.ts';
import { type Attachment, type AttachmentKey, validateAttachment } from './attachment.ts';
import { atLeast } from './cni-version.ts';
import { type ExecPlugin, execPlugin } from './exec.ts';
import { executablesOf, type ResolvedNetwork, typeOf } from './network.ts';
import { NetworkGate } from './network-gate.ts';
import type { PluginPath } from './plugin-path.ts';
import { environment, pluginRequest, previousResult } from './plugin-request.ts';
import {
  type CniCommand,
  CniError,
  type CniResult,
  CODE_UNKNOWN_CONTAINER,
  decodeSupportedVersions,
  type JsonObject,
  misfit,
} from './protocol.ts';
import { readResult } from './result-conversion.ts';

/** Longest run of a command over a whole chain. */
export type CniDeadlines = Readonly<Record<CniCommand, number>>;

/** Milliseconds a command may take unless told otherwise. */
export const CNI_DEADLINES_MS: CniDeadlines = {
  ADD: 60_000,
  DEL: 30_000,
  CHECK: 10_000,
  STATUS: 10_000,
  GC: 30_000,
  VERSION: 10_000,
};

/** Options of {@link CniRuntime}. */
export interface CniRuntimeOptions {
  readonly plugins: PluginPath;
  readonly log: Logger;
  /** Runs real executables unless given. */
  readonly exec?: ExecPlugin;
  readonly deadlinesMs?: Partial<CniDeadlines>;
  /** Who runs beside whom; any number unless given. Waiting for a turn does not count against a deadline. */
  readonly gate?: NetworkGate;
}

/** See the module's head. */
export class CniRuntime {
  readonly #plugins: PluginPath;
  readonly #exec: ExecPlugin;
  readonly deadlinesMs: CniDeadlines;
  readonly #gate: NetworkGate;
  readonly #log: Logger;

  constructor(options: CniRuntimeOptions) {
    this.#plugins = options.plugins;
    this.#exec = options.exec ?? execPlugin;
    this.deadlinesMs = { ...CNI_DEADLINES_MS, ...options.deadlinesMs };
    this.#gate = options.gate ?? new NetworkGate();
    this.#log = options.log.child({ component: 'cni' });
  }

  /**
   * Adds the interface (CNI 1.1.0 §2 "ADD"). When it throws, for whatever reason, a part may be there: `del` is due.
   * @param onProgress is given the result so far before the next plugin gets it: a DEL that has this result finds what
   * any plugin of the chain has done, even when ADD never came to its end (firewall undoes nothing without addresses)
   * @returns the final result, in the version of the configuration
   * @throws {CniError} when a plugin failed
   * @throws {RuntimeError} INVALID_ARGUMENT or NOT_FOUND before anything was run, DEADLINE_EXCEEDED, INTERNAL
   */
  async add(attachment: Attachment, onProgress: (result: CniResult) => void, signal: AbortSignal): Promise<CniResult> {
    validateAttachment(attachment);
    this.verify(attachment.network);
    return this.#gate.share(attachment.network.name, () => this.#addChain(attachment, onProgress, signal), signal);
  }

  async #addChain(
    attachment: Attachment,
    onProgress: (result: CniResult) => void,
    signal: AbortSignal,
  ): Promise<CniResult> {
    const bounded = this.#bounded('ADD', signal);
    let result: CniResult | undefined;
    for (const plugin of attachment.network.plugins) {
      if (result !== undefined) onProgress(result);
      const answer = await this.#run('ADD', plugin, attachment, result, bounded);
      result = decoded(answer, plugin, attachment);
    }
    if (result === undefined) throw new RuntimeError('INTERNAL', `network ${attachment.network.name} has no plugins`);
    return result;
  }

  /**
   * Removes the interface and all that belongs to it (CNI 1.1.0 §2 "DEL"). Idempotent; due after every ADD, also one
   * that failed. Stops at the first failure: it is to be repeated later.
   * @param result the final result of ADD, or the last one it came to
   */
  async del(attachment: Attachment, result: CniResult | undefined, signal: AbortSignal): Promise<void> {
    await this.#gate.share(attachment.network.name, () => this.#delChain(attachment, result, signal), signal);
  }

  async #delChain(attachment: Attachment, result: CniResult | undefined, signal: AbortSignal): Promise<void> {
    const bounded = this.#bounded('DEL', signal);
    for (const plugin of attachment.network.plugins.toReversed()) {
      try {
        await this.#run('DEL', plugin, attachment, result, bounded);
      } catch (error) {
        const unknown = error instanceof CniError && error.cniCode === CODE_UNKNOWN_CONTAINER;
        if (!unknown) throw error;
      }
    }
  }

  /**
   * Runs ADD of single plugins of the chain once more, each with the final result. For plugins that only make rules of
   * the host out of what they are given, and none of them twice: after something else removed the rules.
   */
  async addAgain(
    attachment: Attachment,
    result: CniResult,
    plugins: readonly JsonObject[],
    signal: AbortSignal,
  ): Promise<void> {
    const chain = async (): Promise<void> => {
      const bounded = this.#bounded('ADD', signal);
      for (const plugin of plugins) await this.#run('ADD', plugin, attachment, result, bounded);
    };
    await this.#gate.share(attachment.network.name, chain, signal);
  }

  /**
   * Asks whether the interface is as ADD left it (CNI 1.1.0 §2 "CHECK"). Passes when the configuration forbids CHECK.
   * @throws {RuntimeError} UNIMPLEMENTED below version 0.4.0
   */
  async check(attachment: Attachment, result: CniResult, signal: AbortSignal): Promise<void> {
    const { network } = attachment;
    if (!atLeast(network.cniVersion, '0.4.0')) {
      throw new RuntimeError('UNIMPLEMENTED', `network ${network.name} is of version ${network.cniVersion}: no CHECK`);
    }
    if (network.disableCheck) return;
    const chain = async (): Promise<void> => {
      const bounded = this.#bounded('CHECK', signal);
      for (const plugin of network.plugins) await this.#run('CHECK', plugin, attachment, result, bounded);
    };
    await this.#gate.share(network.name, chain, signal);
  }

  /**
   * Asks whether the network can take containers (CNI 1.1.0 §2 "STATUS"); below 1.1.0 nothing is asked.
   * @throws {CniError} with code 50 or 51 when it cannot
   */
  async status(network: ResolvedNetwork, signal: AbortSignal): Promise<void> {
    if (!atLeast(network.cniVersion, '1.1.0')) return;
    const bounded = this.#bounded('STATUS', signal);
    for (const plugin of network.plugins) {
      await this.#call('STATUS', plugin, {}, pluginRequest(plugin, network), bounded);
    }
  }

  /**
   * Lets plugins drop what belongs to no attachment of `valid` (CNI 1.1.0 §2 "GC"); nothing below 1.1.0 or where the
   * configuration forbids it. The list must be complete: it is asked for when no ADD or DEL of the network runs, and none
   * begins until the last plugin is done.
   */
  async gc(network: ResolvedNetwork, valid: () => readonly AttachmentKey[], signal: AbortSignal): Promise<void> {
    if (network.disableGC || !atLeast(network.cniVersion, '1.1.0')) return;
    await this.#gate.alone(network.name, () => this.#gcChain(network, valid(), signal), signal);
  }

  async #gcChain(network: ResolvedNetwork, valid: readonly AttachmentKey[], signal: AbortSignal): Promise<void> {
    const bounded = this.#bounded('GC', signal);
    const attachments = valid.map(({ containerId, interfaceName }) => ({
      containerID: containerId,
      ifname: interfaceName,
    }));
    // The first key is the specification's, the second the one that tag 1.1.0 of it still had.
    const keys = { 'cni.dev/valid-attachments': attachments, 'cni.dev/attachments': attachments };
    const failures: unknown[] = [];
    for (const plugin of network.plugins) {
      try {
        await this.#call('GC', plugin, {}, { ...pluginRequest(plugin, network), ...keys }, bounded);
      } catch (error) {
        failures.push(error);
      }
    }
    const failure = gathered(failures, `garbage collection of network ${network.name}`);
    if (failure !== undefined) throw failure;
  }

  /** The versions a plugin speaks (CNI 1.1.0 §2 "VERSION"). */
  async version(type: string, signal: AbortSignal): Promise<readonly string[]> {
    const request = { cniVersion: '1.1.0' };
    // Plugins before 1.0 insist on variables that mean nothing here.
    const env = { CNI_NETNS: 'dummy', CNI_IFNAME: 'dummy' };
    const answer = await this.#call('VERSION', { type }, env, request, this.#bounded('VERSION', signal));
    try {
      return decodeSupportedVersions(answer);
    } catch (error) {
      throw new RuntimeError('INTERNAL', `CNI plugin ${type} answered VERSION with no versions`, { cause: error });
    }
  }

  /**
   * Every executable of the chain is there and may be run, IPAM delegates included.
   * @throws {RuntimeError} as {@link PluginPath.find}
   */
  verify(network: ResolvedNetwork): void {
    for (const type of network.plugins.flatMap(executablesOf)) this.#plugins.find(type);
  }

  #bounded(command: CniCommand, signal: AbortSignal): AbortSignal {
    return AbortSignal.any([signal, AbortSignal.timeout(this.deadlinesMs[command])]);
  }

  #run(
    command: CniCommand,
    plugin: JsonObject,
    attachment: Attachment,
    result: CniResult | undefined,
    signal: AbortSignal,
  ): Promise<unknown> {
    const { network } = attachment;
    const previous = previousResult(command, network, result);
    const body = { ...pluginRequest(plugin, network, attachment), ...(previous && { prevResult: previous }) };
    return this.#call(command, plugin, environment(attachment), body, signal);
  }

  async #call(
    command: CniCommand,
    plugin: JsonObject,
    env: Readonly<Record<string, string>>,
    body: JsonObject,
    signal: AbortSignal,
  ): Promise<unknown> {
    const type = typeOf(plugin);
    const path = this.#plugins.find(type);
    const startedMs = performance.now();
    const variables = { CNI_COMMAND: command, ...env, CNI_PATH: this.#plugins.value };
    try {
      return await this.#exec({ plugin: type, path, command, env: variables, request: body }, signal);
    } finally {
      const durationMs = Math.round(performance.now() - startedMs);
      const containerId = env['CNI_CONTAINERID'];
      this.#log.debug({ plugin: type, command, containerId, durationMs }, 'CNI plugin ran');
    }
  }
}

function decoded(answer: unknown, plugin: JsonObject, attachment: Attachment): CniResult {
  const { network, containerId } = attachment;
  try {
    return readResult(answer, network.cniVersion);
  } catch (error) {
    throw new RuntimeError(
      'INTERNAL',
      `CNI plugin ${typeOf(plugin)} of network ${network.name} gave no valid result for ${containerId}: ${misfit(error)}`,
      { cause: error },
    );
  }
}
