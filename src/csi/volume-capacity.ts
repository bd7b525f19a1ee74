/**
 * How much room plugins have for volumes (CSI GetCapacity). It is asked for to be shown, and before a volume is made. Then
 * only the largest size that the plugin names is a reason to refuse: available room says little about a plugin that
 * promises more than it has, and CreateVolume itself knows better.
 */
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { chooseAccessMode } from './access-modes.ts';
import { lawful, type Plugin } from './plugin.ts';
import { type PluginCaller, question } from './plugin-caller.ts';
import { CsiError, type Request, type StringMap, volumeCapability } from './protocol.ts';
import type { VolumeRequest, VolumeWish } from './volume-request.ts';

/** Sizes are bytes in decimal. */
export interface VolumeCapacity {
  readonly availableBytes: string;
  /** What CreateVolume may be asked for; absent when the plugin does not say. */
  readonly maximumVolumeBytes?: string | undefined;
  readonly minimumVolumeBytes?: string | undefined;
  /** Where; empty: places do not matter to the plugin. */
  readonly topology: StringMap;
}

const RPC = 'GetCapacity';
/** Making a volume waits for the answer no longer. */
const ADVICE_TIMEOUT_MS = 5000;

/**
 * Room for volumes of a kind on this node.
 * @throws {CsiError} UNIMPLEMENTED when the plugin does not tell, or what it says
 */
export async function askCapacity(
  caller: PluginCaller,
  plugin: Plugin,
  kind: Pick<VolumeWish, 'access' | 'accessMode' | 'fsType' | 'parameters'>,
  signal: AbortSignal,
): Promise<VolumeCapacity> {
  const { capabilities, name, topology = {} } = plugin;
  if (!capabilities.controller.has('GET_CAPACITY')) {
    throw new CsiError('UNIMPLEMENTED', name, RPC, 'the plugin does not tell how much room it has');
  }
  const answer = await caller.call(question(name), RPC, capacityRequest(plugin, kind), signal);
  const { availableCapacity, maximumVolumeSize, minimumVolumeSize } = answer;
  const most = maximumVolumeSize?.value;
  const least = minimumVolumeSize?.value;
  return lawful(RPC, name, () => ({
    availableBytes: size('available_capacity', availableCapacity),
    ...(most === undefined ? {} : { maximumVolumeBytes: size('maximum_volume_size', String(most)) }),
    ...(least === undefined ? {} : { minimumVolumeBytes: size('minimum_volume_size', String(least)) }),
    topology,
  }));
}

function capacityRequest(
  { capabilities, topology }: Plugin,
  { access, accessMode, fsType, parameters }: Pick<VolumeWish, 'access' | 'accessMode' | 'fsType' | 'parameters'>,
): Request<'GetCapacity'> {
  const mode = chooseAccessMode(accessMode, capabilities);
  const placed = capabilities.plugin.has('VOLUME_ACCESSIBILITY_CONSTRAINTS') && topology !== undefined;
  return {
    volumeCapabilities: access === undefined ? [] : [volumeCapability(access, mode, fsType)],
    parameters: { ...parameters },
    ...(placed ? { accessibleTopology: { segments: { ...topology } } } : {}),
  };
}

function size(field: string, told: string): string {
  if (BigInt(told) < 0n) throw new RuntimeError('INTERNAL', `${field} is negative: ${told}`);
  return told;
}

/**
 * Due before a volume is put on record. A plugin that cannot answer now is no reason to make none.
 * @throws {RuntimeError} OUT_OF_RANGE when the plugin makes no volume of that size
 */
export async function refuseTooLarge(
  { caller, log }: { readonly caller: PluginCaller; readonly log: Logger },
  plugin: Plugin,
  request: VolumeRequest,
  signal: AbortSignal,
): Promise<void> {
  if (!plugin.capabilities.controller.has('GET_CAPACITY')) return;
  const patience = AbortSignal.any([signal, AbortSignal.timeout(ADVICE_TIMEOUT_MS)]);
  let told: VolumeCapacity;
  try {
    told = await askCapacity(caller, plugin, request, patience);
  } catch (error) {
    if (error instanceof CsiError) {
      log.debug({ volume: request.name, err: error }, 'capacity is not known, the volume is tried');
      return;
    }
    throw error;
  }
  const { maximumVolumeBytes: most, availableBytes } = told;
  if (most === undefined || BigInt(most) === 0n || BigInt(request.capacityBytes) <= BigInt(most)) return;
  const reason = `is more than the ${most} bytes of the largest volume that CSI plugin ${plugin.name} makes here`;
  const text = `size: ${request.capacityBytes} bytes ${reason} (${availableBytes} are available)`;
  throw new RuntimeError('OUT_OF_RANGE', text);
}
