/** How a volume is used, from the wire to the words of the volume manager and back. */
import { ACCESS_MODES, accessModeOf } from '../csi/access-modes.ts';
import { OWNERSHIP_POLICIES, RECLAIM_POLICIES, type VolumeRecord } from '../csi/volume.ts';
import type { UseRequest } from '../csi/volume-request.ts';
import { chosen } from './field.ts';
import type { VolumeUse, VolumeUse__Output } from './generated/berth/v1/VolumeUse.ts';

/** What was left out stays out. @throws {RuntimeError} INVALID_ARGUMENT naming the field */
export function useRequestOf(use: VolumeUse__Output | null | undefined): UseRequest {
  if (use === null || use === undefined) return {};
  const { accessMode, mountFlags, group } = use;
  const ownership = chosen('ownership', use.ownership, OWNERSHIP_POLICIES);
  const reclaim = chosen('reclaim', use.reclaim, RECLAIM_POLICIES);
  return {
    ...(accessMode === '' ? {} : { accessMode: accessModeOf(accessMode) }),
    ...(mountFlags.length === 0 ? {} : { mountFlags }),
    ...(group === undefined ? {} : { group }),
    ...(ownership === undefined ? {} : { ownership }),
    ...(reclaim === undefined ? {} : { reclaim }),
  };
}

/** How a volume on record is used. */
export function useMessage({ accessMode, mountFlags, group, ownership, reclaim }: VolumeRecord): VolumeUse {
  return {
    accessMode: ACCESS_MODES[accessMode].word,
    mountFlags: mountFlags.map(withoutValue),
    ...(group === undefined ? {} : { group }),
    ownership,
    reclaim,
  };
}

/** "password=x" -> "password=***": flags may be secret (CSI "mount_flags"). */
export function withoutValue(flag: string): string {
  const split = flag.indexOf('=');
  return split < 0 ? flag : `${flag.slice(0, split)}=***`;
}
