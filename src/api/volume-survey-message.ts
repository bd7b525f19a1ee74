/** What plugins know of volumes and room, as messages of the API. */
import type { SurveyedVolume, VolumeSurvey } from '../csi/volume-survey.ts';
import type { DriverVolume } from './generated/berth/v1/DriverVolume.ts';
import type { Parameter } from './generated/berth/v1/Parameter.ts';
import type { VolumeCapacity } from './generated/berth/v1/VolumeCapacity.ts';

export function driverVolumeMessage(volume: SurveyedVolume): DriverVolume {
  const { volumeId, name, capacityBytes, state, volumeContext, nodeIds, condition } = volume;
  return {
    ...{ volumeId, capacityBytes, state },
    name: name ?? '',
    context: pairs(volumeContext),
    nodeIds: [...nodeIds],
    ...(condition === undefined ? {} : { condition }),
  };
}

export function capacityMessage(capacity: Awaited<ReturnType<VolumeSurvey['capacity']>>): VolumeCapacity {
  const { driver, volumeClass, availableBytes, maximumVolumeBytes, minimumVolumeBytes, topology } = capacity;
  return {
    ...{ driver, availableBytes },
    volumeClass: volumeClass ?? '',
    ...(maximumVolumeBytes === undefined ? {} : { maximumVolumeBytes }),
    ...(minimumVolumeBytes === undefined ? {} : { minimumVolumeBytes }),
    topology: pairs(topology),
  };
}

/** A map as a repeated field. */
export function pairs(map: Readonly<Record<string, string>>): Parameter[] {
  return Object.entries(map).map(([key, value]) => ({ key, value }));
}
