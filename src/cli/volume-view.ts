/** Volumes as people and programs read them: the columns of `volume ls`, the object and the text of `volume inspect`. */
import type { Volume__Output } from '../api/generated/berth/v1/Volume.ts';
import { conditionText } from './condition-text.ts';
import { formatDuration, formatSize } from './size.ts';
import { type Column, table } from './table.ts';

/** Columns of `volume ls`. */
export const VOLUME_COLUMNS: readonly Column<Volume__Output>[] = [
  { heading: 'NAME', cell: ({ name }) => name },
  { heading: 'DRIVER', cell: ({ driver }) => driver },
  { heading: 'SIZE', cell: ({ capacityBytes }) => formatSize(Number(capacityBytes)) },
  { heading: 'ACCESS', cell: (volume) => accessName(volume) },
  { heading: 'MODE', cell: ({ use }) => use?.accessMode ?? '' },
  { heading: 'STATE', cell: stateText },
  { heading: 'CONTAINERS', cell: ({ containerIds }) => containerIds.map(shortId).join(' ') },
  { heading: 'ERROR', cell: (volume) => errorText(volume) },
  {
    heading: 'CONDITION',
    cell: ({ condition }) => (condition?.abnormal === true ? knownConditionText(condition) : ''),
  },
];

/** "mount" or "block" */
export function accessName({ access }: Volume__Output): string {
  return access === 'VOLUME_ACCESS_BLOCK' ? 'block' : 'mount';
}

/** Everything about a volume, for programs. */
export function volumeObject(volume: Volume__Output): Record<string, unknown> {
  const { name, driver, volumeId, state, createdAt, error, use, failure } = volume;
  return {
    name,
    driver,
    volumeId,
    nameAtDriver: volume.nameAtDriver,
    capacityBytes: Number(volume.capacityBytes),
    access: accessName(volume),
    fsType: volume.fsType ?? null,
    state,
    createdAt,
    containers: volume.containerIds,
    fromSnapshot: volume.fromSnapshot ?? null,
    fromVolume: volume.fromVolume ?? null,
    class: volume.volumeClass || null,
    mutableParameters: Object.fromEntries(volume.mutableParameters.map(({ key, value }) => [key, value])),
    pendingParameters: Object.fromEntries(volume.pendingParameters.map(({ key, value }) => [key, value])),
    pendingExpansion: volume.pendingExpansion,
    accessMode: use?.accessMode ?? '',
    mountFlags: use?.mountFlags ?? [],
    group: use?.group ?? null,
    ownership: use?.ownership ?? '',
    reclaim: use?.reclaim ?? '',
    availability: volume.availability,
    claims: volume.claims.map(({ containerId, target, readOnly, claimedAt, releasing }) => {
      return { containerId, target, readOnly, claimedAt, releasing };
    }),
    failure: failure ? failureObject(failure) : null,
    condition: conditionObject(volume),
    nextTryAt: volume.nextTryAt ?? null,
    skipped: volume.skipped.map(({ step, reason, skippedAt }) => ({ step, reason, skippedAt })),
    stepsDown: volume.stepsDown,
    error,
  };
}

type Failure = NonNullable<Volume__Output['failure']>;

function failureObject({ step, attempts, code, message, failedAt }: Failure): Record<string, unknown> {
  return { step, attempts, code, message, failedAt };
}

/** Everything about a volume, for people: a line for each fact, none for what there is not. */
export function volumeText(volume: Volume__Output): string {
  const { failure, use } = volume;
  const rows: [field: string, value: string | undefined][] = [
    ['name', volume.name],
    ['driver', volume.driver],
    ['volume id', volume.volumeId],
    ['name at driver', volume.volumeId === '' ? volume.nameAtDriver : ''],
    ['size', `${formatSize(Number(volume.capacityBytes))}${volume.pendingExpansion ? ', to be made larger' : ''}`],
    ['access', [accessName(volume), volume.fsType].filter(Boolean).join(', ')],
    ['access mode', use?.accessMode],
    ['mount flags', use?.mountFlags.join(', ')],
    ['group', use?.group === undefined ? '' : `${use.group}, ownership ${use.ownership}`],
    ['reclaim', use?.reclaim],
    ['class', volume.volumeClass],
    ['can be changed', volume.mutableParameters.map(({ key, value }) => `${key}=${value}`).join(', ')],
    ['to be changed', volume.pendingParameters.map(({ key, value }) => `${key}=${value}`).join(', ')],
    ['made of', volume.fromSnapshot ?? volume.fromVolume],
    ['created', volume.createdAt],
    ['availability', volume.availability],
    ['state', volume.state],
    ...volume.claims.map((claim): [string, string] => ['used by', claimText(claim)]),
    ['condition', knownConditionText(volume.condition)],
    ['failed step', failure ? `${failure.step}, attempt ${failure.attempts}, ${failure.failedAt}` : ''],
    ['failure', failure ? `${failure.code}: ${failure.message}` : volume.error],
    ['next try', nextTry(volume)],
    ...volume.skipped.map(({ step, reason, skippedAt }): [string, string] => {
      return ['skipped', `${step}, ${skippedAt}: ${reason}`];
    }),
  ];
  const columns: readonly Column<(typeof rows)[number]>[] = [
    { heading: 'FIELD', cell: ([field]) => field },
    { heading: 'VALUE', cell: ([, value = '']) => value },
  ];
  return table(
    columns,
    rows.filter(([, value]) => value !== undefined && value !== ''),
  );
}

/** "abnormal (node): a disk is lost, since 2026-01-31T12:00:00.000Z" */
function knownConditionText(condition: Volume__Output['condition']): string {
  if (!condition) return '';
  return `${conditionText(condition)}${condition.sinceAt === undefined ? '' : `, since ${condition.sinceAt}`}`;
}

function conditionObject({ condition }: Volume__Output): Record<string, unknown> | null {
  if (!condition) return null;
  const { abnormal, message, from, sinceAt } = condition;
  return { abnormal, message, from, sinceAt: sinceAt ?? null };
}

function claimText({ containerId, target, readOnly, claimedAt, releasing }: Volume__Output['claims'][number]): string {
  const traits = [...(readOnly ? ['read-only'] : []), ...(releasing ? ['given back, not down yet'] : [])];
  return [shortId(containerId), target, `since ${claimedAt}`, ...traits].filter(Boolean).join(', ');
}

const AVAILABILITY_WORDS: Readonly<Record<string, string>> = { pause: ', paused', drain: ', draining' };

/** "published", "unstaging, paused" */
function stateText({ state, availability }: Volume__Output): string {
  return `${state}${AVAILABILITY_WORDS[availability] ?? ''}`;
}

/** What failed, how often, and when it is tried again. */
function errorText(volume: Volume__Output): string {
  const { failure, error } = volume;
  if (!failure) return error;
  const tries = failure.attempts > 1 ? ` (${failure.attempts} times)` : '';
  const next = nextTry(volume);
  return `${error}${tries}${next === undefined ? '' : `, next try ${next}`}`;
}

/** "in 5 seconds", "now" */
function nextTry({ nextTryAt }: Volume__Output): string | undefined {
  if (nextTryAt === undefined) return undefined;
  const leftMs = Date.parse(nextTryAt) - Date.now();
  return leftMs < 500 ? 'now' : `in ${formatDuration(leftMs)}`;
}

function shortId(id: string): string {
  return id.slice(0, 12);
}
