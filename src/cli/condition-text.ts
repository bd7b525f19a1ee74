/** What a plugin says about the health of a volume, for people. */
import type { VolumeCondition__Output } from '../api/generated/berth/v1/VolumeCondition.ts';

/** "normal", "abnormal (node): ...", "-" */
export function conditionText(condition: VolumeCondition__Output | null | undefined): string {
  if (condition === null || condition === undefined) return '-';
  return condition.abnormal ? `abnormal (${condition.from}): ${condition.message}` : 'normal';
}
