/** What a container may claim of a volume, by the volume's access mode, availability and group. Nothing here calls. */
import { invalid, RuntimeError } from '../errors.ts';
import { ACCESS_MODES } from './access-modes.ts';
import type { Claim, Publication, VolumeRecord } from './volume.ts';
import { checkGroup } from './volume-request.ts';
import { activeClaims, publicationKey } from './volume-states.ts';

/** How a container wants a volume. */
export interface PublishOptions {
  readonly readOnly: boolean;
  /** Where the container will see it, for lists. */
  readonly target?: string | undefined;
  /** A group id instead of the volume's own; only where each container has a target of its own. */
  readonly group?: number | undefined;
}

/**
 * The publication that a container needs.
 * @throws {RuntimeError} FAILED_PRECONDITION with what to do when the volume cannot be used so, or not by one more
 */
export function claimed(
  record: VolumeRecord,
  containerId: string,
  options: PublishOptions,
): Omit<Publication, 'state'> {
  const { name, accessMode, access } = record;
  const mode = ACCESS_MODES[accessMode];
  checkIdle(record);
  const others = activeClaims(record).filter((claim) => claim.containerId !== containerId);
  const mine = activeClaims(record).length > others.length;
  if (!mine) checkAvailable(record);
  if (!mode.writes && !options.readOnly) {
    const use = access === 'mount' ? `-v ${name}:/PATH:ro` : `--device ${name}:/dev/NAME:ro`;
    throw refused(`volume ${name} is ${mode.word}: use ${use}`);
  }
  if (mode.exclusive && others.length > 0) {
    throw refused(`volume ${name} is ${mode.word}, container ${others[0]?.containerId} uses it: remove that one first`);
  }
  checkGroup(options.group);
  if (options.group !== undefined && !mode.ownTargets && options.group !== record.group) {
    throw invalid('group', `containers share the one mount of volume ${name} (${mode.word})`);
  }
  // All containers have the same block device: who may only read it is the cgroup's business, not the plugin's.
  const readOnly = !mode.writes || (mode.ownTargets && options.readOnly && access === 'mount');
  const group = options.group ?? record.group;
  return { key: publicationKey(record, containerId), readOnly, ...(group === undefined ? {} : { group }) };
}

/** @throws {RuntimeError} FAILED_PRECONDITION while the volume is made or unmade */
export function checkIdle({ name, state }: VolumeRecord): void {
  if (state !== 'creating' && state !== 'deleting') return;
  const advice = state === 'creating' ? 'create it again or remove it' : 'remove it again';
  throw refused(`volume ${name} is ${state}: ${advice}`);
}

/** @throws {RuntimeError} FAILED_PRECONDITION when no container may begin to use it */
export function checkAvailable({ name, availability }: VolumeRecord): void {
  if (availability === 'active') return;
  const state = availability === 'pause' ? 'paused' : 'being drained';
  throw refused(`volume ${name} is ${state}: allow it by "berth volume update ${name} --availability active"`);
}

/** Claims with those marked as over for which it holds. */
export function ended({ claims }: VolumeRecord, over: (claim: Claim) => boolean): readonly Claim[] {
  return claims.map((claim) => (over(claim) ? { ...claim, releasing: true } : claim));
}

/**
 * Claims that stay. One that is over goes when nothing of it is left: its own target, or a target that others use, or, for
 * the last ones, all of the volume.
 */
export function remainingClaims(record: VolumeRecord): readonly Claim[] {
  const down = record.state === 'created';
  const targets = new Set(record.publications.map(({ key }) => key));
  const shared = !ACCESS_MODES[record.accessMode].ownTargets && activeClaims(record).length > 0;
  const gone = (id: string): boolean =>
    down || shared || (targets.size > 0 && !targets.has(publicationKey(record, id)));
  return record.claims.filter(({ containerId, releasing }) => !releasing || !gone(containerId));
}

/** Claims after a start of the daemon: over is what another boot has left, and what had not come up. */
export function survivingClaims(record: VolumeRecord, bootId: string): readonly Claim[] {
  const here = record.bootId === bootId;
  const up = record.publications.filter(({ state }) => here && state === 'published').map(({ key }) => key);
  const over = ({ containerId }: Claim): boolean => !up.includes(publicationKey(record, containerId));
  return record.claims.some(over) ? ended(record, over) : record.claims;
}

/** @throws {RuntimeError} FAILED_PRECONDITION naming the containers that use it */
export function checkUnused(record: VolumeRecord): void {
  const users = activeClaims(record).map(({ containerId }) => containerId);
  if (users.length === 0) return;
  const advice = `stop what uses it, by "berth volume update ${record.name} --availability drain" all of it`;
  throw refused(`volume ${record.name} is used by container ${users.join(', ')}: ${advice}`);
}

function refused(message: string): RuntimeError {
  return new RuntimeError('FAILED_PRECONDITION', message);
}

/** The error for a name that is not on record. */
export function unknownVolume(name: string): RuntimeError {
  const shown = name.slice(0, 128);
  const advice = `make it with "berth volume create ${shown} --size 64Mi", or see "berth volume ls"`;
  return new RuntimeError('NOT_FOUND', `no such volume: ${shown}: ${advice}`);
}
