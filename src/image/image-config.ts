/**
 * What an image says about running it: command, environment, working directory, user, labels. All of it is somebody
 * else's input, so it is checked when it comes in, and labels are data that nothing acts upon. It is written as
 * instructions of a Dockerfile, the way `docker import --change` takes them.
 */
import { posix } from 'node:path';
import * as z from 'zod';
import { parseAccount } from '../account.ts';
import { invalid, type RuntimeError } from '../errors.ts';
import { stringMap } from '../string-map.ts';
import { splitWords } from './instruction-words.ts';

/** How an image is run unless the request says otherwise. */
export interface ImageConfig {
  readonly entrypoint: readonly string[];
  /** Arguments of the entrypoint, or the whole command without one. */
  readonly command: readonly string[];
  /** "KEY=value", each key once. */
  readonly env: readonly string[];
  /** Absolute and in normal form; "/" when absent. */
  readonly workingDir?: string | undefined;
  /** "uid[:gid]" or "name[:group]"; root when absent. */
  readonly user?: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
}

export const imageConfigSchema: z.ZodType<ImageConfig> = z.object({
  entrypoint: z.array(z.string()),
  command: z.array(z.string()),
  env: z.array(z.string()),
  workingDir: z.string().optional(),
  user: z.string().optional(),
  labels: stringMap,
});

const EMPTY: ImageConfig = { entrypoint: [], command: [], env: [], labels: {} };
const INSTRUCTION = /^\s*([a-zA-Z]+)(?:\s+([\s\S]*))?$/;
const SHELL = ['/bin/sh', '-c'] as const;
const MAX_CHANGES = 128;
const MAX_CHANGE_BYTES = 64 * 1024;
const MAX_WORKING_DIR_BYTES = 4095;
const PSEUDO_ROOTS = ['/proc', '/sys', '/dev'] as const;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

type Apply = (config: ImageConfig, text: string, refuse: Refuse) => ImageConfig;
type Refuse = (reason: string) => RuntimeError;

const INSTRUCTIONS: Readonly<Record<string, Apply>> = {
  CMD: (config, text, refuse) => ({ ...config, command: commandLine(text, refuse) }),
  ENTRYPOINT: (config, text, refuse) => ({ ...config, entrypoint: commandLine(text, refuse) }),
  ENV: (config, text, refuse) => ({ ...config, env: withEnv(config.env, pairs(text, refuse), refuse) }),
  LABEL: (config, text, refuse) => ({ ...config, labels: withLabels(config.labels, pairs(text, refuse), refuse) }),
  USER: (config, text) => ({ ...config, user: checkedUser(text) }),
  WORKDIR: (config, text, refuse) => ({ ...config, workingDir: workingDir(config.workingDir ?? '/', text, refuse) }),
};

/**
 * The configuration that instructions such as `CMD ["sh"]` or `ENV A=b` describe, applied in order.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the instruction
 */
export function parseChanges(changes: readonly string[]): ImageConfig {
  if (changes.length > MAX_CHANGES) throw invalid('change', `more than ${MAX_CHANGES} instructions`);
  return changes.reduce(applyChange, EMPTY);
}

function applyChange(config: ImageConfig, change: string): ImageConfig {
  const refuse: Refuse = (reason) => invalid('change', `${quoted(change)} ${reason}`);
  if (Buffer.byteLength(change) > MAX_CHANGE_BYTES) throw refuse(`is longer than ${MAX_CHANGE_BYTES} bytes`);
  if (change.includes('\0')) throw refuse('has a NUL byte');
  const match = INSTRUCTION.exec(change);
  const name = match?.[1]?.toUpperCase() ?? '';
  const apply = Object.hasOwn(INSTRUCTIONS, name) ? INSTRUCTIONS[name] : undefined;
  const text = match?.[2]?.trim() ?? '';
  if (apply === undefined) throw refuse(`is none of ${Object.keys(INSTRUCTIONS).join(', ')}`);
  if (text === '') throw refuse('says nothing');
  return apply(config, text, refuse);
}

/** JSON array: the words as they are. Anything else is a line for the shell. */
function commandLine(text: string, refuse: Refuse): string[] {
  if (!text.startsWith('[')) return [...SHELL, text];
  const words = z.array(z.string()).safeParse(parsedJson(text));
  if (!words.success) {
    if (/^\[\s*"/.test(text)) throw refuse('is no JSON array of strings');
    // `[ -x /init ] && exec /init` is a line for the shell.
    return [...SHELL, text];
  }
  if (words.data.some((word) => word.includes('\0'))) throw refuse('has a NUL byte');
  return words.data;
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** `K=v L="w x"`, or the old form `K v w x` for one key. */
function pairs(text: string, refuse: Refuse): [key: string, value: string][] {
  const words = splitWords(text);
  if (words === undefined) throw refuse('has a quotation mark without its fellow');
  const [first] = words;
  if (first === undefined) throw refuse('says nothing');
  if (!first.includes('=')) {
    const old = /^(\S+)\s+([\s\S]+)$/.exec(text);
    if (old?.[1] === undefined || old[2] === undefined) throw refuse('must be KEY=value');
    return [[old[1], old[2]]];
  }
  return words.map((word) => {
    const split = word.indexOf('=');
    if (split < 1) throw refuse('must be KEY=value');
    return [word.slice(0, split), word.slice(split + 1)];
  });
}

function withEnv(env: readonly string[], added: readonly [string, string][], refuse: Refuse): string[] {
  const byKey = new Map(env.map((entry) => [entry.slice(0, entry.indexOf('=')), entry]));
  for (const [key, value] of added) {
    if (CONTROL.test(key)) throw refuse('has a key with control characters');
    byKey.set(key, `${key}=${value}`);
  }
  return [...byKey.values()];
}

function withLabels(
  labels: Readonly<Record<string, string>>,
  added: readonly [string, string][],
  refuse: Refuse,
): Record<string, string> {
  for (const [key] of added) {
    if (CONTROL.test(key)) throw refuse(`has ${quoted(key)} for a key`);
  }
  return { ...labels, ...Object.fromEntries(added) };
}

function checkedUser(text: string): string {
  parseAccount('change USER', text);
  return text;
}

/** Relative ones count from the one before. Never inside a pseudo file system (CVE-2024-21626). */
function workingDir(before: string, text: string, refuse: Refuse): string {
  if (CONTROL.test(text)) throw refuse('has control characters');
  const path = posix.resolve(before, text);
  if (Buffer.byteLength(path) > MAX_WORKING_DIR_BYTES) throw refuse(`is longer than ${MAX_WORKING_DIR_BYTES} bytes`);
  const root = PSEUDO_ROOTS.find((pseudo) => path === pseudo || path.startsWith(`${pseudo}/`));
  if (root !== undefined) throw refuse(`lies in ${root}, which is no place to work in`);
  return path;
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
}
