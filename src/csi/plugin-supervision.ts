/**
 * The keys of a drop-in file by which Berth starts the plugin itself. A file that has one of them names no socket: Berth
 * chooses it, and tells it to the plugin as CSI_ENDPOINT and where the file says `{endpoint}`.
 *
 *   command = ["/usr/libexec/some-csi", "--endpoint={endpoint}"]    as a process of this host
 *   image = "some/csi:1.2"           as a container
 *   args = ["--nodeid={node-id}"]    with image: after the image's entrypoint, in place of its command
 *   mounts = ["/etc/some:/etc/some:ro"]                 with image: places of the host; also :rslave, :rshared
 *   env = { LOG_LEVEL = "4" }        beside CSI_ENDPOINT and NODE_ID; values may hold {endpoint} and {node-id}
 *   node-id = "rack-7"               what the plugin calls this machine; its host name unless given
 *   grace-seconds = 30               from SIGTERM to SIGKILL; 10 unless given
 *   part = "controller"              or "node": another file of the same name starts the other part
 *
 * A process with a socket for each of its parts is told them as `{controller-endpoint}` and `{node-endpoint}`.
 *
 * Pure: nothing here looks at the disk.
 */
import { posix } from 'node:path';
import * as z from 'zod';
import { invalid } from '../errors.ts';
import type { HostMount } from '../runtime/container.ts';
import type { PluginRole } from './plugin-registration.ts';
import { checkText, LIMITS } from './protocol.ts';

interface SupervisionBase {
  /** Values may hold the same words in braces as a command. */
  readonly env: Readonly<Record<string, string>>;
  /** This machine's host name when absent. */
  readonly nodeId?: string;
  readonly graceSeconds: number;
  /** It is used for this part only, and another file starts the rest; for all it serves when absent. */
  readonly part?: PluginRole;
}

/** A plugin that Berth runs as a process of this host. */
export interface ProcessSupervision extends SupervisionBase {
  readonly kind: 'process';
  /** The program's absolute path and its arguments; may hold `{endpoint}`, `{controller-endpoint}`, `{node-endpoint}` and `{node-id}`. */
  readonly command: readonly string[];
}

/** A plugin that Berth runs as a container. */
export interface ContainerSupervision extends SupervisionBase {
  readonly kind: 'container';
  readonly image: string;
  /** In place of the image's command, when there are any. */
  readonly args: readonly string[];
  readonly mounts: readonly HostMount[];
}

/** What a drop-in file says about starting the plugin. */
export type Supervision = ProcessSupervision | ContainerSupervision;

const DEFAULT_GRACE_SECONDS = 10;
const MAX_GRACE_SECONDS = 600;
const MAX_WORDS = 256;
const MAX_MOUNTS = 64;

interface SupervisionKeys {
  readonly command: z.ZodOptional<z.ZodArray<z.ZodString>>;
  readonly image: z.ZodOptional<z.ZodString>;
  readonly args: z.ZodOptional<z.ZodArray<z.ZodString>>;
  readonly mounts: z.ZodOptional<z.ZodArray<z.ZodString>>;
  readonly env: z.ZodOptional<z.ZodRecord<z.ZodString, z.ZodString>>;
  readonly 'node-id': z.ZodOptional<z.ZodString>;
  readonly 'grace-seconds': z.ZodOptional<z.ZodInt>;
  readonly part: z.ZodOptional<z.ZodEnum<{ controller: 'controller'; node: 'node' }>>;
}

/** Their schemas, part of the drop-in file's (plugin-drop-ins.ts). */
export const supervisionKeys: SupervisionKeys = {
  command: z.array(z.string()).min(1).max(MAX_WORDS).optional(),
  image: z.string().optional(),
  args: z.array(z.string()).max(MAX_WORDS).optional(),
  mounts: z.array(z.string()).max(MAX_MOUNTS).optional(),
  env: z.record(z.string(), z.string()).optional(),
  'node-id': z.string().optional(),
  'grace-seconds': z.int().min(0).max(MAX_GRACE_SECONDS).optional(),
  part: z.enum(['controller', 'node']).optional(),
};

/** The keys of a checked file. */
export type SupervisionFile = { readonly [K in keyof SupervisionKeys]?: z.infer<SupervisionKeys[K]> };

/**
 * The part of a checked drop-in file that is about starting the plugin; undefined when it has none.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the key
 */
export function supervisionOf(file: SupervisionFile): Supervision | undefined {
  const { command, image } = file;
  if (command !== undefined && image !== undefined) {
    throw invalid('image', 'a plugin is a process (command) or a container (image): say one of them; see args');
  }
  if (image !== undefined) return containerOf(image, file);
  refuseWithout(file, 'image', ['args', 'mounts']);
  if (command === undefined) {
    refuseWithout(file, 'command', ['env', 'node-id', 'grace-seconds', 'part']);
    return undefined;
  }
  checkProgram(command[0] ?? '');
  for (const word of command) checkWord('command', word);
  return withOneSocketAPart({ kind: 'process', command, ...baseOf(file) });
}

function refuseWithout(file: SupervisionFile, needed: string, keys: readonly (keyof SupervisionFile)[]): void {
  const idle = keys.find((key) => file[key] !== undefined);
  if (idle === undefined) return;
  const how =
    needed === 'image' ? 'as a container; say image = "..."' : 'itself; say command = ["/path"] or image = "..."';
  throw invalid(idle, `is for plugins that Berth starts ${how}`);
}

function containerOf(image: string, file: SupervisionFile): ContainerSupervision {
  const { args = [], mounts = [] } = file;
  if (image === '') throw invalid('image', 'is empty');
  checkWord('image', image);
  for (const word of args) checkWord('args', word);
  const parsed = mounts.map(hostMountOf);
  const twice = parsed.find(({ target }, index) => parsed.findIndex((other) => other.target === target) !== index);
  if (twice !== undefined) throw invalid('mounts', `${twice.target} is named twice`);
  return withOneSocketAPart({ kind: 'container', image, args, mounts: parsed, ...baseOf(file) });
}

/** @throws {RuntimeError} INVALID_ARGUMENT when a file that starts one part asks for sockets of both */
function withOneSocketAPart<T extends Supervision>(supervision: T): T {
  if (supervision.part === undefined || supervisedSockets(supervision).length === 1) return supervision;
  const reason = 'a file that starts one part has one socket: say {endpoint}, or leave part out';
  throw invalid('part', reason);
}

/** A socket of a plugin that Berth starts: "csi" is `{endpoint}`, "controller" is `{controller-endpoint}`. */
export type SupervisedSocketName = 'csi' | PluginRole;

/**
 * The sockets at which a plugin listens when it does as it is told. The usual one is of no use when the file names one
 * for each part.
 */
export function supervisedSockets(
  supervision: Supervision,
): readonly { readonly name: SupervisedSocketName; readonly role?: PluginRole }[] {
  const { kind, env, part } = supervision;
  const words = [...(kind === 'process' ? supervision.command : supervision.args), ...Object.values(env)];
  const says = (word: string): boolean => words.some((one) => one.includes(word));
  const named = (['controller', 'node'] as const).filter((role) => says(`{${role}-endpoint}`));
  const usual = named.length < 2 || says('{endpoint}');
  return [
    ...(usual ? [{ name: 'csi' as const, ...(part === undefined ? {} : { role: part }) }] : []),
    ...named.map((role) => ({ name: role, role })),
  ];
}

const OURS: ReadonlySet<string> = new Set(['CSI_ENDPOINT', 'NODE_ID']);

function baseOf(file: SupervisionFile): SupervisionBase {
  const { env = {}, 'node-id': nodeId, 'grace-seconds': graceSeconds = DEFAULT_GRACE_SECONDS, part } = file;
  for (const [key, value] of Object.entries(env)) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) throw invalid('env', `${JSON.stringify(key)} is no name of a variable`);
    if (OURS.has(key)) throw invalid('env', `${key} is set by Berth${key === 'NODE_ID' ? '; see node-id' : ''}`);
    checkWord(`env.${key}`, value);
  }
  if (nodeId !== undefined) {
    if (nodeId === '') throw invalid('node-id', 'is empty');
    checkText('node-id', nodeId, LIMITS.nodeId);
  }
  return {
    env,
    ...(nodeId === undefined ? {} : { nodeId }),
    graceSeconds,
    ...(part === undefined ? {} : { part }),
  };
}

const MODES: ReadonlyMap<string, Pick<HostMount, 'readOnly' | 'propagation'>> = new Map([
  ['rw', { readOnly: false, propagation: 'private' }],
  ['ro', { readOnly: true, propagation: 'private' }],
  ['rslave', { readOnly: false, propagation: 'slave' }],
  ['rshared', { readOnly: false, propagation: 'shared' }],
]);

/** "/host/path:/path", "/host/path:/path:rshared" */
function hostMountOf(text: string): HostMount {
  const [source = '', target = '', word = 'rw', ...rest] = text.split(':');
  const mode = MODES.get(word);
  if (mode === undefined || rest.length > 0) {
    const kinds = [...MODES.keys()].join(', ');
    throw invalid('mounts', `${JSON.stringify(text)} must be /host/path:/path, or with one of ${kinds} at its end`);
  }
  checkAbsolute('mounts', source);
  checkAbsolute('mounts', target);
  const isKernels = ['/', '/dev', '/proc', '/sys'].includes(target) || /^\/(proc|sys)\//.test(target);
  if (isKernels)
    throw invalid('mounts', `${target} is made by Berth: a plugin has the host's /dev and a /sys of its own`);
  return { source, target, ...mode };
}

function checkProgram(program: string): void {
  const shown = JSON.stringify(program.slice(0, 256));
  if (!program.startsWith('/')) throw invalid('command', `${shown} must be an absolute path: no PATH is searched`);
  checkAbsolute('command', program);
}

function checkAbsolute(field: string, path: string): void {
  checkWord(field, path);
  const shown = JSON.stringify(path.slice(0, 256));
  if (!path.startsWith('/')) throw invalid(field, `${shown} must be an absolute path`);
  if (posix.normalize(path) !== path || (path.length > 1 && path.endsWith('/'))) {
    throw invalid(field, `${shown} must be a path in its shortest form`);
  }
}

/** The kernel ends words at a NUL. */
function checkWord(field: string, word: string): void {
  if (word.includes('\0') || !word.isWellFormed()) throw invalid(field, 'holds a character that no argument can have');
}

/** What the words of a command stand for. */
export interface PluginPlace {
  /** "unix:///run/berth/plugins/some/csi.sock" */
  readonly endpoint: string;
  readonly controllerEndpoint: string;
  readonly nodeEndpoint: string;
  readonly nodeId: string;
}

const WORDS: Readonly<Record<string, keyof PluginPlace>> = {
  endpoint: 'endpoint',
  'controller-endpoint': 'controllerEndpoint',
  'node-endpoint': 'nodeEndpoint',
  'node-id': 'nodeId',
};

/** A word with what is in braces replaced; other braces stay as they are. */
export function filledIn(word: string, place: PluginPlace): string {
  return word.replace(/\{(endpoint|controller-endpoint|node-endpoint|node-id)\}/g, (whole, key: string) => {
    const field = WORDS[key];
    return field === undefined ? whole : place[field];
  });
}

/** What a plugin is told in its environment. */
export function environmentFor({ env }: Supervision, place: PluginPlace): Record<string, string> {
  const given = Object.entries(env).map(([key, value]) => [key, filledIn(value, place)]);
  return { ...Object.fromEntries(given), CSI_ENDPOINT: place.endpoint, NODE_ID: place.nodeId };
}
