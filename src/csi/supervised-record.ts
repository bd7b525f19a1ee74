/**
 * What is on disk about a plugin that Berth runs, written before each effect. No state is stored: it is read off the
 * facts.
 *
 *   no `run`                      waiting for `nextStartAt`, or never started
 *   `run` without pid             a start began; whether a process came of it only the kernel knows
 *   `run` with pid, ticks         it runs, unless the kernel says otherwise
 */
import * as z from 'zod';
import type { ProcessIdentity } from '../process-identity.ts';
import type { Supervision } from './plugin-supervision.ts';

/** One run of the plugin: from its start to its end. */
export interface PluginRunRecord {
  /** Facts of another boot are void. */
  readonly bootId: string;
  readonly startedAt: string;
  /** Absent until the process is known. */
  readonly process?: ProcessIdentity;
}

/** How a run ended. */
export interface PluginEnd {
  readonly at: string;
  /** Absent when a signal ended it, when it never ran, or when nobody saw its end. */
  readonly exitCode?: number;
  readonly signalName?: string;
  /** "it ended with exit code 3" */
  readonly reason: string;
}

/** A plugin that Berth runs. */
export interface SupervisedRecord {
  /** The drop-in file without ".toml": "some". */
  readonly name: string;
  /** Path of the drop-in file. */
  readonly file: string;
  /** The name the plugin must give itself, when the file says one. */
  readonly wantedName?: string;
  /** The name it gave itself. */
  readonly pluginName?: string;
  readonly supervision: Supervision;
  readonly run?: PluginRunRecord;
  /** Starts after an end nobody asked for. */
  readonly restarts: number;
  /** Ends in a row that came soon after the start. */
  readonly quickEnds: number;
  readonly lastEnd?: PluginEnd;
  readonly nextStartAt?: string;
}

const base = {
  env: z.record(z.string(), z.string()),
  nodeId: z.string().optional(),
  graceSeconds: z.number().min(0),
  part: z.enum(['controller', 'node']).optional(),
};

const supervisionSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('process'), command: z.array(z.string()).min(1), ...base }),
  z.strictObject({
    kind: z.literal('container'),
    image: z.string(),
    args: z.array(z.string()),
    mounts: z.array(
      z.strictObject({
        source: z.string(),
        target: z.string(),
        readOnly: z.boolean(),
        propagation: z.enum(['private', 'slave', 'shared']),
      }),
    ),
    ...base,
  }),
]);

const schema = z.strictObject({
  name: z.string(),
  file: z.string(),
  wantedName: z.string().optional(),
  pluginName: z.string().optional(),
  supervision: supervisionSchema,
  run: z
    .strictObject({
      bootId: z.string(),
      startedAt: z.string(),
      process: z.strictObject({ pid: z.int().min(1), startTicks: z.int().min(0) }).optional(),
    })
    .optional(),
  restarts: z.int().min(0),
  quickEnds: z.int().min(0),
  lastEnd: z
    .strictObject({
      at: z.string(),
      exitCode: z.int().optional(),
      signalName: z.string().optional(),
      reason: z.string(),
    })
    .optional(),
  nextStartAt: z.string().optional(),
});

/** Decodes a record of the store. */
export function decodeSupervisedRecord(value: unknown): SupervisedRecord {
  return schema.parse(value) as SupervisedRecord;
}
