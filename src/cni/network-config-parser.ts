/**
 * The text of a configuration file to a network: `.conflist` files hold a list of plugins, `.conf` and `.json` files
 * one plugin. Pure: files are somebody else's business. What a file says that Berth does not know is kept, the plugins
 * may.
 */
import * as z from 'zod';
import { RuntimeError } from '../errors.ts';
import { usableVersions } from './cni-version.ts';
import { lineOf, lineOfMistake } from './json-place.ts';
import type { ResolvedNetwork } from './network.ts';
import { CNI_NAME, type JsonObject, jsonObject, printable } from './protocol.ts';

/** A file's own words; plugins of a folder beside it may be added, and the version is still to be chosen. */
export interface ParsedNetwork extends Omit<ResolvedNetwork, 'cniVersion'> {
  /** Versions it may be run at, all known to Berth, the highest first; never empty. */
  readonly versions: readonly string[];
  /** `*.conf` files of the folder named like the network belong to the chain. */
  readonly takesFolder: boolean;
}

/** Names that mean something else where networks are named. */
const RESERVED: ReadonlySet<string> = new Set(['none', 'host']);

/** true, false, or the words as text, as libcni takes them. */
const flag: z.ZodType<boolean> = z.union([
  z.boolean(),
  z
    .string()
    .regex(/^(true|false)$/i, 'expected true or false')
    .transform((text) => text.toLowerCase() === 'true'),
]);

const networkName = z
  .string()
  .regex(CNI_NAME, `must match ${CNI_NAME.source}`)
  .refine((name) => !RESERVED.has(name), 'is reserved');

/** The members of a plugin object that Berth reads; the object itself is passed on as it is. */
const pluginMembers = z.object({
  type: z.string().regex(CNI_NAME, 'is no plain plugin name'),
  capabilities: z.record(z.string(), z.boolean()).optional(),
  ipam: jsonObject.optional(),
  dns: jsonObject.optional(),
});

const pluginSchema: z.ZodType<JsonObject> = jsonObject.superRefine((plugin, context) => {
  for (const { message, path } of pluginMembers.safeParse(plugin).error?.issues ?? []) {
    context.addIssue({ code: 'custom', message, path: [...path] });
  }
});

const listSchema = z.object({
  name: networkName,
  cniVersion: z.string().default(''),
  cniVersions: z.array(z.string()).default([]),
  disableCheck: flag.default(false),
  disableGC: flag.default(false),
  'io.berth/owned': flag.default(false),
  loadOnlyInlinedPlugins: flag.default(false),
  plugins: z.array(pluginSchema).optional(),
});

const singleSchema = z.object({
  name: networkName,
  cniVersion: z.string().default(''),
  cniVersions: z.array(z.string()).default([]),
});

/**
 * A `.conflist`. The chain may be empty as long as a folder can supply it.
 * @throws {RuntimeError} FAILED_PRECONDITION with the line, the place and the reason
 */
export function parseNetworkList(text: string): ParsedNetwork {
  const list = checked(listSchema, text, parseJson(text));
  if (list.loadOnlyInlinedPlugins && list.plugins === undefined) throw unfit('line 1: plugins: missing');
  return {
    name: list.name,
    versions: versions(text, list),
    disableCheck: list.disableCheck,
    disableGC: list.disableGC,
    owned: list['io.berth/owned'],
    plugins: list.plugins ?? [],
    takesFolder: !list.loadOnlyInlinedPlugins,
  };
}

/**
 * A `.conf` or `.json`: the form of versions before 1.0, taken as a list of one.
 * @throws {RuntimeError} FAILED_PRECONDITION with the line, the place and the reason
 */
export function parseSingleNetwork(text: string): ParsedNetwork {
  const value = parseJson(text);
  if (Object.hasOwn(value, 'plugins')) {
    throw unfit(`line ${lineOf(text, ['plugins'])}: it has "plugins": the file name must end in .conflist`);
  }
  const single = checked(singleSchema, text, value);
  return {
    name: single.name,
    versions: versions(text, single),
    disableCheck: false,
    disableGC: false,
    owned: false,
    plugins: [checked(pluginSchema, text, value)],
    takesFolder: false,
  };
}

/**
 * One plugin object, as it stands in a plugin folder.
 * @throws {RuntimeError} FAILED_PRECONDITION with the line, the place and the reason
 */
export function parsePlugin(text: string): JsonObject {
  return checked(pluginSchema, text, parseJson(text));
}

/** A byte order mark or trailing text is a mistake too. */
function parseJson(text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? printable(error.message) : 'unreadable';
    throw unfit(`line ${lineOfMistake(text)}: not JSON: ${reason}`, error);
  }
  return checked(jsonObject, text, value);
}

function checked<T>(schema: z.ZodType<T>, text: string, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const reasons = result.error.issues.slice(0, 5).map((issue) => {
    const line = `line ${lineOf(text, issue.path)}`;
    const place = issue.path.map(String).join('.');
    return place === '' ? `${line}: ${issue.message}` : `${line}: ${printable(place)}: ${issue.message}`;
  });
  throw unfit(reasons.join('; '), result.error);
}

function versions(
  text: string,
  { cniVersion, cniVersions }: { readonly cniVersion: string; readonly cniVersions: readonly string[] },
): readonly string[] {
  try {
    return usableVersions(cniVersion, cniVersions);
  } catch (error) {
    const line = lineOf(text, [cniVersions.length > 0 ? 'cniVersions' : 'cniVersion']);
    throw unfit(`line ${line}: ${error instanceof Error ? printable(error.message) : 'cniVersion'}`, error);
  }
}

function unfit(reason: string, cause?: unknown): RuntimeError {
  return new RuntimeError('FAILED_PRECONDITION', reason, cause === undefined ? undefined : { cause });
}
