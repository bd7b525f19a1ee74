/**
 * Attachment, for orchestrators that shall have it (`--attach`): ControllerPublishVolume hands out a token on record in
 * `attachments.json` beside the volume, and NodeStageVolume asks for it. A volume lies on one node, so another one's
 * attachment keeps it from this one until it is taken back.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Logger } from 'pino';
import * as z from 'zod';
import { invalid, RuntimeError, systemCode } from '../../errors.ts';
import type { ControllerDefinition } from '../generated/csi/v1/Controller.ts';
import type { ControllerPublishVolumeRequest__Output } from '../generated/csi/v1/ControllerPublishVolumeRequest.ts';
import type { ControllerPublishVolumeResponse } from '../generated/csi/v1/ControllerPublishVolumeResponse.ts';
import type { ControllerUnpublishVolumeRequest__Output } from '../generated/csi/v1/ControllerUnpublishVolumeRequest.ts';
import { type ControllerCapability, checkMap, checkText, LIMITS, type StringMap } from '../protocol.ts';
import { parseCapability, requireFit } from './capability.ts';
import { writeDurably } from './durable-file.ts';
import type { InFlight } from './in-flight.ts';
import type { KernelView } from './kernel-view.ts';
import type { Handlers } from './rpc.ts';
import type { VolumeFiles } from './volume-files.ts';
import { checkVolumeId } from './volume-path.ts';
import type { VolumeRecord } from './volume-record.ts';

/** What the option adds to the controller's capabilities. */
export const ATTACH_CAPABILITIES: readonly ControllerCapability[] = ['PUBLISH_UNPUBLISH_VOLUME', 'PUBLISH_READONLY'];
/** The key of the publish context. */
export const ATTACHMENT_KEY = 'attachment';

export interface AttachmentOptions {
  /** False: volumes are attached to this node all the time, and nobody is asked. */
  readonly enabled: boolean;
  readonly nodeId: string;
  /** Undefined: as many as there are. */
  readonly maxVolumes: number | undefined;
}

interface Attachment {
  readonly token: string;
  readonly readonly: boolean;
  /** Of the capability. */
  readonly fingerprint: string;
}

/** By node id. */
type AttachmentsRecord = Readonly<Record<string, Attachment>>;

const schema: z.ZodType<{ version: 1; nodes: AttachmentsRecord }> = z.strictObject({
  version: z.literal(1),
  nodes: z.record(z.string(), z.strictObject({ token: z.string(), readonly: z.boolean(), fingerprint: z.string() })),
});

export interface AttachmentParts {
  readonly files: VolumeFiles;
  readonly kernel: KernelView;
  readonly inFlight: InFlight;
  readonly log: Logger;
}

/** See the module's head. */
export class Attachments {
  readonly #parts: AttachmentParts;
  readonly #options: AttachmentOptions;
  readonly #byVolume = new Map<string, AttachmentsRecord>();
  /** Ids of volumes whose record cannot be read, with the reason. */
  readonly #damaged = new Map<string, RuntimeError>();

  private constructor(parts: AttachmentParts, options: AttachmentOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** Reads what is on record. A volume whose record cannot be read is left alone, and says so. */
  static async open(parts: AttachmentParts, options: AttachmentOptions): Promise<Attachments> {
    const attachments = new Attachments(parts, options);
    if (!options.enabled) return attachments;
    for (const { id } of parts.files.list()) {
      try {
        const nodes = await readRecord(attachments.#path(id));
        if (nodes !== undefined) attachments.#byVolume.set(id, nodes);
      } catch (error) {
        const failure = RuntimeError.from(error, `attachments of volume ${id}`);
        attachments.#damaged.set(id, failure);
        parts.log.error({ volumeId: id, err: failure }, 'attachment record is not readable, the volume is left alone');
      }
    }
    return attachments;
  }

  get capabilities(): readonly ControllerCapability[] {
    return this.#options.enabled ? ATTACH_CAPABILITIES : [];
  }

  handlers(): Handlers<ControllerDefinition> {
    if (!this.#options.enabled) return {};
    return {
      ControllerPublishVolume: (request) => this.#publish(request),
      ControllerUnpublishVolume: (request) => this.#unpublish(request),
    };
  }

  /** Nodes a volume is attached to; without the option, this one when the volume is in use. */
  async nodesOf(volume: VolumeRecord): Promise<string[]> {
    // A listing shows the other volumes all the same.
    if (this.#damaged.has(volume.id)) return [];
    if (this.#options.enabled) return Object.keys(this.#nodes(volume.id));
    const { staged, targets } = await this.#parts.files.readNodeRecord(volume.id);
    return staged !== undefined || Object.keys(targets).length > 0 ? [this.#options.nodeId] : [];
  }

  /** @throws {RuntimeError} FAILED_PRECONDITION when the volume is attached */
  requireDetached({ id }: VolumeRecord): void {
    const [node] = Object.keys(this.#nodes(id));
    if (node !== undefined) throw new RuntimeError('FAILED_PRECONDITION', `volume ${id} is attached to node ${node}`);
  }

  /**
   * For NodeStageVolume.
   * @throws {RuntimeError} INVALID_ARGUMENT without a publish context, FAILED_PRECONDITION when it is not the volume's
   */
  requireAttached({ id }: VolumeRecord, context: StringMap): void {
    if (!this.#options.enabled) return;
    checkMap('publish_context', context);
    const token = context[ATTACHMENT_KEY];
    if (token === undefined) throw invalid('publish_context', `has no ${JSON.stringify(ATTACHMENT_KEY)}`);
    if (this.#nodes(id)[this.#options.nodeId]?.token === token) return;
    const reason = `volume ${id} is not attached to this node with that publish_context`;
    throw new RuntimeError('FAILED_PRECONDITION', `${reason}: ControllerPublishVolume comes first`);
  }

  /**
   * For NodePublishVolume.
   * @throws {RuntimeError} FAILED_PRECONDITION when the volume is not attached, or for readers only
   */
  requireAccess({ id }: VolumeRecord, readonly: boolean): void {
    if (!this.#options.enabled) return;
    const attachment = this.#nodes(id)[this.#options.nodeId];
    if (attachment === undefined) {
      throw new RuntimeError('FAILED_PRECONDITION', `volume ${id} is not attached to this node`);
    }
    if (attachment.readonly && !readonly) {
      throw new RuntimeError('FAILED_PRECONDITION', `readonly: volume ${id} is attached to be read only`);
    }
  }

  #publish(request: ControllerPublishVolumeRequest__Output): Promise<ControllerPublishVolumeResponse> {
    const { files, inFlight } = this.#parts;
    const id = checkVolumeId(request.volumeId);
    if (request.nodeId === '') throw invalid('node_id', 'is missing');
    const nodeId = checkText('node_id', request.nodeId, LIMITS.nodeId);
    const capability = parseCapability('volume_capability', request.volumeCapability);
    checkMap('secrets', request.secrets);
    const { readonly } = request;
    return inFlight.run(id, async () => {
      const volume = files.get(id);
      if (nodeId !== this.#options.nodeId) {
        throw new RuntimeError('NOT_FOUND', `node ${JSON.stringify(nodeId)} does not exist, there is only this one`);
      }
      requireFit(volume, capability);
      const nodes = this.#nodes(id);
      const other = Object.keys(nodes).find((node) => node !== nodeId);
      if (other !== undefined) {
        throw new RuntimeError('FAILED_PRECONDITION', `volume ${id} is attached to node ${JSON.stringify(other)}`);
      }
      const { [nodeId]: known } = nodes;
      if (known !== undefined && (known.readonly !== readonly || known.fingerprint !== capability.fingerprint)) {
        throw new RuntimeError('ALREADY_EXISTS', `volume ${id} is attached to this node in another way`);
      }
      if (known !== undefined) return { publishContext: { [ATTACHMENT_KEY]: known.token } };
      const token = randomBytes(16).toString('hex');
      await this.#attach(id, { token, readonly, fingerprint: capability.fingerprint });
      return { publishContext: { [ATTACHMENT_KEY]: token } };
    });
  }

  /** Takes its place before the first wait, so that two volumes cannot both get the last one. */
  async #attach(id: string, attachment: Attachment): Promise<void> {
    const { nodeId, maxVolumes } = this.#options;
    const count = [...this.#byVolume.values()].filter((nodes) => Object.hasOwn(nodes, nodeId)).length;
    if (maxVolumes !== undefined && count >= maxVolumes) {
      throw new RuntimeError('RESOURCE_EXHAUSTED', `node ${nodeId} takes ${maxVolumes} volumes, and has them`);
    }
    const nodes = { ...this.#nodes(id), [nodeId]: attachment };
    const before = this.#byVolume.get(id);
    this.#byVolume.set(id, nodes);
    try {
      await this.#write(id, nodes);
    } catch (error) {
      if (before === undefined) this.#byVolume.delete(id);
      else this.#byVolume.set(id, before);
      throw error;
    }
  }

  #unpublish(request: ControllerUnpublishVolumeRequest__Output): Promise<object> {
    const { files, kernel, inFlight } = this.#parts;
    const id = checkVolumeId(request.volumeId);
    const nodeId = checkText('node_id', request.nodeId, LIMITS.nodeId);
    checkMap('secrets', request.secrets);
    return inFlight.run(id, async () => {
      const volume = files.find(id);
      const nodes = this.#nodes(id);
      // CSI: no node id means all nodes.
      const leaving = Object.keys(nodes).filter((node) => nodeId === '' || node === nodeId);
      if (volume === undefined || leaving.length === 0) return {};
      const user = leaving.includes(this.#options.nodeId) ? kernel.userOf(volume) : undefined;
      if (user !== undefined) throw new RuntimeError('FAILED_PRECONDITION', `volume ${id} is in use by ${user}`);
      const staying = Object.fromEntries(Object.entries(nodes).filter(([node]) => !leaving.includes(node)));
      await this.#write(id, staying);
      this.#byVolume.set(id, staying);
      return {};
    });
  }

  /** @throws {RuntimeError} DATA_LOSS when the record is unreadable */
  #nodes(id: string): AttachmentsRecord {
    const damage = this.#damaged.get(id);
    if (damage !== undefined) throw damage;
    return this.#byVolume.get(id) ?? {};
  }

  #path(id: string): string {
    return `${this.#parts.files.directory(id)}/attachments.json`;
  }

  async #write(id: string, nodes: AttachmentsRecord): Promise<void> {
    await writeDurably(this.#path(id), JSON.stringify({ version: 1, nodes }));
  }
}

async function readRecord(path: string): Promise<AttachmentsRecord | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(path, 'utf8'))).nodes;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new RuntimeError('DATA_LOSS', `record ${path} is not readable, mend or remove it`, { cause: error });
  }
}
