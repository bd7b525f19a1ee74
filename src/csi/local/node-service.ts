/**
 * CSI's Node service: brings volumes to paths of this node and takes them away. Each call writes down what it is about
 * to do, then does what is missing; so a call that was cut off by a kill is completed by its repetition or undone by its
 * opposite.
 */
import type { Stats } from 'node:fs';
import { lstat } from 'node:fs/promises';
import { RuntimeError, systemCode } from '../../errors.ts';
import { own } from '../../group-ownership.ts';
import type { NodeDefinition } from '../generated/csi/v1/Node.ts';
import type { NodePublishVolumeRequest__Output } from '../generated/csi/v1/NodePublishVolumeRequest.ts';
import type { NodeStageVolumeRequest__Output } from '../generated/csi/v1/NodeStageVolumeRequest.ts';
import type { NodeUnpublishVolumeRequest__Output } from '../generated/csi/v1/NodeUnpublishVolumeRequest.ts';
import type { NodeUnstageVolumeRequest__Output } from '../generated/csi/v1/NodeUnstageVolumeRequest.ts';
import type { NodeCapability } from '../protocol.ts';
import type { Attachments } from './attachments.ts';
import { type Capability, isReaderOnly, isShared, parseCapability, requireFit } from './capability.ts';
import type { Expansion } from './expansion.ts';
import type { InFlight } from './in-flight.ts';
import type { KernelView } from './kernel-view.ts';
import type { Modification } from './modification.ts';
import type { NodeStats } from './node-stats.ts';
import type { Handlers } from './rpc.ts';
import type { Topology } from './topology.ts';
import type { VolumeFiles } from './volume-files.ts';
import type { Target, VolumeMounts } from './volume-mounts.ts';
import { checkVolumeId, resolvePath } from './volume-path.ts';
import type { NodeRecord, VolumeRecord } from './volume-record.ts';

const CAPABILITIES: readonly NodeCapability[] = [
  'STAGE_UNSTAGE_VOLUME',
  'GET_VOLUME_STATS',
  'VOLUME_CONDITION',
  'EXPAND_VOLUME',
  'SINGLE_NODE_MULTI_WRITER',
  'VOLUME_MOUNT_GROUP',
];

/** A volume may hold a great many files. */
const GROUP_TIMEOUT_MS = 10 * 60_000;

export interface NodeServiceParts {
  readonly nodeId: string;
  readonly files: VolumeFiles;
  readonly kernel: KernelView;
  readonly mounts: VolumeMounts;
  readonly inFlight: InFlight;
  readonly expansion: Expansion;
  readonly modification: Modification;
  readonly attachments: Attachments;
  readonly topology: Topology;
  readonly stats: NodeStats;
  /** How many volumes the node takes; undefined: as many as the orchestrator likes. */
  readonly maxVolumes: number | undefined;
}

export class NodeService {
  readonly #parts: NodeServiceParts;
  readonly #files: VolumeFiles;
  readonly #kernel: KernelView;
  readonly #mounts: VolumeMounts;

  constructor(parts: NodeServiceParts) {
    this.#parts = parts;
    this.#files = parts.files;
    this.#kernel = parts.kernel;
    this.#mounts = parts.mounts;
  }

  handlers(): Handlers<NodeDefinition> {
    return {
      NodeGetCapabilities: async () => ({ capabilities: CAPABILITIES.map((type) => ({ rpc: { type } })) }),
      NodeGetInfo: async () => ({
        nodeId: this.#parts.nodeId,
        maxVolumesPerNode: String(this.#parts.maxVolumes ?? 0),
        accessibleTopology: { segments: this.#parts.topology.segments },
      }),
      NodeStageVolume: (request) => this.#stage(request),
      NodeUnstageVolume: (request) => this.#unstage(request),
      NodePublishVolume: (request) => this.#publish(request),
      NodeUnpublishVolume: (request) => this.#unpublish(request),
      NodeGetVolumeStats: (request) => this.#parts.stats.stats(request),
      ...this.#parts.expansion.nodeHandlers(),
    };
  }

  async #stage(request: NodeStageVolumeRequest__Output): Promise<object> {
    const id = checkVolumeId(request.volumeId);
    const resolved = await resolvePath('staging_target_path', request.stagingTargetPath);
    const capability = parseCapability('volume_capability', request.volumeCapability);
    return this.#exclusive(id, async (volume, record) => {
      requireFit(volume, capability);
      this.#parts.attachments.requireAttached(volume, request.publishContext);
      const path = await existingDirectory('staging_target_path', resolved);
      const { staged } = record;
      if (staged !== undefined && this.#kernel.isStaged(volume, staged.access, staged.path)) {
        requireSameStaging(volume, { path, fingerprint: capability.fingerprint }, staged);
      }
      const { access, fingerprint, group } = capability;
      const readonly = capability.mountFlags.includes('ro');
      await this.#files.writeNodeRecord(id, { ...record, staged: { path, access, fingerprint, readonly } });
      await this.#parts.modification.complete(volume);
      if (access === 'mount') await this.#parts.expansion.beforeMount(volume);
      await this.#mounts.stage(volume, path, capability);
      if (access === 'mount') await this.#parts.expansion.afterMount(volume, path);
      if (group !== undefined && !readonly) await giveToGroup(path, group);
    });
  }

  async #unstage(request: NodeUnstageVolumeRequest__Output): Promise<object> {
    const id = checkVolumeId(request.volumeId);
    const path = await resolvePath('staging_target_path', request.stagingTargetPath);
    return this.#exclusive(id, async (volume, record) => {
      const isStaged = record.staged?.path === (path ?? request.stagingTargetPath);
      if (!isStaged && (path === undefined || this.#kernel.mountOf(volume, path) === undefined)) return;
      const [target] = this.#publishedTargets(volume, record);
      if (target !== undefined) {
        throw new RuntimeError('FAILED_PRECONDITION', `volume ${id} is still published at ${target}`);
      }
      await this.#mounts.unstage(volume, path ?? request.stagingTargetPath);
      if (isStaged) await this.#files.writeNodeRecord(id, { version: 1, targets: record.targets });
    });
  }

  async #publish(request: NodePublishVolumeRequest__Output): Promise<object> {
    const id = checkVolumeId(request.volumeId);
    const path = await resolvePath('target_path', request.targetPath);
    const capability = parseCapability('volume_capability', request.volumeCapability);
    const readonly = request.readonly || isReaderOnly(capability);
    return this.#exclusive(id, async (volume, record) => {
      requireFit(volume, capability);
      if (path === undefined) throw new RuntimeError('FAILED_PRECONDITION', 'target_path: its parent does not exist');
      this.#parts.attachments.requireAccess(volume, readonly);
      const stagingPath = await this.#requireStaged(volume, record, request.stagingTargetPath, capability);
      const target = { path, stagingPath, readonly };
      this.#requireRoom(volume, record, target, capability);
      const targets = { ...record.targets, [path]: { fingerprint: capability.fingerprint, readonly } };
      await this.#files.writeNodeRecord(id, { ...record, targets });
      await this.#mounts.publish(volume, target, capability);
    });
  }

  async #unpublish(request: NodeUnpublishVolumeRequest__Output): Promise<object> {
    const id = checkVolumeId(request.volumeId);
    const path = (await resolvePath('target_path', request.targetPath)) ?? request.targetPath;
    return this.#exclusive(id, async (volume, record) => {
      const isKnown = Object.hasOwn(record.targets, path);
      if (!isKnown && this.#kernel.mountOf(volume, path) === undefined) return;
      await this.#mounts.unpublish(volume, path);
      if (!isKnown) return;
      const { [path]: _gone, ...targets } = record.targets;
      await this.#files.writeNodeRecord(id, { ...record, targets });
    });
  }

  /** Runs one call on a volume while no other runs on it. */
  #exclusive(id: string, work: (volume: VolumeRecord, record: NodeRecord) => Promise<void>): Promise<object> {
    return this.#parts.inFlight.run(id, async () => {
      const volume = this.#files.get(id);
      await work(volume, await this.#files.readNodeRecord(id));
      return {};
    });
  }

  async #requireStaged(
    volume: VolumeRecord,
    record: NodeRecord,
    asked: string,
    { access }: Capability,
  ): Promise<string> {
    if (asked === '') throw new RuntimeError('FAILED_PRECONDITION', 'staging_target_path: is missing, stage first');
    const path = await resolvePath('staging_target_path', asked);
    const isStaged = path !== undefined && record.staged?.path === path && record.staged.access === access;
    if (isStaged && this.#kernel.isStaged(volume, access, path)) return path;
    throw new RuntimeError('FAILED_PRECONDITION', `volume ${volume.id} is not staged for ${access} at ${asked}`);
  }

  /**
   * One target may be published again in the same way; a second target needs a shared mode (CSI NodePublishVolume), and
   * a block device is read-only for all or for none.
   */
  #requireRoom(volume: VolumeRecord, record: NodeRecord, target: Target, capability: Capability): void {
    for (const path of this.#publishedTargets(volume, record)) {
      const known = record.targets[path];
      const differs = known?.readonly !== target.readonly;
      if (path === target.path) {
        if (!differs && known?.fingerprint === capability.fingerprint) continue;
        throw new RuntimeError('ALREADY_EXISTS', `volume ${volume.id} is published at ${path} in another way`);
      }
      if (!isShared(capability) || (differs && capability.access === 'block')) {
        throw new RuntimeError('FAILED_PRECONDITION', `volume ${volume.id} is published at ${path} already`);
      }
    }
  }

  /** Targets that are really mounted. */
  #publishedTargets(volume: VolumeRecord, { targets }: NodeRecord): string[] {
    return Object.keys(targets).filter((path) => this.#kernel.mountOf(volume, path) !== undefined);
  }
}

function requireSameStaging(
  volume: VolumeRecord,
  asked: { readonly path: string; readonly fingerprint: string },
  staged: { readonly path: string; readonly fingerprint: string },
): void {
  if (staged.path !== asked.path) {
    throw new RuntimeError('FAILED_PRECONDITION', `volume ${volume.id} is staged at ${staged.path} already`);
  }
  if (staged.fingerprint !== asked.fingerprint) {
    throw new RuntimeError('ALREADY_EXISTS', `volume ${volume.id} is staged at ${staged.path} in another way`);
  }
}

/** A symbolic link is refused: the kernel would mount on what it points to, and list the mount there. */
async function existingDirectory(field: string, path: string | undefined): Promise<string> {
  const found = path === undefined ? undefined : await lstatIfThere(path);
  if (path !== undefined && found?.isDirectory() === true) return path;
  throw new RuntimeError('FAILED_PRECONDITION', `${field}: the caller makes this directory, and it is not there`);
}

async function lstatIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw RuntimeError.from(error, `look at ${path}`);
  }
}

/** As a volume with VOLUME_MOUNT_GROUP is to be; one that is already is left as it is. */
async function giveToGroup(path: string, group: number): Promise<void> {
  const options = { timeoutMs: GROUP_TIMEOUT_MS };
  await own({ path, group, policy: 'root-mismatch' }, AbortSignal.timeout(GROUP_TIMEOUT_MS), options);
}
