/**
 * Plugins as containers. A plugin's container is one like any other, named "csi-plugin-NAME", except that it works on the
 * host: it has all devices, the host's network, its socket's directory and the directory of volumes at the same paths,
 * and what it mounts there is seen on the host and by every other container.
 */
import { createHash } from 'node:crypto';
import { type Code, RuntimeError } from '../errors.ts';
import type { ProcessIdentity } from '../process-identity.ts';
import type { ContainerRecord, ContainerSpec, ContainerState, Exit, HostMount } from '../runtime/container.ts';
import type { LogOptions, OutputChunk } from '../runtime/launcher.ts';
import type { PluginRun, PluginRunner } from './plugin-run.ts';
import { environmentFor, filledIn, type PluginPlace } from './plugin-supervision.ts';
import type { SharedDirectory } from './shared-mount.ts';
import type { PluginEnd, PluginRunRecord, SupervisedRecord } from './supervised-record.ts';

/** What is asked of the containerizer. */
export interface Containers {
  list(): readonly { readonly record: ContainerRecord; readonly state: ContainerState }[];
  create(spec: ContainerSpec, options: { readonly provisional: boolean }): ContainerRecord;
  launch(ref: string, signal: AbortSignal): Promise<{ readonly record: ContainerRecord }>;
  wait(ref: string, signal: AbortSignal): Promise<Exit>;
  stop(ref: string, options: { readonly timeoutMs: number }, signal: AbortSignal): Promise<void>;
  remove(ref: string, options: { readonly force: boolean }, signal: AbortSignal): Promise<void>;
  openLogs(ref: string, options: LogOptions, signal: AbortSignal): Promise<AsyncIterable<OutputChunk>>;
}

export interface PluginContainersOptions {
  /** Settles once containers were found again after the daemon's start. */
  readonly containers: Promise<Containers>;
  readonly placeOf: (record: SupervisedRecord) => PluginPlace;
  /** Directory of the plugin's socket. */
  readonly socketDirOf: (record: SupervisedRecord) => string;
  /** Where volumes are mounted. */
  readonly volumes: SharedDirectory;
}

/** Says whose container it is, and by which settings it was made. */
const OWNER_LABEL = 'berth.csi-plugin';
const DIGEST_LABEL = 'berth.csi-plugin-settings';
const LAUNCH_MS = 60_000;
const REMOVE_MS = 60_000;

/** The container's name. */
export function containerNameOf(plugin: string): string {
  return `csi-plugin-${plugin}`;
}

/** See the module's head. */
export class PluginContainers implements PluginRunner {
  readonly #options: PluginContainersOptions;

  constructor(options: PluginContainersOptions) {
    this.#options = options;
  }

  async start(record: SupervisedRecord, signal: AbortSignal): Promise<PluginRun> {
    const patience = AbortSignal.any([signal, AbortSignal.timeout(LAUNCH_MS)]);
    const containers = await this.#containers(patience);
    await this.#options.volumes.share(patience);
    const spec = this.#specOf(record);
    let found = this.#own(containers, record.name);
    if (found !== undefined && found.record.spec.labels[DIGEST_LABEL] !== spec.labels[DIGEST_LABEL]) {
      await containers.remove(found.record.id, { force: true }, AbortSignal.timeout(REMOVE_MS));
      found = undefined;
    }
    const { id } = found?.record ?? containers.create(spec, { provisional: false });
    const launched = await containers.launch(id, patience);
    const init = launched.record.run?.init;
    if (init === undefined) throw new RuntimeError('INTERNAL', `container ${spec.name} has no process`);
    return new ContainerRun(containers, id, init);
  }

  async find(record: SupervisedRecord, _run: PluginRunRecord, signal: AbortSignal): Promise<PluginRun | undefined> {
    const containers = await this.#containers(signal);
    const found = this.#own(containers, record.name);
    const init = found?.record.run?.init;
    if (found?.state !== 'running' || init === undefined) return undefined;
    return new ContainerRun(containers, found.record.id, init);
  }

  /** Removes the container with its log and its writable layer. */
  async sweep({ name }: SupervisedRecord, signal: AbortSignal): Promise<void> {
    const containers = await this.#containers(signal);
    const found = this.#own(containers, name);
    if (found !== undefined) await containers.remove(found.record.id, { force: true }, signal);
  }

  async *logs(record: SupervisedRecord, options: LogOptions, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const containers = await this.#containers(signal);
    const found = this.#own(containers, record.name);
    if (found === undefined) return;
    for await (const { data } of await containers.openLogs(found.record.id, options, signal)) yield data;
  }

  #containers(signal: AbortSignal): Promise<Containers> {
    signal.throwIfAborted();
    const { promise, reject } = Promise.withResolvers<never>();
    const abort = (): void => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    return Promise.race([this.#options.containers, promise]).finally(() => signal.removeEventListener('abort', abort));
  }

  /** @throws {RuntimeError} ALREADY_EXISTS when somebody else's container has the name */
  #own(containers: Containers, plugin: string): ReturnType<Containers['list']>[number] | undefined {
    const name = containerNameOf(plugin);
    const found = containers.list().find(({ record }) => record.spec.name === name);
    if (found === undefined || found.record.spec.labels[OWNER_LABEL] === plugin) return found;
    throw new RuntimeError('ALREADY_EXISTS', `container ${name} is not the plugin's: remove it, or rename the file`);
  }

  #specOf(record: SupervisedRecord): ContainerSpec {
    const { supervision, name } = record;
    if (supervision.kind !== 'container') throw new RuntimeError('INTERNAL', `plugin ${name} is no container`);
    const place = this.#options.placeOf(record);
    const ours: readonly HostMount[] = [
      { path: this.#options.socketDirOf(record), propagation: 'private' as const },
      { path: this.#options.volumes.dir, propagation: 'shared' as const },
    ].map(({ path, propagation }) => ({ source: path, target: path, readOnly: false, propagation }));
    const spec: ContainerSpec = {
      name: containerNameOf(name),
      image: supervision.image,
      command: supervision.args.map((word) => filledIn(word, place)),
      env: Object.entries(environmentFor(supervision, place)).map(([key, value]) => `${key}=${value}`),
      labels: { [OWNER_LABEL]: name },
      resources: {},
      readOnlyRootfs: false,
      // Images of plugins are made for privileged containers; one that mounts and has all devices is root of the host anyway.
      capAdd: ['ALL'],
      capDrop: [],
      network: 'host',
      ports: [],
      mounts: [],
      devices: [],
      hostAccess: { mounts: [...ours, ...supervision.mounts] },
      autoRemove: false,
    };
    const digest = createHash('sha256').update(JSON.stringify(spec)).digest('hex').slice(0, 32);
    return { ...spec, labels: { ...spec.labels, [DIGEST_LABEL]: digest } };
  }
}

class ContainerRun implements PluginRun {
  readonly process: ProcessIdentity;
  readonly #containers: Containers;
  readonly #id: string;

  constructor(containers: Containers, id: string, process: ProcessIdentity) {
    this.#containers = containers;
    this.#id = id;
    this.process = process;
  }

  async ended(signal: AbortSignal): Promise<Omit<PluginEnd, 'at'> | undefined> {
    try {
      const { code, oomKilled } = await this.#containers.wait(this.#id, signal);
      const why = oomKilled ? ', out of memory' : '';
      return { exitCode: code, reason: `it ended with exit code ${code}${why}` };
    } catch (error) {
      if (signal.aborted) return undefined;
      if (codeOf(error) === 'NOT_FOUND') return { reason: 'its container was removed' };
      throw error;
    }
  }

  async stop(graceMs: number, signal: AbortSignal): Promise<void> {
    try {
      await this.#containers.stop(this.#id, { timeoutMs: graceMs }, signal);
    } catch (error) {
      if (codeOf(error) !== 'NOT_FOUND') throw error;
    }
  }
}

function codeOf(error: unknown): Code | undefined {
  return error instanceof RuntimeError ? error.code : undefined;
}
