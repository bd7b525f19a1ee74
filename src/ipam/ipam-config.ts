/**
 * The configuration of the plugin as it stands on the wire: host-local's keys and a few more, with bounds. Members may be
 * absent or null; what nobody knows is passed over. What the texts mean is for others to say (ipam-request.ts, range.ts).
 */
import * as z from 'zod';
import { type CniRoute, cidr, type JsonObject, jsonObject } from '../cni/protocol.ts';

const MAX_SETS = 32;
const MAX_RANGES = 256;
const MAX_EXCLUDED = 4096;
const MAX_ROUTES = 65_536;
const MAX_WANTED = 64;
const MAX_VALID = 1_000_000;
/** Ten years. */
const MAX_STICKY_SECONDS = 315_360_000;

type Given<T> = T | null | undefined;

/** A range as it is written. */
export interface WrittenRange {
  subnet: string;
  rangeStart?: Given<string>;
  rangeEnd?: Given<string>;
  gateway?: Given<string>;
  exclude?: Given<string[]>;
}

/** What ADD, CHECK and STATUS read. */
export interface IpamConfig {
  cniVersion?: Given<string>;
  ipam: Omit<WrittenRange, 'subnet'> & {
    subnet?: Given<string>;
    ranges?: Given<WrittenRange[][]>;
    routes?: Given<CniRoute[]>;
    resolvConf?: Given<string>;
    sticky?: Given<boolean>;
    stickySeconds?: Given<number>;
  };
  runtimeConfig?: Given<{ ips?: Given<string[]>; ipRanges?: Given<WrittenRange[][]> }>;
  args?: Given<{ cni?: Given<{ ips?: Given<string[]> }> }>;
  prevResult?: Given<JsonObject>;
}

/** Attachments as GC lists them. */
export type WrittenAttachments = Given<{ containerID: string; ifname: string }[]>;

/** What DEL and GC read. */
export interface GiveBackConfig {
  name: string;
  'cni.dev/valid-attachments'?: WrittenAttachments;
  'cni.dev/attachments'?: WrittenAttachments;
}

const rangeShape = {
  subnet: z.string(),
  rangeStart: z.string().nullish(),
  rangeEnd: z.string().nullish(),
  gateway: z.string().nullish(),
  exclude: z.array(z.string()).max(MAX_EXCLUDED).nullish(),
};
const rangeSchema = z.object(rangeShape);
const setsSchema = z.array(z.array(rangeSchema).max(MAX_RANGES)).max(MAX_SETS).nullish();
const addressesSchema = z.array(z.string()).max(MAX_WANTED).nullish();
const attachmentsSchema = z
  .array(z.object({ containerID: z.string(), ifname: z.string() }))
  .max(MAX_VALID)
  .nullable()
  .optional();

/** Decodes what DEL and GC read. */
export const giveBackSchema: z.ZodType<GiveBackConfig> = z.object({
  name: z.string(),
  'cni.dev/valid-attachments': attachmentsSchema,
  'cni.dev/attachments': attachmentsSchema,
});

/** Decodes what ADD, CHECK and STATUS read. */
export const ipamConfigSchema: z.ZodType<IpamConfig> = z.object({
  cniVersion: z.string().nullish(),
  ipam: z.object({
    ...rangeShape,
    subnet: z.string().nullish(),
    ranges: setsSchema,
    routes: z
      .array(z.looseObject({ dst: cidr, gw: z.string().nullish() }))
      .max(MAX_ROUTES)
      .nullish(),
    resolvConf: z.string().nullish(),
    sticky: z.boolean().nullish(),
    stickySeconds: z.int().min(1).max(MAX_STICKY_SECONDS).nullish(),
  }),
  runtimeConfig: z.object({ ips: addressesSchema, ipRanges: setsSchema }).nullish(),
  args: z.object({ cni: z.object({ ips: addressesSchema }).nullish() }).nullish(),
  prevResult: jsonObject.nullish(),
});
