/**
 * The states of a CSI volume as data. A volume climbs a ladder of four rungs; each rung has one
 * call up and one call down, and a state of its own for each call under way, written before the call is sent:
 *
 *                                up                                            down
 *   (no record)
 *     |            CreateVolume             creating               DeleteVolume               deleting
 *   created
 *     |            ControllerPublishVolume  controller-publishing  ControllerUnpublishVolume  controller-unpublishing
 *   controller-published
 *     |            NodeStageVolume          staging                NodeUnstageVolume          unstaging
 *   staged
 *     |            NodePublishVolume        publishing             NodeUnpublishVolume        unpublishing
 *   published
 *
 * The plugin's capabilities say which of the middle rungs there are. The top rung is climbed once for each target, so
 * its states are those of publications as well: the volume is "published" when all of them are. Which call comes next is
 * said here too (nextUp, nextDown). Nothing here calls anything.
 */
import { ACCESS_MODES } from './access-modes.ts';
import type { PluginCapabilities } from './protocol.ts';
import type { Claim, Publication, VolumeRecord } from './volume.ts';

/** The ladder, bottom first. */
export const RUNGS = [
  {
    rung: 'volume',
    up: 'CreateVolume',
    raising: 'creating',
    raised: 'created',
    down: 'DeleteVolume',
    lowering: 'deleting',
  },
  {
    rung: 'attachment',
    up: 'ControllerPublishVolume',
    raising: 'controller-publishing',
    raised: 'controller-published',
    down: 'ControllerUnpublishVolume',
    lowering: 'controller-unpublishing',
  },
  {
    rung: 'stage',
    up: 'NodeStageVolume',
    raising: 'staging',
    raised: 'staged',
    down: 'NodeUnstageVolume',
    lowering: 'unstaging',
  },
  {
    rung: 'publication',
    up: 'NodePublishVolume',
    raising: 'publishing',
    raised: 'published',
    down: 'NodeUnpublishVolume',
    lowering: 'unpublishing',
  },
] as const;

export type Rung = (typeof RUNGS)[number];
export type RungName = Rung['rung'];

/** Where a volume stands: on a rung, or between two with a call under way or of unknown outcome. */
export type VolumeState = Rung['raising' | 'raised' | 'lowering'];

/** A state taken apart. */
export interface Position {
  readonly rung: Rung;
  readonly phase: 'raising' | 'raised' | 'lowering';
}

/** Which rung a state is about, and in which direction. */
export function positionOf(state: VolumeState): Position {
  for (const rung of RUNGS) {
    if (rung.raising === state) return { rung, phase: 'raising' };
    if (rung.raised === state) return { rung, phase: 'raised' };
    if (rung.lowering === state) return { rung, phase: 'lowering' };
  }
  throw new Error(`no such volume state: ${String(state)}`);
}

/** The rung to climb now: the one under way is repeated. Undefined at the top. */
export function rungAbove(record: VolumeRecord): Rung | undefined {
  const { rung, phase } = positionOf(record.state);
  if (phase === 'raising') return rung;
  return RUNGS.slice(RUNGS.indexOf(rung) + 1).find((next) => record.rungs.includes(next.rung));
}

/** The state below a rung; undefined below the first, where there is no record. */
export function stateBelow(record: VolumeRecord, rung: Rung): VolumeState | undefined {
  return RUNGS.slice(0, RUNGS.indexOf(rung)).findLast((one) => record.rungs.includes(one.rung))?.raised;
}

/** Rungs of a volume of this plugin, bottom first (CSI "Volume Lifecycle"). */
export function rungsFor({ controller, node }: PluginCapabilities): readonly RungName[] {
  return [
    'volume',
    ...(controller.has('PUBLISH_UNPUBLISH_VOLUME') ? (['attachment'] as const) : []),
    ...(node.has('STAGE_UNSTAGE_VOLUME') ? (['stage'] as const) : []),
    'publication',
  ];
}

/** The calls that take a volume off this machine from where it stands, in order. */
export function stepsDown({ state, rungs }: Pick<VolumeRecord, 'state' | 'rungs'>): readonly string[] {
  const { rung } = positionOf(state);
  const climbed = RUNGS.slice(1, RUNGS.indexOf(rung) + 1).filter((one) => rungs.includes(one.rung));
  return climbed.map(({ down }) => down).reverse();
}

/** One call to make for a volume. */
export interface Step {
  readonly rung: Rung;
  /** Which publication; only on the top rung. */
  readonly key?: string;
}

/** The publication that a container uses. */
export function publicationKey({ accessMode }: Pick<VolumeRecord, 'accessMode'>, containerId: string): string {
  return ACCESS_MODES[accessMode].ownTargets ? containerId : '';
}

/** The publications that containers still need. */
export function neededKeys(record: VolumeRecord): ReadonlySet<string> {
  return new Set(activeClaims(record).map(({ containerId }) => publicationKey(record, containerId)));
}

/** The rung that is climbed once for each target. */
export const TOP: (typeof RUNGS)[3] = RUNGS[3];

/** How far down a volume is to go. */
export interface DownGoal {
  /** Keys of the publications still needed. */
  readonly keep: ReadonlySet<string>;
  /** This boot. */
  readonly bootId: string;
  readonly passed?: ReadonlySet<string>;
}

/** The next call up towards the publication `key`; undefined when it is there. What is on its way down goes down first. */
export function nextUp(record: VolumeRecord, key: string): Step | undefined {
  const publication = record.publications.find((one) => one.key === key);
  if (publication?.state === 'published') return undefined;
  if (record.publications.length > 0) return { rung: TOP, key };
  const rung = rungAbove(record);
  return rung === TOP ? { rung, key } : rung && { rung };
}

/**
 * The next call down that is due when `keep` are the publications still needed, in the boot `bootId`: what another boot
 * left is void, what is half way down goes on, a rung is left when nothing stands on it. Undefined when nothing is due.
 * Publications in `passed` have been tried and stay.
 */
export function nextDown(record: VolumeRecord, { keep, bootId, passed = new Set() }: DownGoal): Step | undefined {
  const { rung, phase } = positionOf(record.state);
  if (rung.rung === 'volume') return undefined;
  const wanted = record.bootId === bootId ? keep : new Set<string>();
  const { publications } = record;
  const over = publications.find(
    ({ key, state }) => !passed.has(key) && (!wanted.has(key) || state === 'unpublishing'),
  );
  if (over !== undefined) return { rung: TOP, key: over.key };
  if (publications.length > 0) return undefined;
  return wanted.size === 0 || phase === 'lowering' ? { rung } : undefined;
}

/** The state of a volume with these publications on top of all its other rungs. */
export function stateWith(record: VolumeRecord, publications: readonly Publication[]): VolumeState {
  for (const state of ['publishing', 'unpublishing'] as const) {
    if (publications.some((one) => one.state === state)) return state;
  }
  return publications.length > 0 ? 'published' : (stateBelow(record, TOP) ?? 'created');
}

/** Claims of containers that still use the volume. */
export function activeClaims(record: VolumeRecord): readonly Claim[] {
  return record.claims.filter((claim) => !claim.releasing);
}
