/** What plugins say about the health of volumes, for people (CSI "VolumeCondition"). */

export interface VolumeCondition {
  readonly abnormal: boolean;
  readonly message: string;
  readonly from: 'controller' | 'node';
}

/** Longest text kept of a plugin. */
const MAX_MESSAGE = 1024;

/** A condition as it came; undefined when none was told. */
export function conditionOf(
  from: VolumeCondition['from'],
  told: { readonly abnormal: boolean; readonly message: string } | null | undefined,
): VolumeCondition | undefined {
  if (told === null || told === undefined) return undefined;
  return { abnormal: told.abnormal, message: told.message.slice(0, MAX_MESSAGE), from };
}

/** Controller and node may differ; the worse one is believed. */
export function worse(a: VolumeCondition | undefined, b: VolumeCondition | undefined): VolumeCondition | undefined {
  if (a?.abnormal === true) return a;
  return b ?? a;
}
