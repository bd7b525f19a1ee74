/**
 * The keys of a drop-in file by which Berth starts the plugin itself. A file that has one of them names no socket: Berth
 * chooses it, and tells it to the plugin as CSI_ENDPOINT and where the file says `{endpoint}`.
 *
 *   command = ["/usr/libexec/some-csi", "--endpoint={endpoint}", "--nodeid={node-id}"]
 *   env = { LOG_LEVEL = "4" }        beside CSI_ENDPOINT, NODE_ID and a PATH; values may hold {endpoint} and {node-id}
 *   node-id = "rack-7"               what the plugin calls this machine; its host name unless given
 *   grace-seconds = 30               from SIGTERM to SIGKILL; 10 unless given
 *
 * Pure: nothing here looks at the disk.
 */
import { posix } from 'node:path';
import { z } from 'zod';
import { invalid } from '../errors.ts';
import { checkText, LIMITS } from './protocol.ts';

/** A plugin that Berth runs as a process of this host. */
export interface ProcessSupervision {
  readonly kind: 'process';
  /** The program's absolute path and its arguments; may hold `{endpoint}` and `{node-id}`. */
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** This machine's host name when absent. */
  readonly nodeId?: string;
  readonly graceSeconds: number;
}

/** What a drop-in file says about starting the plugin; undefined when somebody else starts it. */
export type Supervision = ProcessSupervision;

const DEFAULT_GRACE_SECONDS = 10;
const MAX_GRACE_SECONDS = 600;
const MAX_ARGS = 256;

/** Their schemas, part of the drop-in file's (plugin-drop-ins.ts). */
export const supervisionKeys: SupervisionKeys = {
  command: z.array(z.string()).min(1).max(MAX_ARGS).optional(),
  env: z.record(z.string(), z.string()).optional(),
  'node-id': z.string().optional(),
  'grace-seconds': z.int().min(0).max(MAX_GRACE_SECONDS).optional(),
};

interface SupervisionKeys {
  readonly command: z.ZodOptional<z.ZodArray<z.ZodString>>;
  readonly env: z.ZodOptional<z.ZodRecord<z.ZodString, z.ZodString>>;
  readonly 'node-id': z.ZodOptional<z.ZodString>;
  readonly 'grace-seconds': z.ZodOptional<z.ZodInt>;
}

/** The keys of a checked file. */
export type SupervisionFile = { readonly [K in keyof SupervisionKeys]?: z.infer<SupervisionKeys[K]> };

/**
 * The part of a checked drop-in file that is about starting the plugin; undefined when it has none.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the key
 */
export function supervisionOf(file: SupervisionFile): Supervision | undefined {
  const { command, env = {}, 'node-id': nodeId, 'grace-seconds': graceSeconds = DEFAULT_GRACE_SECONDS } = file;
  if (command === undefined) {
    const idle = (['env', 'node-id', 'grace-seconds'] as const).find((key) => file[key] !== undefined);
    if (idle === undefined) return undefined;
    throw invalid(idle, 'is for plugins that Berth starts; say how with command = ["/path/of/program", "argument"]');
  }
  checkProgram(command[0] ?? '');
  for (const word of command) checkWord('command', word);
  for (const [key, value] of Object.entries(env)) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) throw invalid('env', `${JSON.stringify(key)} is no name of a variable`);
    if (OURS.has(key)) throw invalid('env', `${key} is set by Berth${key === 'NODE_ID' ? '; see node-id' : ''}`);
    checkWord(`env.${key}`, value);
  }
  if (nodeId !== undefined) {
    if (nodeId === '') throw invalid('node-id', 'is empty');
    checkText('node-id', nodeId, LIMITS.nodeId);
  }
  return { kind: 'process', command, env, ...(nodeId === undefined ? {} : { nodeId }), graceSeconds };
}

const OURS: ReadonlySet<string> = new Set(['CSI_ENDPOINT', 'NODE_ID']);

function checkProgram(program: string): void {
  const shown = JSON.stringify(program.slice(0, 256));
  if (!program.startsWith('/')) throw invalid('command', `${shown} must be an absolute path: no PATH is searched`);
  if (posix.normalize(program) !== program) throw invalid('command', `${shown} must be a path in its shortest form`);
}

/** The kernel ends words at a NUL. */
function checkWord(field: string, word: string): void {
  if (word.includes('\0') || !word.isWellFormed()) throw invalid(field, 'holds a character that no argument can have');
}

/** What the words of a command stand for. */
export interface PluginPlace {
  /** "unix:///run/berth/plugins/some/csi.sock" */
  readonly endpoint: string;
  readonly nodeId: string;
}

/** A word with `{endpoint}` and `{node-id}` replaced; other braces stay as they are. */
export function filledIn(word: string, { endpoint, nodeId }: PluginPlace): string {
  return word.replace(/\{(endpoint|node-id)\}/g, (_, key) => (key === 'endpoint' ? endpoint : nodeId));
}
