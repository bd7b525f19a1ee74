/** CSI's Controller service: makes, checks and removes volumes. What a volume is used for here is not its business. */
import { invalid, RuntimeError } from '../../errors.ts';
import type { ControllerDefinition } from '../generated/csi/v1/Controller.ts';
import type { CreateVolumeRequest__Output } from '../generated/csi/v1/CreateVolumeRequest.ts';
import type { CreateVolumeResponse } from '../generated/csi/v1/CreateVolumeResponse.ts';
import type { GetCapacityRequest__Output } from '../generated/csi/v1/GetCapacityRequest.ts';
import type { ValidateVolumeCapabilitiesRequest__Output } from '../generated/csi/v1/ValidateVolumeCapabilitiesRequest.ts';
import type { ValidateVolumeCapabilitiesResponse } from '../generated/csi/v1/ValidateVolumeCapabilitiesResponse.ts';
import type { Volume } from '../generated/csi/v1/Volume.ts';
import type { VolumeCapability__Output } from '../generated/csi/v1/VolumeCapability.ts';
import type { ControllerCapability } from '../protocol.ts';
import type { Attachments } from './attachments.ts';
import { misfit, parseCapability } from './capability.ts';
import { describeSource } from './content-source.ts';
import { difference, parseCreateRequest, parseParameters, sizeFor } from './create-request.ts';
import { SMALLEST_BYTES } from './file-system.ts';
import type { InFlight } from './in-flight.ts';
import type { KernelView } from './kernel-view.ts';
import { MODIFY_CAPABILITIES, type Modification } from './modification.ts';
import type { Handlers } from './rpc.ts';
import { SNAPSHOT_CAPABILITIES } from './snapshot-service.ts';
import type { Topology } from './topology.ts';
import type { VolumeCopying } from './volume-copying.ts';
import type { VolumeFiles } from './volume-files.ts';
import { LISTING_CAPABILITIES } from './volume-listing.ts';
import { checkVolumeId } from './volume-path.ts';
import type { VolumeRecord } from './volume-record.ts';

const CAPABILITIES: readonly ControllerCapability[] = [
  'CREATE_DELETE_VOLUME',
  'GET_CAPACITY',
  'EXPAND_VOLUME',
  'SINGLE_NODE_MULTI_WRITER',
  ...LISTING_CAPABILITIES,
  ...MODIFY_CAPABILITIES,
  ...SNAPSHOT_CAPABILITIES,
  'CLONE_VOLUME',
];

export interface ControllerServiceParts {
  readonly files: VolumeFiles;
  readonly kernel: KernelView;
  readonly inFlight: InFlight;
  readonly copying: VolumeCopying;
  readonly modification: Modification;
  readonly attachments: Attachments;
  readonly topology: Topology;
}

export class ControllerService {
  readonly #files: VolumeFiles;
  readonly #kernel: KernelView;
  readonly #inFlight: InFlight;
  readonly #copying: VolumeCopying;
  readonly #modification: Modification;
  readonly #attachments: Attachments;
  readonly #topology: Topology;

  constructor({ files, kernel, inFlight, copying, modification, attachments, topology }: ControllerServiceParts) {
    this.#copying = copying;
    this.#modification = modification;
    this.#attachments = attachments;
    this.#topology = topology;
    this.#files = files;
    this.#kernel = kernel;
    this.#inFlight = inFlight;
  }

  handlers(): Handlers<ControllerDefinition> {
    return {
      ControllerGetCapabilities: async () => ({
        capabilities: [...CAPABILITIES, ...this.#attachments.capabilities].map((type) => ({ rpc: { type } })),
      }),
      CreateVolume: (request) => {
        this.#topology.check(request.accessibilityRequirements);
        return this.#create(request);
      },
      DeleteVolume: ({ volumeId }) => this.#delete(checkVolumeId(volumeId)),
      GetCapacity: (request) => this.#capacity(request),
      ValidateVolumeCapabilities: async (request) => this.#validate(request),
    };
  }

  /** A volume as CSI shows it. */
  describe(volume: VolumeRecord): Volume {
    return { ...describe(volume), accessibleTopology: [{ segments: this.#topology.segments }] };
  }

  async #create(request: CreateVolumeRequest__Output): Promise<CreateVolumeResponse> {
    const wanted = parseCreateRequest(request);
    const { source } = wanted;
    const sizeBytes = sizeFor(wanted);
    return this.#inFlight.run(`volume named ${JSON.stringify(wanted.name)}`, async () => {
      const existing = this.#files.named(wanted.name);
      if (existing === undefined && source !== undefined) {
        const copy = await this.#copying.create(wanted, source);
        return { volume: this.describe(await this.#modification.ofNew(copy, wanted.mutable)) };
      }
      if (existing === undefined) {
        const { name, type, access, fsType } = wanted;
        const made = await this.#files.create({ name, type, access, fsType, sizeBytes });
        return { volume: this.describe(await this.#modification.ofNew(made, wanted.mutable)) };
      }
      // It may be on its way out.
      return this.#inFlight.run(existing.id, async () => {
        const reason = difference(existing, wanted);
        if (reason !== undefined) {
          throw new RuntimeError(
            'ALREADY_EXISTS',
            `a volume named ${JSON.stringify(wanted.name)} exists, but ${reason}`,
          );
        }
        return { volume: this.describe(await this.#modification.ofExisting(existing, wanted.mutable)) };
      });
    });
  }

  #delete(id: string): Promise<object> {
    return this.#inFlight.run(id, async () => {
      const volume = this.#files.find(id);
      // Idempotent: what is not there needs no removal.
      if (volume === undefined) return {};
      const user = this.#kernel.userOf(volume);
      if (user !== undefined) throw new RuntimeError('FAILED_PRECONDITION', `volume ${id} is in use by ${user}`);
      this.#attachments.requireDetached(volume);
      await this.#files.remove(volume);
      return {};
    });
  }

  async #capacity(request: GetCapacityRequest__Output): Promise<object> {
    const asked = request.volumeCapabilities.map((one, index) => parseCapability(`volume_capabilities[${index}]`, one));
    const { fsType } = parseParameters(request.parameters);
    const [first] = [fsType, ...asked.map((one) => one.fsType)].filter((name) => name !== undefined);
    const isElsewhere = request.accessibleTopology !== null && !this.#topology.includes(request.accessibleTopology);
    return {
      availableCapacity: String(isElsewhere ? 0 : await this.#files.availableBytes()),
      minimumVolumeSize: { value: String(SMALLEST_BYTES[first ?? 'ext4']) },
    };
  }

  #validate(request: ValidateVolumeCapabilitiesRequest__Output): ValidateVolumeCapabilitiesResponse {
    const { volumeId, volumeCapabilities, volumeContext, parameters } = request;
    if (volumeCapabilities.length === 0) throw invalid('volume_capabilities', 'are missing');
    const volume = this.#files.get(checkVolumeId(volumeId));
    const { type, fsType } = parseParameters(parameters);
    const reasons = [
      ...volumeCapabilities.map((capability) => unsupported(volume, capability)),
      Object.keys(volumeContext).length > 0 ? 'volumes of this driver have no context' : undefined,
      parameters['type'] !== undefined && type !== volume.type ? `it is of type ${volume.type}` : undefined,
      fsType !== undefined && fsType !== volume.fsType ? `it has file system ${volume.fsType ?? 'none'}` : undefined,
    ].filter((reason) => reason !== undefined);
    if (reasons.length > 0) return { message: reasons.join('; ') };
    return { confirmed: { volumeContext, volumeCapabilities, parameters } };
  }
}

function describe(volume: VolumeRecord): Volume {
  return {
    volumeId: volume.id,
    // Zero: unknown. Nothing enforces the size of a directory.
    capacityBytes: String(volume.type === 'image' ? volume.sizeBytes : 0),
    contentSource: volume.source === undefined ? null : describeSource(volume.source),
  };
}

/** Why a capability is not confirmed; one that is not understood is no fault of the request. */
function unsupported(volume: VolumeRecord, capability: VolumeCapability__Output): string | undefined {
  try {
    return misfit(volume, parseCapability('volume_capability', capability));
  } catch (error) {
    if (error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT') return error.message;
    throw error;
  }
}
