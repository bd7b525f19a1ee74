/**
 * A CSI plugin for tests: a real gRPC server on a real socket, with real bind mounts and loop devices, whose
 * capabilities are chosen and whose answers can be scripted. It keeps a log of the calls, the tables a plugin keeps
 * (volumes, attached, staged, published), and a list of every rule of CSI that its caller broke.
 *
 *   const plugin = await startFakeCsi(t, { socketPath, backingDir, node: ['STAGE_UNSTAGE_VOLUME'] });
 *   plugin.next('NodeStageVolume', failWith('ABORTED'), failWith('UNAVAILABLE', { afterEffect: true }));
 */
import { rmSync } from 'node:fs';
import { cp, mkdir, rmdir, stat, truncate, unlink, writeFile } from 'node:fs/promises';
import { Server, ServerCredentials, type UntypedServiceImplementation } from '@grpc/grpc-js';
import { loadCsi } from '../../src/csi/protocol.ts';
import type { Code } from '../../src/errors.ts';
import { hostCommand } from '../../src/host-command.ts';
import { mountAt, mountsBelow } from '../../src/mountinfo.ts';
import { cleanup, type TestScope } from './cleanup.ts';
import type { Message } from './csi-message.ts';
import { CallJournal, type JournalEntry, volumeOf } from './fake-csi-ledger.ts';
import { isStagedAt, loopOver, readState, writeState } from './fake-csi-memory.ts';
import { FakeMetadata } from './fake-csi-metadata.ts';
import { FakeOperations } from './fake-csi-operations.ts';
import { FakeSnapshots } from './fake-csi-snapshots.ts';
import { FakeSurvey } from './fake-csi-survey.ts';
import { FakeStatus } from './fake-status.ts';

export { FakeStatus };

/**
 * One scripted answer: may run the real effect, before or after whatever else it does, or not at all. `gone` aborts when
 * nobody waits for the answer any more.
 */
export type Behaviour = (request: Message, effect: () => Promise<Message>, gone: AbortSignal) => Promise<Message>;

/** The part of grpc-js's call that is looked at. */
interface ServedCall {
  readonly request: Message;
  on(event: 'cancelled', listener: () => void): unknown;
}

/** A logged call. */
export interface FakeCall {
  readonly rpc: string;
  readonly request: Message;
}

export interface FakeCsiOptions {
  readonly socketPath: string;
  /** Where volumes lie. */
  readonly backingDir: string;
  readonly name?: string;
  readonly vendorVersion?: string;
  /** Capabilities of the Controller service; none of them: no Controller service. */
  readonly controller?: readonly string[];
  readonly node?: readonly string[];
  /** When volumes may be expanded. */
  readonly expansion?: 'ONLINE' | 'OFFLINE';
  /** Capabilities of the GroupController service; none of them: no such service. */
  readonly groupController?: readonly string[];
  /** Serves SnapshotMetadata. */
  readonly metadata?: boolean;
  /** Segments of this node; given: VOLUME_ACCESSIBILITY_CONSTRAINTS is offered. */
  readonly topology?: Readonly<Record<string, string>>;
  readonly maxVolumesPerNode?: number;
  readonly publishContext?: Readonly<Record<string, string>>;
  readonly volumeContext?: Readonly<Record<string, string>>;
  /** Names of volumes that are made, by request name. */
  readonly volumeId?: (name: string) => string;
  /** Keeps volumes and attachments, as a storage system does; all else is forgotten when the plugin ends. */
  readonly stateFile?: string;
  /** A call for a volume that is being served already is answered ABORTED; without this it is a broken rule. */
  readonly abortsWhenBusy?: boolean;
  /** What calls do for which nothing is scripted; undefined: as they should. */
  readonly usually?: (rpc: string, volume: string) => Behaviour | undefined;
  /** Told of every call about a volume, when it arrives and when it ends. */
  readonly journal?: (entry: JournalEntry) => void;
}

/** A volume of the fake's storage system. */
export interface FakeVolume {
  readonly id: string;
  readonly request: Message;
  readonly block: boolean;
  readonly context: Readonly<Record<string, string>>;
  loop?: string | undefined;
}

/** Fails with `code`, before the effect or after it. */
export function failWith(code: Code, options: { afterEffect?: boolean; message?: string } = {}): Behaviour {
  return async (_request, effect) => {
    if (options.afterEffect === true) await effect();
    throw new FakeStatus(code, options.message ?? `scripted ${code}`);
  };
}

/** Never answers; the effect is done first if asked for. */
export function hang(options: { afterEffect?: boolean } = {}): Behaviour {
  return async (_request, effect) => {
    if (options.afterEffect === true) await effect();
    return new Promise<Message>(() => undefined);
  };
}

/** Answers with this and does nothing. */
export function pretend(response: Message = {}): Behaviour {
  return async () => response;
}

/** Does its work and answers with other words. */
export function answerWith(change: (response: Message) => Message): Behaviour {
  return async (_request, effect) => change(await effect());
}

/** Starts a plugin that is stopped, with everything it mounted, when the test ends. */
export async function startFakeCsi(t: TestScope, options: FakeCsiOptions): Promise<FakeCsi> {
  const plugin = new FakeCsi(options);
  cleanup(t, () => plugin.dispose());
  await plugin.start();
  return plugin;
}

export class FakeCsi {
  readonly options: FakeCsiOptions;
  readonly name: string;
  readonly calls: FakeCall[] = [];
  readonly volumes = new Map<string, FakeVolume>();
  /** Volume id to node id. */
  readonly attached = new Map<string, string>();
  /** Volume id to staging path. */
  readonly staged = new Map<string, string>();
  /** Target path to volume id. */
  readonly published = new Map<string, string>();
  /** Rules of CSI that the caller broke. */
  readonly violations: string[] = [];
  readonly snapshots: FakeSnapshots = new FakeSnapshots(this);
  readonly operations: FakeOperations = new FakeOperations(this);
  readonly survey: FakeSurvey = new FakeSurvey(this);
  /** Segments of this node as NodeGetInfo tells them; they may change while it runs. */
  topology: Readonly<Record<string, string>> | undefined;
  readonly metadata: FakeMetadata = new FakeMetadata(this);
  /** What Probe says. */
  ready: boolean | null = null;
  /** Runs before each call is served. */
  onCall: (rpc: string, request: Message) => void | Promise<void> = () => undefined;
  readonly #script = new Map<string, Behaviour[]>();
  readonly #busy = new Set<string>();
  readonly #journal: CallJournal;
  readonly #mounted = new Set<string>();
  #server: Server | undefined;

  constructor(options: FakeCsiOptions) {
    this.options = options;
    this.name = options.name ?? 'fake.csi.test';
    this.topology = options.topology;
    this.#journal = new CallJournal(this.name, options.journal);
    if (options.stateFile !== undefined) readState(options.stateFile, this);
  }

  async start(): Promise<void> {
    await mkdir(this.options.backingDir, { recursive: true });
    const csi = loadCsi();
    const server = new Server();
    server.addService(csi.service('Identity'), this.#handlers(identityRpcs(this)));
    server.addService(csi.service('Node'), this.#handlers(this.#nodeRpcs()));
    if (this.options.controller !== undefined) {
      server.addService(csi.service('Controller'), this.#handlers(this.#controllerRpcs()));
    }
    if (this.options.metadata === true) server.addService(csi.service('SnapshotMetadata'), this.metadata.handlers());
    if (this.options.groupController !== undefined) {
      server.addService(csi.service('GroupController'), this.#handlers(this.snapshots.groupRpcs()));
    }
    await new Promise<void>((resolve, reject) => {
      const address = `unix:${this.options.socketPath}`;
      server.bindAsync(address, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    this.#server = server;
  }

  /** Ends as a killed process would, except that the socket file goes. Tables and mounts stay. */
  stop(): void {
    this.#server?.forceShutdown();
    this.#server = undefined;
    this.#busy.clear();
  }

  /** Stops and takes away everything it mounted. */
  async dispose(): Promise<void> {
    this.stop();
    const signal = AbortSignal.timeout(10_000);
    for (const path of [...this.#mounted].reverse()) {
      while (mountAt(path) !== undefined) await hostCommand('umount', ['-l', path], signal);
    }
    for (const { mountPoint } of mountsBelow(this.options.backingDir)) {
      await hostCommand('umount', ['-l', mountPoint], signal);
    }
    for (const { loop } of this.volumes.values()) {
      if (loop !== undefined) await hostCommand('losetup', ['-d', loop], signal);
    }
  }

  /** The next calls of `rpc` behave like this, one after the other; then all is normal again. */
  next(rpc: string, ...behaviours: readonly Behaviour[]): void {
    this.#script.set(rpc, [...(this.#script.get(rpc) ?? []), ...behaviours]);
  }

  /** Forgets what is scripted. */
  heal(): void {
    this.#script.clear();
  }

  /** Names of the calls about volumes, in order. */
  volumeCalls(): string[] {
    return this.calls.map(({ rpc }) => rpc).filter((rpc) => /Volume$/.test(rpc));
  }

  /** Requests of one kind of call, in order. */
  requests(rpc: string): Message[] {
    return this.calls.filter((call) => call.rpc === rpc).map((call) => call.request);
  }

  /** Nothing is attached, staged or published. */
  get isIdle(): boolean {
    return this.attached.size === 0 && this.staged.size === 0 && this.published.size === 0;
  }

  /** A volume that is there without having been made through CSI: its id is `id`. */
  async provide(id: string, block: boolean, context: Readonly<Record<string, string>> = {}): Promise<void> {
    const path = this.backing({ id });
    if (block) {
      await writeFile(path, '');
      await truncate(path, 16 * 2 ** 20);
    } else {
      await mkdir(path, { recursive: true });
    }
    this.volumes.set(id, { id, request: {}, block, context });
  }

  hasController(capability: string): boolean {
    return this.options.controller?.includes(capability) ?? false;
  }

  get stages(): boolean {
    return this.options.node?.includes('STAGE_UNSTAGE_VOLUME') ?? false;
  }

  #handlers(rpcs: Record<string, (request: Message) => Promise<Message>>): UntypedServiceImplementation {
    const entries = Object.entries(rpcs).map(([rpc, effect]) => {
      const handler = (call: ServedCall, callback: (error: unknown, response?: Message) => void): void => {
        const gone = new AbortController();
        const entry = this.#journal.arrived(rpc, call.request);
        call.on('cancelled', () => {
          entry.gone();
          gone.abort();
        });
        this.#serve(rpc, call.request, effect, gone.signal).then(
          (response) => {
            entry.answered();
            callback(null, response);
          },
          (error: unknown) => {
            const status = error instanceof FakeStatus ? error : new FakeStatus('INTERNAL', String(error));
            entry.answered(status);
            callback(status);
          },
        );
      };
      return [rpc, handler];
    });
    return Object.fromEntries(entries);
  }

  async #serve(
    rpc: string,
    request: Message,
    effect: (request: Message) => Promise<Message>,
    gone: AbortSignal,
  ): Promise<Message> {
    this.calls.push({ rpc, request });
    const volume: unknown = request['volumeId'] ?? request['name'];
    const busy = typeof volume === 'string' ? volume : undefined;
    if (busy !== undefined && this.#busy.has(busy)) {
      if (this.options.abortsWhenBusy === true) throw new FakeStatus('ABORTED', `a call for ${busy} is under way`);
      this.#violation(`${rpc}: a call for ${busy} is under way`);
    }
    if (busy !== undefined) this.#busy.add(busy);
    const lasting = async (): Promise<Message> => {
      const response = await effect(request);
      if (this.options.stateFile !== undefined) writeState(this.options.stateFile, this);
      return response;
    };
    try {
      await this.onCall(rpc, request);
      const behaviour = this.#script.get(rpc)?.shift() ?? this.options.usually?.(rpc, volumeOf(rpc, request) ?? '');
      return await (behaviour === undefined ? lasting() : behaviour(request, lasting, gone));
    } finally {
      if (busy !== undefined) this.#busy.delete(busy);
    }
  }

  #violation(text: string): void {
    this.violations.push(text);
  }

  #controllerRpcs(): Record<string, (request: Message) => Promise<Message>> {
    return {
      ControllerGetCapabilities: async () => ({
        capabilities: (this.options.controller ?? []).map((type) => ({ rpc: { type } })),
      }),
      CreateVolume: (request) => this.#create(request),
      DeleteVolume: (request) => this.#delete(request),
      ValidateVolumeCapabilities: async (request) => {
        const { volumeContext, volumeCapabilities } = request;
        this.#volume(request);
        return { confirmed: { volumeContext, volumeCapabilities } };
      },
      ...this.snapshots.controllerRpcs(),
      ...this.operations.controllerRpcs(),
      ...this.survey.controllerRpcs(),
      ControllerPublishVolume: async (request) => {
        const volume = this.#volume(request);
        this.#sameContext('ControllerPublishVolume', volume, request);
        this.attached.set(volume.id, request['nodeId']);
        return { publishContext: this.options.publishContext ?? {} };
      },
      ControllerUnpublishVolume: async (request) => {
        const id = request['volumeId'];
        if (this.staged.has(id) || [...this.published.values()].includes(id)) {
          this.#violation('ControllerUnpublishVolume: still staged or published');
        }
        if (request['nodeId'] === '') this.#violation('ControllerUnpublishVolume: node_id is empty');
        this.attached.delete(id);
        return {};
      },
    };
  }

  async #create(request: Message): Promise<Message> {
    const existing = [...this.volumes.values()].find((volume) => volume.request['name'] === request['name']);
    if (existing !== undefined && !sameRequest(existing.request, request)) {
      this.#violation(`CreateVolume: repeated with other fields for ${request['name']}`);
      throw new FakeStatus('ALREADY_EXISTS', 'the name is taken');
    }
    const volume = existing ?? (await this.#make(request));
    const capacityBytes = request['capacityRange']?.requiredBytes ?? '0';
    const contentSource = request['volumeContentSource'];
    const answer = { volumeId: volume.id, capacityBytes, volumeContext: volume.context, contentSource };
    const accessibleTopology = this.options.topology === undefined ? [] : [{ segments: this.options.topology }];
    return { volume: { ...answer, accessibleTopology } };
  }

  async #make(request: Message): Promise<FakeVolume> {
    const id = this.options.volumeId?.(request['name']) ?? `id-of-${request['name']}`;
    const block = request['volumeCapabilities'][0].accessType === 'block';
    const volume = { id, request, block, context: this.options.volumeContext ?? { made: 'here' } };
    const path = this.backing(volume);
    const source = this.#sourceOf(request);
    if (source !== undefined) await cp(source, path, { recursive: true });
    else if (!block) await mkdir(path, { recursive: true });
    else {
      await writeFile(path, '');
      await truncate(path, Math.min(Number(request['capacityRange'].requiredBytes), 2 ** 30));
    }
    this.volumes.set(id, volume);
    return volume;
  }

  /** Where the data lie that a new volume begins with. */
  #sourceOf({ volumeContentSource }: Message): string | undefined {
    const snapshotId = volumeContentSource?.snapshot?.snapshotId;
    const volumeId = volumeContentSource?.volume?.volumeId;
    if (snapshotId !== undefined) {
      if (!this.snapshots.snapshots.has(snapshotId)) throw new FakeStatus('NOT_FOUND', `no snapshot ${snapshotId}`);
      return this.snapshots.backing(snapshotId);
    }
    return volumeId === undefined ? undefined : this.backing(this.#volume({ volumeId }));
  }

  async #delete(request: Message): Promise<Message> {
    const id = request['volumeId'];
    if (this.attached.has(id) || this.staged.has(id) || [...this.published.values()].includes(id)) {
      this.#violation('DeleteVolume: still in use');
      throw new FakeStatus('FAILED_PRECONDITION', 'the volume is in use');
    }
    const volume = this.volumes.get(id);
    // What lies in it stays to be looked at by tests, unless a storage system is what is played.
    if (volume !== undefined && this.options.stateFile !== undefined) {
      rmSync(this.backing(volume), { recursive: true, force: true });
    }
    this.volumes.delete(id);
    return {};
  }

  #nodeRpcs(): Record<string, (request: Message) => Promise<Message>> {
    return {
      NodeGetCapabilities: async () => ({ capabilities: (this.options.node ?? []).map((type) => ({ rpc: { type } })) }),
      NodeGetInfo: async () => ({
        nodeId: 'node-of-the-fake',
        ...(this.options.maxVolumesPerNode === undefined ? {} : { maxVolumesPerNode: this.options.maxVolumesPerNode }),
        ...(this.topology === undefined ? {} : { accessibleTopology: { segments: this.topology } }),
      }),
      ...this.operations.nodeRpcs(),
      NodeStageVolume: (request) => this.#stage(request),
      NodeUnstageVolume: (request) => this.#unstage(request),
      NodePublishVolume: (request) => this.#publish(request),
      NodeUnpublishVolume: (request) => this.#unpublish(request),
    };
  }

  async #stage(request: Message): Promise<Message> {
    const volume = this.#volume(request);
    const path: string = request['stagingTargetPath'];
    this.#sameContext('NodeStageVolume', volume, request);
    this.#attachedFirst('NodeStageVolume', volume, request);
    if (!(await isDirectory(path))) this.#violation('NodeStageVolume: the staging directory is missing');
    if (volume.block) await this.#attachLoop(volume);
    else if (mountAt(path) === undefined) await this.#bind(this.backing(volume), path);
    this.staged.set(volume.id, path);
    return {};
  }

  async #unstage(request: Message): Promise<Message> {
    const id = request['volumeId'];
    const path: string = request['stagingTargetPath'];
    if ([...this.published.values()].includes(id)) this.#violation('NodeUnstageVolume: still published');
    if (mountAt(path) !== undefined) await this.#unmount(path);
    await this.#detachLoop(id);
    this.staged.delete(id);
    return {};
  }

  async #publish(request: Message): Promise<Message> {
    const volume = this.#volume(request);
    const target: string = request['targetPath'];
    this.#sameContext('NodePublishVolume', volume, request);
    this.#attachedFirst('NodePublishVolume', volume, request);
    const stage: string = request['stagingTargetPath'];
    if (this.stages && this.staged.get(volume.id) !== stage && !(await isStagedAt(this, volume, stage))) {
      this.#violation('NodePublishVolume: not staged at this path');
    }
    if (mountAt(target) !== undefined) this.published.set(target, volume.id);
    if (this.published.has(target)) return {};
    const mode = request['volumeCapability'].accessMode.mode;
    if (mode === 'SINGLE_NODE_WRITER' && [...this.published.values()].includes(volume.id)) {
      throw new FakeStatus('FAILED_PRECONDITION', 'published at another path');
    }
    if (volume.block) {
      await this.#attachLoop(volume);
      await writeFile(target, '');
      await this.#bind(String(volume.loop), target);
    } else {
      await mkdir(target, { recursive: true });
      await this.#bind(this.backing(volume), target);
      if (request['readonly'] === true) await run('mount', '-o', 'remount,bind,ro', target);
    }
    this.published.set(target, volume.id);
    return {};
  }

  async #unpublish(request: Message): Promise<Message> {
    const target: string = request['targetPath'];
    while (mountAt(target) !== undefined) await this.#unmount(target);
    const kind = await isDirectory(target);
    if (kind === true) await rmdir(target);
    if (kind === false) await unlink(target);
    this.published.delete(target);
    if (!this.stages) await this.#detachLoop(request['volumeId']);
    return {};
  }

  #volume(request: Message): FakeVolume {
    const volume = this.volumes.get(request['volumeId']);
    if (volume === undefined) throw new FakeStatus('NOT_FOUND', `no volume ${request['volumeId']}`);
    return volume;
  }

  #sameContext(rpc: string, volume: FakeVolume, request: Message): void {
    if (!sameRequest(volume.context, request['volumeContext'])) this.#violation(`${rpc}: another volume_context`);
  }

  #attachedFirst(rpc: string, volume: FakeVolume, request: Message): void {
    if (!this.hasController('PUBLISH_UNPUBLISH_VOLUME')) return;
    if (!this.attached.has(volume.id)) this.#violation(`${rpc}: not attached`);
    if (!sameRequest(this.options.publishContext ?? {}, request['publishContext'])) {
      this.#violation(`${rpc}: another publish_context`);
    }
  }

  /** Where a volume lies. */
  backing({ id }: { readonly id: string }): string {
    return `${this.options.backingDir}/${Buffer.from(id).toString('hex').slice(0, 200)}`;
  }

  async #attachLoop(volume: FakeVolume): Promise<void> {
    volume.loop ??= await loopOver(this.backing(volume));
    volume.loop ??= await run('losetup', '-f', '--show', this.backing(volume));
  }

  async #detachLoop(id: string): Promise<void> {
    const volume = this.volumes.get(id);
    if (volume === undefined || [...this.published.values()].includes(id)) return;
    volume.loop ??= volume.block ? await loopOver(this.backing(volume)) : undefined;
    if (volume.loop === undefined) return;
    await run('losetup', '-d', volume.loop);
    delete volume.loop;
  }

  async #bind(source: string, target: string): Promise<void> {
    this.#mounted.add(target);
    await run('mount', '--bind', source, target);
  }

  async #unmount(target: string): Promise<void> {
    await run('umount', target);
  }
}

function identityRpcs(plugin: FakeCsi): Record<string, (request: Message) => Promise<Message>> {
  const { expansion } = plugin.options;
  const services = [
    ...(plugin.options.controller === undefined ? [] : ['CONTROLLER_SERVICE']),
    ...(plugin.options.groupController === undefined ? [] : ['GROUP_CONTROLLER_SERVICE']),
    ...(plugin.options.metadata === true ? ['SNAPSHOT_METADATA_SERVICE'] : []),
    ...(plugin.options.topology === undefined ? [] : ['VOLUME_ACCESSIBILITY_CONSTRAINTS']),
  ];
  return {
    GetPluginInfo: async () => ({ name: plugin.name, vendorVersion: plugin.options.vendorVersion ?? '1.0' }),
    GetPluginCapabilities: async () => ({
      capabilities: [
        ...services.map((type) => ({ service: { type } })),
        ...(expansion === undefined ? [] : [{ volumeExpansion: { type: expansion } }]),
      ],
    }),
    Probe: async () => (plugin.ready === null ? {} : { ready: { value: plugin.ready } }),
  };
}

function sameRequest(a: Message, b: Message): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

async function run(file: string, ...args: string[]): Promise<string> {
  return hostCommand(file, args, AbortSignal.timeout(10_000));
}

/** Undefined when there is nothing. */
async function isDirectory(path: string): Promise<boolean | undefined> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return undefined;
  }
}
