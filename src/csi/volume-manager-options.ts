/** What a VolumeManager is made of. */
import type { Logger } from 'pino';
import type { RunProgram } from '../run-program.ts';
import type { Store } from '../store.ts';
import type { SecretSource, VolumeDeadlines } from './plugin-caller.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import type { SnapshotCatalog } from './snapshot-catalog.ts';
import type { VolumeRecord } from './volume.ts';
import type { VolumeClassDirectory } from './volume-class-directory.ts';

export interface VolumeManagerOptions {
  readonly registry: PluginRegistry;
  readonly store: Store<VolumeRecord>;
  /** What volumes may be restored from. */
  readonly snapshots: SnapshotCatalog;
  /** What volumes take from their classes; there are none unless given. */
  readonly classes?: Pick<VolumeClassDirectory, 'fill'> | undefined;
  /** Volumes are mounted in ROOT/csi/mounts. */
  readonly rootDir: string;
  /** This boot's id (src/process-identity.ts). */
  readonly bootId: string;
  readonly log: Logger;
  readonly deadlines?: VolumeDeadlines;
  readonly secrets?: SecretSource;
  /** Changing calls to one plugin's controller at a time; 1 unless given. */
  readonly controllerCalls?: number | undefined;
  /** Who starts programs; this process unless given. */
  readonly run?: RunProgram | undefined;
  /** Longest time to look at a mount; 5,000 unless given. */
  readonly lookMs?: number | undefined;
}
