/**
 * The contract between the supervisor of a plugin (supervised-plugin.ts) and the ways to run one: a process of this host
 * (plugin-process.ts), a container (plugin-container.ts).
 */
import type { ProcessIdentity } from '../process-identity.ts';
import type { LogOptions } from '../runtime/launcher.ts';
import type { PluginEnd, PluginRunRecord, SupervisedRecord } from './supervised-record.ts';

/** A plugin that runs. It goes on when the daemon ends. */
export interface PluginRun {
  /** Its first process. */
  readonly process: ProcessIdentity;
  /** Settles with how it ended, or with undefined when the signal aborts before. */
  ended(signal: AbortSignal): Promise<Omit<PluginEnd, 'at'> | undefined>;
  /**
   * SIGTERM, and SIGKILL to all of it once the grace period is over. Settles when it is gone; succeeds when it is.
   * @throws {RuntimeError} DEADLINE_EXCEEDED when it does not die
   * @throws the signal's reason when that aborts before: then it may live or not
   */
  stop(graceMs: number, signal: AbortSignal): Promise<void>;
}

/** A way to run plugins. */
export interface PluginRunner {
  /**
   * Starts the plugin of a record that tells of the start already.
   * @throws {RuntimeError} saying why it cannot be started
   */
  start(record: SupervisedRecord, signal: AbortSignal): Promise<PluginRun>;
  /** The run a record tells of, if it is still there, also when the record does not know its process. */
  find(record: SupervisedRecord, run: PluginRunRecord, signal: AbortSignal): Promise<PluginRun | undefined>;
  /** Ends what the plugin left running after it ended. Only when none of its volumes is in use. */
  sweep(record: SupervisedRecord, signal: AbortSignal): Promise<void>;
  /** What the plugin wrote, in all its runs; with `follow` until it is swept away or the signal aborts. */
  logs(record: SupervisedRecord, options: LogOptions, signal: AbortSignal): AsyncIterable<Uint8Array>;
}
