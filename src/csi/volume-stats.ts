/**
 * How full a volume is and how it fares (CSI NodeGetVolumeStats, ControllerGetVolume). Nothing is recorded. The calls are
 * questions (PluginCaller.ask): they have a short deadline, wait for no other call for the volume, and hold none up.
 */
import { RuntimeError } from '../errors.ts';
import type { Plugin } from './plugin.ts';
import type { PluginCaller } from './plugin-caller.ts';
import { CsiError } from './protocol.ts';
import type { VolumeRecord } from './volume.ts';
import { idOf } from './volume-calls.ts';
import { conditionOf, type VolumeCondition, worse } from './volume-condition.ts';
import type { VolumeMounts } from './volume-mounts.ts';

/** Space of one kind, in its unit; decimal, since int64 is wider than a number. */
export interface VolumeUsage {
  readonly unit: 'bytes' | 'inodes';
  readonly total: string;
  readonly used: string;
  readonly available: string;
}

/** What could be learnt about one volume. */
export interface VolumeStats {
  readonly name: string;
  readonly usage: readonly VolumeUsage[];
  /** The worse one of what controller and node say; absent when neither says anything. */
  readonly condition?: VolumeCondition;
  /** Why something is not known. */
  readonly reason?: string;
}

/** Nobody waits for these answers: a plugin that is away is asked another time. */
const PLUGIN_PATIENCE_MS = 200;
/** Longest time for one volume. */
const STATS_TIMEOUT_MS = 10_000;

const UNITS = { BYTES: 'bytes', INODES: 'inodes' } as const;

interface StatsTools {
  readonly caller: PluginCaller;
  readonly mounts: VolumeMounts;
}

/** What the plugin tells about a volume now. Never rejects: what is not known has a reason. */
export async function volumeStats(
  record: VolumeRecord,
  tools: StatsTools & { readonly timeoutMs?: number },
  signal: AbortSignal,
): Promise<VolumeStats> {
  const { name, driver } = record;
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(tools.timeoutMs ?? STATS_TIMEOUT_MS)]);
  try {
    if (record.volumeId === undefined) return { name, usage: [], reason: `it is ${record.state}` };
    const plugin = await tools.caller.plugin(driver, bounded);
    const node = await onNode(record, plugin, tools, bounded);
    const controller = await atController(record, plugin, tools.caller, bounded);
    const condition = worse(controller.condition, node.condition);
    const reason = node.reason ?? controller.reason;
    return {
      name,
      usage: node.usage,
      ...(condition === undefined ? {} : { condition }),
      ...(reason === undefined ? {} : { reason }),
    };
  } catch (error) {
    return { name, usage: [], reason: RuntimeError.from(error, 'no answer').message };
  }
}

interface Learnt {
  readonly condition?: VolumeCondition | undefined;
  readonly reason?: string;
}

async function onNode(
  record: VolumeRecord,
  plugin: Plugin,
  { caller, mounts }: StatsTools,
  signal: AbortSignal,
): Promise<Learnt & { readonly usage: readonly VolumeUsage[] }> {
  const { node } = plugin.capabilities;
  if (!node.has('GET_VOLUME_STATS') && !node.has('VOLUME_CONDITION')) {
    return { usage: [], reason: 'the plugin does not tell' };
  }
  const [published] = record.publications.filter(({ state }) => state === 'published');
  if (published === undefined) return { usage: [], reason: 'no container uses it' };
  const paths = mounts.pathsOf(record);
  try {
    const answer = await caller.ask(
      record,
      'NodeGetVolumeStats',
      {
        volumeId: idOf(record),
        volumePath: paths.target(published.key),
        stagingTargetPath: record.rungs.includes('stage') ? paths.stage : '',
      },
      signal,
    );
    const usage = answer.usage.flatMap(({ unit, total, used, available }): VolumeUsage[] =>
      unit === 'BYTES' || unit === 'INODES' ? [{ unit: UNITS[unit], total, used, available }] : [],
    );
    return { usage, condition: conditionOf('node', answer.volumeCondition) };
  } catch (error) {
    return { usage: [], reason: RuntimeError.from(error, 'no answer').message };
  }
}

async function atController(
  record: VolumeRecord,
  plugin: Plugin,
  caller: PluginCaller,
  signal: AbortSignal,
): Promise<Learnt> {
  const { controller } = plugin.capabilities;
  if (!controller.has('GET_VOLUME') || !controller.has('VOLUME_CONDITION')) return {};
  try {
    const { status } = await caller.ask(record, 'ControllerGetVolume', { volumeId: idOf(record) }, signal);
    return { condition: conditionOf('controller', status?.volumeCondition) };
  } catch (error) {
    if (error instanceof CsiError && error.code === 'NOT_FOUND') return { condition: GONE };
    return { reason: RuntimeError.from(error, 'no answer').message };
  }
}

const GONE: VolumeCondition = { abnormal: true, message: 'the plugin does not know the volume', from: 'controller' };

/**
 * The worse condition of what node and controller tell, one after the other; undefined when neither tells. Callers hold
 * the volume's lane.
 * @throws {RuntimeError} when one that tells conditions does not answer
 */
export async function askCondition(
  record: VolumeRecord,
  tools: StatsTools,
  signal: AbortSignal,
): Promise<VolumeCondition | undefined> {
  const { caller } = tools;
  if (record.volumeId === undefined || record.state === 'deleting') return undefined;
  const plugin = await caller.plugin(record.driver, signal, PLUGIN_PATIENCE_MS);
  const published = record.publications.some(({ state }) => state === 'published');
  const asksNode = published && plugin.capabilities.node.has('VOLUME_CONDITION');
  const node: Learnt = asksNode ? await onNode(record, plugin, tools, signal) : {};
  const controller = await atController(record, plugin, caller, signal);
  const reason = node.reason ?? controller.reason;
  if (reason !== undefined) throw new RuntimeError('UNAVAILABLE', `volume ${record.name}: ${reason}`);
  return worse(controller.condition, node.condition);
}
