/** What work on a volume is done with, beside the manager (VolumeManager.exclusive). */
import type { PluginCaller } from './plugin-caller.ts';
import type { VolumeJournal } from './volume-journal.ts';
import type { VolumeMounts } from './volume-mounts.ts';

/** What work beside the manager may use while it has a volume's lane. */
export interface VolumeTools {
  readonly caller: PluginCaller;
  readonly journal: VolumeJournal;
  readonly mounts: VolumeMounts;
}
