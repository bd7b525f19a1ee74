/** What is known of how full a volume is, as a message of the API. */
import type { VolumeStats } from '../csi/volume-stats.ts';
import type { VolumeStats as VolumeStatsMessage } from './generated/berth/v1/VolumeStats.ts';

export function volumeStatsMessage({ name, usage, condition, reason }: VolumeStats): VolumeStatsMessage {
  return {
    name,
    usage: usage.map(({ unit, total, used, available }) => ({ unit, total, used, available })),
    ...(condition === undefined ? {} : { condition }),
    reason: reason ?? '',
  };
}
