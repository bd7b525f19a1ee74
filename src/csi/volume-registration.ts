/**
 * Volumes that the storage system has already: Berth is told their ids and keeps them when they are removed, unless asked
 * otherwise (CSI ValidateVolumeCapabilities).
 */
import { RuntimeError } from '../errors.ts';
import { chooseAccessMode } from './access-modes.ts';
import type { ValidateVolumeCapabilitiesResponse__Output } from './generated/csi/v1/ValidateVolumeCapabilitiesResponse.ts';
import type { VolumeCapability__Output } from './generated/csi/v1/VolumeCapability.ts';
import { lawful, type Plugin } from './plugin.ts';
import type { PluginCaller } from './plugin-caller.ts';
import { CsiError, type StringMap, type VolumeCapability } from './protocol.ts';
import type { VolumeRecord } from './volume.ts';
import { capabilityOf } from './volume-calls.ts';
import type { VolumeJournal } from './volume-journal.ts';
import { newVolume } from './volume-provisioning.ts';
import { isSameMap, isSameUse, type RegisterRequest } from './volume-request.ts';

export interface VolumeRegistrationOptions {
  readonly caller: PluginCaller;
  readonly journal: VolumeJournal;
  readonly records: () => Iterable<VolumeRecord>;
}

export class VolumeRegistration {
  readonly #options: VolumeRegistrationOptions;

  constructor(options: VolumeRegistrationOptions) {
    this.#options = options;
  }

  /**
   * Records a volume after the plugin has said that it can be used so. Callers hold the volume's lane.
   * @throws {RuntimeError} ALREADY_EXISTS when name or id is taken, FAILED_PRECONDITION when it cannot be used so
   */
  async register(
    request: RegisterRequest,
    existing: VolumeRecord | undefined,
    signal: AbortSignal,
  ): Promise<VolumeRecord> {
    if (existing !== undefined) return same(existing, request);
    const { caller, journal } = this.#options;
    this.#checkFree(request);
    const plugin = await caller.plugin(request.driver, signal);
    const record = recordOf(request, plugin);
    if (plugin.capabilities.plugin.has('CONTROLLER_SERVICE')) await this.#confirm(record, signal);
    // Another registration may have come first meanwhile.
    this.#checkFree(request);
    return journal.begin(record);
  }

  /** One volume under two names would be deleted under a user's feet. */
  #checkFree({ driver, volumeId }: RegisterRequest): void {
    const taken = [...this.#options.records()].find((one) => one.driver === driver && one.volumeId === volumeId);
    if (taken === undefined) return;
    throw new RuntimeError(
      'ALREADY_EXISTS',
      `volumeId: ${JSON.stringify(volumeId)} of ${driver} is volume ${taken.name}`,
    );
  }

  /** OK alone says nothing: what is confirmed must be what was asked for. A plugin may not offer the call at all. */
  async #confirm(record: VolumeRecord, signal: AbortSignal): Promise<void> {
    const rpc = 'ValidateVolumeCapabilities';
    const { caller } = this.#options;
    const asked = capabilityOf(record);
    const request = {
      volumeId: record.volumeId ?? '',
      volumeContext: { ...record.volumeContext },
      volumeCapabilities: [asked],
    };
    const { confirmed, message } = await caller.call(record, rpc, request, signal).catch(unlessUnimplemented);
    const refuse = (reason: string): CsiError => new CsiError('FAILED_PRECONDITION', record.driver, rpc, reason);
    if (confirmed === undefined) return;
    if (confirmed === null) throw refuse(message === '' ? 'the volume cannot be used so' : message);
    if (!confirmed.volumeCapabilities.some((one) => isConfirmed(asked, one))) {
      const said = confirmed.volumeCapabilities.map(wordsOf).join(' or ') || 'nothing';
      throw refuse(`it confirms ${said}, not ${wordsOf(asked)}`);
    }
    lawful(rpc, record.driver, () => {
      checkSame('volume_context', confirmed.volumeContext, record.volumeContext);
      checkSame('parameters', confirmed.parameters, {});
    });
  }
}

type Confirmed = NonNullable<ValidateVolumeCapabilitiesResponse__Output['confirmed']>['volumeCapabilities'][number];

/** What a plugin does not speak of it does not deny: the file system and the flags of a mount may be left out. */
function isConfirmed(asked: VolumeCapability, said: Confirmed): boolean {
  if (said.accessMode?.mode !== asked.accessMode?.mode) return false;
  const { mount } = asked;
  if (mount === undefined || mount === null) return said.accessType === 'block';
  if (said.accessType !== 'mount') return false;
  const { fsType = '', mountFlags = [] } = said.mount ?? {};
  const sameType = fsType === '' || (mount.fsType ?? '') === '' || fsType === mount.fsType;
  const sameFlags = mountFlags.length === 0 || isSameMap(marks(mountFlags), marks(mount.mountFlags ?? []));
  return sameType && sameFlags;
}

function marks(flags: readonly string[]): StringMap {
  return Object.fromEntries(flags.map((flag) => [flag, '']));
}

/** "mount of ext4, SINGLE_NODE_WRITER". Flags may be secret and are left out. */
function wordsOf({ mount, accessMode }: VolumeCapability | VolumeCapability__Output): string {
  const fsType = mount?.fsType ?? '';
  const access = mount === undefined || mount === null ? 'block' : `mount${fsType === '' ? '' : ` of ${fsType}`}`;
  return `${access}, ${String(accessMode?.mode)}`;
}

function checkSame(field: string, said: StringMap, asked: StringMap): void {
  // A plugin may leave out what it has nothing to say about.
  if (Object.keys(said).length === 0 || isSameMap(said, asked)) return;
  throw new RuntimeError('INTERNAL', `confirmed ${field} is not the one asked about`);
}

function unlessUnimplemented(error: unknown): { confirmed: undefined; message: string } {
  if (error instanceof CsiError && error.code === 'UNIMPLEMENTED') return { confirmed: undefined, message: '' };
  throw error;
}

function recordOf(request: RegisterRequest, { capabilities, topology }: Plugin): VolumeRecord {
  const { name, driver, access, fsType, volumeId, volumeContext } = request;
  const capacityBytes = String(request.capacityBytes);
  if (request.reclaim === 'delete' && !capabilities.controller.has('CREATE_DELETE_VOLUME')) {
    throw new RuntimeError('INVALID_ARGUMENT', `reclaim: CSI plugin ${driver} deletes no volumes: use retain`);
  }
  return {
    ...{ name, driver, access, volumeId, volumeContext, topology, capacityBytes },
    ...(fsType === undefined ? {} : { fsType }),
    requestedBytes: capacityBytes,
    parameters: {},
    csiName: name,
    accessMode: chooseAccessMode(request.accessMode, capabilities),
    ...newVolume(request, 'retain'),
    provisioned: false,
    state: 'created',
    rungs: ['volume'],
  };
}

/** The same words may be said again. */
function same(existing: VolumeRecord, request: RegisterRequest): VolumeRecord {
  const { name, driver, volumeId, access, fsType, volumeContext } = existing;
  const equal =
    driver === request.driver &&
    volumeId === request.volumeId &&
    access === request.access &&
    fsType === request.fsType &&
    isSameUse(existing, request) &&
    isSameMap(volumeContext, request.volumeContext);
  if (equal) return existing;
  throw new RuntimeError('ALREADY_EXISTS', `volume ${name} exists and was asked for in other words`);
}
