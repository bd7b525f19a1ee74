/**
 * What a failed CSI call asks of its caller, as data: the error tables of the specification for the calls Berth makes.
 * `VolumeManager` repeats only what may be repeated as it is; the rest is said to the user.
 */
import { type Code, RETRYABLE, RuntimeError } from '../errors.ts';
import { CsiError, type Rpc, type StreamRpc } from './protocol.ts';

/** Names of reactions, with what a person can do. */
export const REACTIONS = {
  'fix-request': 'change the request before trying again',
  'fix-or-rename': 'change the request or choose another name',
  'verify-backoff': 'check that the volume still exists in the storage system',
  'conflict-backoff': 'the plugin is busy with this volume, try again later',
  'clear-cause-backoff': 'remove the cause (quota, snapshots, another user of the volume), then try again',
  'admin-then-retry': 'an administrator of the storage system must act first',
  'never-retry': 'the plugin does not offer this',
  'fix-secrets': 'give the right secrets, then try again',
  'validate-or-wait': 'the volume cannot be used this way, or not before its other user is gone',
  'stage-first': 'this is a fault in Berth: the volume was not staged',
  'fail-request': 'make room for the snapshot, then ask for it anew',
  'later-attempt': 'make room for the snapshots, then ask for them anew',
  'use-group-delete': 'it is part of a group snapshot: remove the group',
  'restart-paging': 'the listing changed while it was read: list again',
  'fix-volumes': 'these volumes cannot be cut together: choose others, or change them as the plugin asks',
  'use-other-ids': 'the snapshots of the group are not those on record: look at the group in the storage system',
  'validate-then-fix': 'nothing was changed: ask for what the volume supports',
  'full-backup': 'changes are not tracked for this volume: read the whole snapshot',
  unhealthy: 'look into the log of the plugin, restart it',
} as const;

/** Name of a reaction. */
export type Reaction = keyof typeof REACTIONS;

/** Reactions to codes of any call (CSI "Error Scheme"). */
export const GENERAL_REACTIONS: Readonly<Partial<Record<Code, Reaction>>> = {
  INVALID_ARGUMENT: 'fix-request',
  PERMISSION_DENIED: 'admin-then-retry',
  ABORTED: 'conflict-backoff',
  UNIMPLEMENTED: 'never-retry',
  UNAUTHENTICATED: 'fix-secrets',
};

/** Reactions to codes of one call; they win over the general ones. Of two causes for one code, the first is given. */
export const RPC_REACTIONS: Readonly<Partial<Record<Rpc | StreamRpc, Readonly<Partial<Record<Code, Reaction>>>>>> = {
  Probe: { FAILED_PRECONDITION: 'unhealthy' },
  CreateVolume: {
    INVALID_ARGUMENT: 'fix-request',
    NOT_FOUND: 'verify-backoff',
    ALREADY_EXISTS: 'fix-or-rename',
    RESOURCE_EXHAUSTED: 'clear-cause-backoff',
    OUT_OF_RANGE: 'fix-request',
  },
  DeleteVolume: { FAILED_PRECONDITION: 'clear-cause-backoff' },
  ControllerPublishVolume: {
    NOT_FOUND: 'verify-backoff',
    ALREADY_EXISTS: 'fix-request',
    FAILED_PRECONDITION: 'clear-cause-backoff',
    RESOURCE_EXHAUSTED: 'clear-cause-backoff',
  },
  ControllerUnpublishVolume: { NOT_FOUND: 'verify-backoff' },
  ValidateVolumeCapabilities: { NOT_FOUND: 'verify-backoff' },
  ListVolumes: { ABORTED: 'restart-paging' },
  ControllerGetVolume: { NOT_FOUND: 'verify-backoff' },
  ControllerModifyVolume: { INVALID_ARGUMENT: 'validate-then-fix', NOT_FOUND: 'verify-backoff' },
  CreateSnapshot: { ALREADY_EXISTS: 'fix-or-rename', ABORTED: 'conflict-backoff', RESOURCE_EXHAUSTED: 'fail-request' },
  DeleteSnapshot: {
    INVALID_ARGUMENT: 'use-group-delete',
    FAILED_PRECONDITION: 'clear-cause-backoff',
    ABORTED: 'conflict-backoff',
  },
  ListSnapshots: { ABORTED: 'restart-paging' },
  GetSnapshot: { NOT_FOUND: 'verify-backoff' },
  ControllerExpandVolume: {
    INVALID_ARGUMENT: 'validate-then-fix',
    NOT_FOUND: 'verify-backoff',
    FAILED_PRECONDITION: 'clear-cause-backoff',
    OUT_OF_RANGE: 'fix-request',
  },
  NodeStageVolume: {
    NOT_FOUND: 'verify-backoff',
    ALREADY_EXISTS: 'fix-request',
    FAILED_PRECONDITION: 'validate-or-wait',
  },
  NodeUnstageVolume: { NOT_FOUND: 'verify-backoff' },
  NodePublishVolume: {
    NOT_FOUND: 'verify-backoff',
    ALREADY_EXISTS: 'fix-request',
    FAILED_PRECONDITION: 'validate-or-wait',
  },
  NodeUnpublishVolume: { NOT_FOUND: 'verify-backoff' },
  NodeGetVolumeStats: { NOT_FOUND: 'verify-backoff' },
  NodeExpandVolume: {
    INVALID_ARGUMENT: 'validate-then-fix',
    NOT_FOUND: 'verify-backoff',
    FAILED_PRECONDITION: 'never-retry',
    OUT_OF_RANGE: 'fix-request',
  },
  CreateVolumeGroupSnapshot: {
    ALREADY_EXISTS: 'fix-or-rename',
    FAILED_PRECONDITION: 'fix-volumes',
    RESOURCE_EXHAUSTED: 'later-attempt',
  },
  DeleteVolumeGroupSnapshot: { INVALID_ARGUMENT: 'use-other-ids', FAILED_PRECONDITION: 'clear-cause-backoff' },
  GetVolumeGroupSnapshot: { INVALID_ARGUMENT: 'use-other-ids', NOT_FOUND: 'verify-backoff' },
  GetMetadataAllocated: { INVALID_ARGUMENT: 'fix-request', NOT_FOUND: 'verify-backoff', OUT_OF_RANGE: 'fix-request' },
  GetMetadataDelta: {
    INVALID_ARGUMENT: 'fix-request',
    NOT_FOUND: 'verify-backoff',
    FAILED_PRECONDITION: 'full-backup',
    OUT_OF_RANGE: 'fix-request',
  },
};

/** What a person can do about a failed call, if the specification knows. */
export function adviceFor(rpc: Rpc | StreamRpc, code: Code): string | undefined {
  const reaction = RPC_REACTIONS[rpc]?.[code] ?? GENERAL_REACTIONS[code];
  return reaction === undefined ? undefined : REACTIONS[reaction];
}

/** Calls that give something back: they are repeated until they succeed, so a passed deadline is no reason to stop. */
const DOWNWARD: ReadonlySet<Rpc | StreamRpc> = new Set<Rpc | StreamRpc>([
  'NodeUnpublishVolume',
  'NodeUnstageVolume',
  'ControllerUnpublishVolume',
  'DeleteVolume',
  'DeleteSnapshot',
  'DeleteVolumeGroupSnapshot',
]);

/** True for calls that give something back. */
export function isDownward(rpc: Rpc | StreamRpc): boolean {
  return DOWNWARD.has(rpc);
}

/** True when the very same call may be sent again at once, after a pause. */
export function isRepeatable(error: CsiError): boolean {
  if (RPC_REACTIONS[error.rpc]?.[error.code] === 'restart-paging') return false;
  return RETRYABLE.has(error.code) || (error.code === 'DEADLINE_EXCEEDED' && isDownward(error.rpc));
}

/** Codes by which a plugin says that it has done nothing, and why. */
const REFUSALS: ReadonlySet<Code> = new Set<Code>([
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'PERMISSION_DENIED',
  'FAILED_PRECONDITION',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'UNAUTHENTICATED',
]);

/** Codes after which the call may still be under way (CSI "Timeouts"). */
const STILL_RUNNING: ReadonlySet<string> = new Set<Code>(['CANCELLED', 'DEADLINE_EXCEEDED', 'UNAVAILABLE', 'ABORTED']);

/**
 * True when the call surely had no effect: the plugin refuses it, and no earlier try of it may have come through. After
 * any other failure it is repeated, or reversed by its opposite.
 */
export function isRefusal(error: unknown): error is CsiError {
  return error instanceof CsiError && !error.isRepeated && REFUSALS.has(error.code);
}

/** Codes by which a plugin says that CreateVolume made nothing. */
const CREATE_REFUSALS: ReadonlySet<string> = new Set<string>([...REFUSALS, 'ALREADY_EXISTS', 'RESOURCE_EXHAUSTED']);

/**
 * True when a CreateVolume that failed may yet bear a volume. INTERNAL, UNKNOWN and codes that the specification does not
 * name say nothing of what was done, however often they are said: the call is repeated with the same words.
 */
export function mayBearVolume(error: unknown): boolean {
  if (error instanceof CsiError && error.isRepeated) return true;
  return !CREATE_REFUSALS.has(RuntimeError.from(error, 'create').code);
}

/** The same for a failure that is on record. */
export function isCreateRefusal(code: string): boolean {
  return CREATE_REFUSALS.has(code);
}

/**
 * True when a Create… of a snapshot that failed may yet bear one. UNKNOWN and INTERNAL are a plugin's words for anything,
 * and final when said twice.
 */
export function isCreateUnsettled(code: string, repeated: boolean): boolean {
  return STILL_RUNNING.has(code) || (!repeated && isVague(code));
}

/** The same for a failure that was caught, which may also be the refusal of a call sent before without an outcome. */
export function isOpen(error: unknown, repeated: boolean): boolean {
  if (error instanceof CsiError && error.isRepeated) return true;
  return isCreateUnsettled(RuntimeError.from(error, 'create').code, repeated);
}

/** Codes that say nothing of what went wrong. */
export function isVague(code: string): boolean {
  return code === 'UNKNOWN' || code === 'INTERNAL';
}
