/**
 * The networks of containers that run: what people ask for outside a launch or a teardown. Each call holds the lane of
 * its container, so it never meets an ADD or DEL of the same one.
 */
import { RuntimeError } from '../errors.ts';
import type { ContainerRecord } from '../runtime/container.ts';
import type { Store } from '../store.ts';
import { type AttachmentCheck, checkAttachments } from './attachment-check.ts';
import type { CniRuntime } from './cni-runtime.ts';
import type { ContainerLanes } from './container-lanes.ts';
import type { NetworkRecord, RecordedAttachment } from './network-record.ts';

export interface LiveNetworksOptions {
  readonly cni: CniRuntime;
  readonly store: Store<NetworkRecord>;
  readonly lanes: ContainerLanes;
}

/** See the module's head. */
export class LiveNetworks {
  readonly #options: LiveNetworksOptions;

  constructor(options: LiveNetworksOptions) {
    this.#options = options;
  }

  /**
   * CHECK of a running container's attachment to `network`, or of all its attachments.
   * @throws {RuntimeError} NOT_FOUND or FAILED_PRECONDITION naming container and network
   */
  async check(ref: string, network: string | undefined, signal: AbortSignal): Promise<AttachmentCheck[]> {
    const { cni, lanes } = this.#options;
    const work = (container: ContainerRecord, joint: AbortSignal): Promise<AttachmentCheck[]> => {
      const record = this.#recordOf(container);
      return checkAttachments(cni, { id: container.id, record }, chosen(container, record, network), joint);
    };
    return lanes.inLane(ref, work, signal);
  }

  #recordOf({ id, spec }: ContainerRecord): NetworkRecord {
    const record = this.#options.store.read(id);
    if (record !== undefined && record.mode !== 'host') return record;
    throw new RuntimeError('FAILED_PRECONDITION', `container ${spec.name} has no network namespace of its own`);
  }
}

/** Attachments of a container, those to one network if it is named. @throws {RuntimeError} NOT_FOUND */
function chosen(
  { spec }: ContainerRecord,
  { attachments }: NetworkRecord,
  network: string | undefined,
): readonly RecordedAttachment[] {
  if (network === undefined) return attachments;
  const entries = attachments.filter((entry) => entry.network.name === network);
  if (entries.length > 0) return entries;
  throw new RuntimeError('NOT_FOUND', `container ${spec.name} is not attached to network ${network}`);
}
