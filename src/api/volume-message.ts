/** A volume on record as a message of the API. */
import type { Claim, VolumeFailure, VolumeRecord } from '../csi/volume.ts';
import type { PlannedAttempt } from '../csi/volume-backlog.ts';
import type { KnownCondition } from '../csi/volume-health.ts';
import type { VolumeSource } from '../csi/volume-request.ts';
import { stepsDown } from '../csi/volume-states.ts';
import type { Volume } from './generated/berth/v1/Volume.ts';
import type { VolumeClaim } from './generated/berth/v1/VolumeClaim.ts';
import type { VolumeFailure as FailureMessage } from './generated/berth/v1/VolumeFailure.ts';
import { pairs } from './volume-survey-message.ts';
import { useMessage } from './volume-use.ts';

/** `planned`: when something that is due is tried again; `condition`: what its plugin said last. */
export function volumeMessage(volume: VolumeRecord, planned?: PlannedAttempt, condition?: KnownCondition): Volume {
  const { name, driver, capacityBytes, state, createdAt, fsType, failure } = volume;
  return {
    name,
    driver,
    volumeId: volume.volumeId ?? '',
    capacityBytes,
    access: volume.access === 'block' ? 'VOLUME_ACCESS_BLOCK' : 'VOLUME_ACCESS_MOUNT',
    ...(fsType === undefined ? {} : { fsType }),
    state,
    createdAt,
    nameAtDriver: volume.csiName,
    containerIds: volume.claims.map(({ containerId }) => containerId),
    error: failure?.message ?? '',
    pendingExpansion: volume.expansion !== undefined,
    ...(volume.source === undefined ? {} : sourceMessage(volume.source)),
    use: useMessage(volume),
    availability: volume.availability,
    claims: volume.claims.map(claimMessage),
    ...(failure === undefined ? {} : { failure: failureMessage(failure) }),
    ...(planned === undefined ? {} : { nextTryAt: planned.nextTryAt }),
    volumeClass: volume.volumeClass ?? '',
    mutableParameters: pairs(volume.mutableParameters),
    ...(condition === undefined ? {} : { condition }),
    pendingParameters: pairs(volume.modification?.parameters ?? {}),
    skipped: volume.skipped.map(({ step, reason, skippedAt }) => ({ step, reason, skippedAt })),
    stepsDown: [...stepsDown(volume)],
  };
}

function sourceMessage({ kind, name }: VolumeSource): Pick<Volume, 'fromSnapshot' | 'fromVolume'> {
  return kind === 'snapshot' ? { fromSnapshot: name } : { fromVolume: name };
}

function claimMessage({ containerId, target, readOnly, claimedAt, releasing }: Claim): VolumeClaim {
  return { containerId, target: target ?? '', readOnly, claimedAt, releasing };
}

function failureMessage({ step, attempts, code, message, failedAt }: VolumeFailure): FailureMessage {
  return { step: step ?? '', attempts: attempts ?? 1, code, message, failedAt };
}
