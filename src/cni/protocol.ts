/**
 * The CNI protocol as it stands on the wire: commands, results, errors. Shapes are lenient where plugins are (missing
 * lists, null, an `interface` index of -1) and keep unknown fields, since the next plugin of a chain may want them.
 * Nothing here runs anything.
 */
import { isIP } from 'node:net';
import * as z from 'zod';
import { type Code, RuntimeError } from '../errors.ts';

/** CNI 1.1.0 §2 "CNI operations". */
export type CniCommand = 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS' | 'VERSION';

/** Names of networks and container ids (CNI 1.1.0 §1, §2), cut to what fits a file name. */
export const CNI_NAME: RegExp = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;

/** A JSON object whose members nobody has looked at. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Any JSON object, as it is: unlike a record of zod this keeps a "__proto__" member as plain data. */
export const jsonObject: z.ZodType<JsonObject> = z.custom<JsonObject>(
  (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
  'expected an object',
);

/** An address with its prefix length, "10.1.0.5/16" or "fd00::5/64". */
export const cidr: z.ZodString = z.string().refine(isCidr, 'expected an address with a prefix length');

const ip: z.ZodString = z.string().refine((text) => isIP(text) !== 0, 'expected an IP address');

/** Absent, null or (from some plugins) an empty string: all mean "not given". */
const absent = <T extends z.ZodType>(
  type: T,
): z.ZodOptional<z.ZodNullable<z.ZodUnion<readonly [T, z.ZodLiteral<''>]>>> =>
  z
    .union([type, z.literal('')])
    .nullable()
    .optional();

/** What a plugin may leave out, or say by null. */
type Given<T> = T | null | undefined;

/** DNS as results and configurations write it. */
export interface CniDns {
  [unknown: string]: unknown;
  nameservers?: Given<string[]>;
  domain?: Given<string>;
  search?: Given<string[]>;
  options?: Given<string[]>;
}

const dnsSchema: z.ZodType<CniDns> = z.looseObject({
  nameservers: z.array(z.string()).nullish(),
  domain: z.string().nullish(),
  search: z.array(z.string()).nullish(),
  options: z.array(z.string()).nullish(),
});

/** An interface a plugin made; `sandbox` is the namespace it is in, absent on the host. */
export interface CniInterface {
  [unknown: string]: unknown;
  name: string;
  mac?: Given<string>;
  sandbox?: Given<string>;
}

const interfaceSchema: z.ZodType<CniInterface> = z.looseObject({
  name: z.string(),
  mac: z.string().nullish(),
  sandbox: z.string().nullish(),
});

/** An address a plugin gave. */
export interface CniIp {
  [unknown: string]: unknown;
  /** "10.1.0.5/16" */
  address: string;
  gateway?: Given<string>;
  /** Index into `interfaces`; -1 and absent mean none. */
  interface?: Given<number>;
}

const ipSchema: z.ZodType<CniIp> = z.looseObject({
  address: cidr,
  gateway: absent(ip),
  interface: z.int().nullish(),
});

/** A route a plugin set: `dst` is "0.0.0.0/0" for the default one. */
export interface CniRoute {
  [unknown: string]: unknown;
  dst: string;
  gw?: Given<string>;
}

const routeSchema: z.ZodType<CniRoute> = z.looseObject({ dst: cidr, gw: absent(ip) });

/** A result of versions 0.3.0 to 1.1.0 (CNI 1.1.0 §5 "Success"). */
export interface CniResult {
  [unknown: string]: unknown;
  cniVersion?: Given<string>;
  interfaces?: Given<CniInterface[]>;
  ips?: Given<CniIp[]>;
  routes?: Given<CniRoute[]>;
  dns?: Given<CniDns>;
}

const resultSchema: z.ZodType<CniResult> = z.looseObject({
  cniVersion: z.string().nullish(),
  interfaces: z.array(interfaceSchema).max(4096).nullish(),
  ips: z.array(ipSchema).max(4096).nullish(),
  routes: z.array(routeSchema).max(65_536).nullish(),
  dns: dnsSchema.nullish(),
});

/** Decodes a result of version 0.3.0 or later. @throws when the value does not have the shape of one */
export function decodeResult(value: unknown): CniResult {
  return resultSchema.parse(value);
}

/** Addresses of one family in a result of versions 0.1.0 and 0.2.0. */
export interface OldCniIp {
  [unknown: string]: unknown;
  ip: string;
  gateway?: Given<string>;
  routes?: Given<CniRoute[]>;
}

const oldIpSchema: z.ZodType<OldCniIp> = z.looseObject({
  ip: cidr,
  gateway: absent(ip),
  routes: z.array(routeSchema).nullish(),
});

/** A result of versions 0.1.0 and 0.2.0. */
export interface OldCniResult {
  [unknown: string]: unknown;
  cniVersion?: Given<string>;
  ip4?: Given<OldCniIp>;
  ip6?: Given<OldCniIp>;
  dns?: Given<CniDns>;
}

const oldResultSchema: z.ZodType<OldCniResult> = z.looseObject({
  cniVersion: z.string().nullish(),
  ip4: oldIpSchema.nullish(),
  ip6: oldIpSchema.nullish(),
  dns: dnsSchema.nullish(),
});

/** Decodes a result of version 0.1.0 or 0.2.0. @throws when the value does not have the shape of one */
export function decodeOldResult(value: unknown): OldCniResult {
  return oldResultSchema.parse(value);
}

const versionAnswerSchema = z.looseObject({ supportedVersions: z.array(z.string()).nullish() });

/** Versions out of an answer to VERSION. @throws when the value does not have the shape of one */
export function decodeSupportedVersions(value: unknown): readonly string[] {
  return versionAnswerSchema.parse(value).supportedVersions ?? ['0.1.0', '0.2.0'];
}

const errorSchema = z.looseObject({
  code: z.int(),
  msg: z.string().nullish(),
  details: z.string().nullish(),
});

/** What a plugin says when it fails (CNI 1.1.0 §5 "Error"). */
export interface PluginFailure {
  readonly code: number;
  readonly msg: string;
  readonly details: string;
}

/** The failure in a plugin's answer; undefined when the answer is none. */
export function failureIn(value: unknown): PluginFailure | undefined {
  const parsed = errorSchema.safeParse(value);
  if (!parsed.success) return undefined;
  return { code: parsed.data.code, msg: parsed.data.msg ?? '', details: parsed.data.details ?? '' };
}

/** Code 3: the plugin does not know the container, so nothing is left to delete. */
export const CODE_UNKNOWN_CONTAINER = 3;
/** Code 11: nothing is wrong, the plugin wants to be asked again later. */
export const CODE_TRY_AGAIN = 11;
/** Code 50 of STATUS: no container can be added. */
export const CODE_UNAVAILABLE = 50;
/** Code 51 of STATUS: nor may those that are attached be reached. */
export const CODE_LIMITED = 51;

const CODES_OF_PLUGINS: ReadonlyMap<number, Code> = new Map<number, Code>([
  [1, 'FAILED_PRECONDITION'],
  [2, 'INVALID_ARGUMENT'],
  [CODE_UNKNOWN_CONTAINER, 'NOT_FOUND'],
  [4, 'INTERNAL'],
  [5, 'INTERNAL'],
  [6, 'INTERNAL'],
  [7, 'INVALID_ARGUMENT'],
  [CODE_TRY_AGAIN, 'UNAVAILABLE'],
  [CODE_UNAVAILABLE, 'UNAVAILABLE'],
  [CODE_LIMITED, 'UNAVAILABLE'],
]);

/** The canonical code of a plugin's error code: UNKNOWN for those of the plugin's own (100 and more). */
export function codeOfPlugin(cniCode: number): Code {
  return CODES_OF_PLUGINS.get(cniCode) ?? 'UNKNOWN';
}

/** The evidence a {@link CniError} carries. */
export interface CniErrorOptions extends ErrorOptions {
  readonly plugin: string;
  readonly command: CniCommand;
  readonly failure: PluginFailure;
}

/** A plugin ran and said that it failed. */
export class CniError extends RuntimeError {
  readonly plugin: string;
  readonly command: CniCommand;
  readonly cniCode: number;
  readonly details: string;

  constructor(options: CniErrorOptions) {
    const { plugin, command, failure } = options;
    const said = [failure.msg, failure.details].filter((text) => text !== '').join('; ');
    super(
      codeOfPlugin(failure.code),
      `CNI plugin ${plugin} failed ${command} (code ${failure.code}): ${printable(said) || 'no reason given'}`,
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.plugin = plugin;
    this.command = command;
    this.cniCode = failure.code;
    this.details = failure.details;
  }
}

/** What is wrong with an answer that did not decode, in one line. */
export function misfit(error: unknown): string {
  const [issue] = error instanceof z.ZodError ? error.issues : [];
  if (issue !== undefined) return printable(`${issue.path.map(String).join('.') || 'answer'}: ${issue.message}`);
  return error instanceof Error ? printable(error.message) : 'not understood';
}

/** Foreign text fit for a message: one line, no control characters, cut short. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  const line = text.trim().replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ');
  return line.length > 1000 ? `${line.slice(0, 1000)}...` : line;
}

function isCidr(text: string): boolean {
  const [address = '', prefix = '', ...rest] = text.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0 || !/^(0|[1-9][0-9]{0,2})$/.test(prefix)) return false;
  return Number(prefix) <= (family === 4 ? 32 : 128);
}
