/**
 * What each access mode lets the containers of this machine do, as data (CSI "AccessMode"). Berth is one node: how many
 * nodes may use a volume is the plugin's concern, how many containers of this node may, and whether they may write, is
 * enforced here before anything is sent.
 */
import { invalid } from '../errors.ts';
import type { AccessMode, PluginCapabilities } from './protocol.ts';

/** A mode that a volume can have. */
export type VolumeMode = Exclude<AccessMode, 'UNKNOWN'>;

/** What a mode means on one node. */
export interface ModeRules {
  /** As users write it. */
  readonly word: string;
  /** False: every use is read-only. */
  readonly writes: boolean;
  /** One container alone may use the volume. */
  readonly exclusive: boolean;
  /** Each container gets a target of its own; otherwise all share one, a second one would be refused. */
  readonly ownTargets: boolean;
  /** Sent only where controller and node offer SINGLE_NODE_MULTI_WRITER. */
  readonly guarded: boolean;
}

const rules = (word: string, ...traits: readonly ('writes' | 'exclusive' | 'ownTargets' | 'guarded')[]): ModeRules => ({
  word,
  writes: traits.includes('writes'),
  exclusive: traits.includes('exclusive'),
  ownTargets: traits.includes('ownTargets'),
  guarded: traits.includes('guarded'),
});

/** Every mode but the one that says nothing. */
export const ACCESS_MODES: Readonly<Record<VolumeMode, ModeRules>> = {
  SINGLE_NODE_WRITER: rules('single-node-writer', 'writes'),
  SINGLE_NODE_READER_ONLY: rules('single-node-reader-only'),
  MULTI_NODE_READER_ONLY: rules('multi-node-reader-only', 'ownTargets'),
  MULTI_NODE_SINGLE_WRITER: rules('multi-node-single-writer', 'writes', 'ownTargets'),
  MULTI_NODE_MULTI_WRITER: rules('multi-node-multi-writer', 'writes', 'ownTargets'),
  SINGLE_NODE_SINGLE_WRITER: rules('single-node-single-writer', 'writes', 'exclusive', 'guarded'),
  SINGLE_NODE_MULTI_WRITER: rules('single-node-multi-writer', 'writes', 'ownTargets', 'guarded'),
};

export const VOLUME_MODES: readonly VolumeMode[] = Object.keys(ACCESS_MODES).filter(
  (mode): mode is VolumeMode => mode in ACCESS_MODES,
);

/** What may be asked for: a mode, or "RWO": this node may write, by the mode that suits the plugin. */
export type AskedMode = VolumeMode | 'RWO';

/** The words of Kubernetes, short and long. */
const OTHER_WORDS: ReadonlyMap<string, AskedMode> = new Map<string, AskedMode>([
  ['RWO', 'RWO'],
  ['READWRITEONCE', 'RWO'],
  ['RWOP', 'SINGLE_NODE_SINGLE_WRITER'],
  ['READWRITEONCEPOD', 'SINGLE_NODE_SINGLE_WRITER'],
  ['ROX', 'MULTI_NODE_READER_ONLY'],
  ['READONLYMANY', 'MULTI_NODE_READER_ONLY'],
  ['RWX', 'MULTI_NODE_MULTI_WRITER'],
  ['READWRITEMANY', 'MULTI_NODE_MULTI_WRITER'],
]);

/**
 * "single-node-writer", "SINGLE_NODE_WRITER" -> "SINGLE_NODE_WRITER"; "rwx" -> "MULTI_NODE_MULTI_WRITER".
 * @throws {RuntimeError} INVALID_ARGUMENT with the words there are
 */
export function accessModeOf(word: string): AskedMode {
  const upper = word.toUpperCase().replaceAll('-', '_');
  const found = VOLUME_MODES.find((mode) => mode === upper) ?? OTHER_WORDS.get(upper);
  if (found !== undefined) return found;
  const known = VOLUME_MODES.map((mode) => ACCESS_MODES[mode].word).join(', ');
  throw invalid('access_mode', `${JSON.stringify(word.slice(0, 80))} must be RWO, RWOP, ROX, RWX, or one of ${known}`);
}

/** True when a volume has the mode that was asked for. Nothing asked for fits every mode. */
export function fitsMode(made: VolumeMode, asked: AskedMode | undefined): boolean {
  if (asked === 'RWO') return made === 'SINGLE_NODE_WRITER' || made === 'SINGLE_NODE_MULTI_WRITER';
  return asked === undefined || asked === made;
}

/** True when controller and node tell one writer of a node from many. */
export function tellsWritersApart({ plugin, controller, node }: PluginCapabilities): boolean {
  const knows = !plugin.has('CONTROLLER_SERVICE') || controller.has('SINGLE_NODE_MULTI_WRITER');
  return knows && node.has('SINGLE_NODE_MULTI_WRITER');
}

/**
 * The mode of a volume when none was asked for: one node, which may write. A plugin that tells one writer from many of a
 * node is told that there may be many.
 */
export function accessModeFor(capabilities: PluginCapabilities): VolumeMode {
  return tellsWritersApart(capabilities) ? 'SINGLE_NODE_MULTI_WRITER' : 'SINGLE_NODE_WRITER';
}

/** The mode to use. @throws {RuntimeError} INVALID_ARGUMENT when the plugin does not know the one asked for */
export function chooseAccessMode(asked: AskedMode | undefined, capabilities: PluginCapabilities): VolumeMode {
  if (asked === undefined || asked === 'RWO') return accessModeFor(capabilities);
  const { guarded, word } = ACCESS_MODES[asked];
  if (!guarded || tellsWritersApart(capabilities)) return asked;
  throw invalid('access_mode', `${word} needs a plugin that offers SINGLE_NODE_MULTI_WRITER: use single-node-writer`);
}
