/** Messages of CSI as they come: fakes take whatever comes, as a plugin must, and tests look at single fields. */

/** A message of any type, by the names of its fields. */
// biome-ignore lint/suspicious/noExplicitAny: which message it is only the test knows that looks at it
export type Message = Record<string, any>;

/** Handlers by the name of their call. */
export type Rpcs = Record<string, (request: Message) => Promise<Message>>;

/** What a volume stands on, and all its calls, the way up and the way down: those of a plugin that offers everything. */
export const RUNGS = ['volume', 'attachment', 'stage', 'target'] as const;
export const LADDER_CALLS = [
  'CreateVolume',
  'ControllerPublishVolume',
  'NodeStageVolume',
  'NodePublishVolume',
  'NodeUnpublishVolume',
  'NodeUnstageVolume',
  'ControllerUnpublishVolume',
  'DeleteVolume',
] as const;
