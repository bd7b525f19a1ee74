/**
 * What is on record about the networks of one run of a container, and how an attachment moves:
 *
 *   planned ──▶ adding ──▶ added ──▶ deleting ──▶ (off the record)
 *                  └────────────────────▲
 *
 * Each state is durable before the call it names. An attachment that is not `planned` may have left something on the
 * machine, whatever became of the call: a DEL is due, with exactly what is written here.
 */
import * as z from 'zod';
import { type Naming, namingSchema } from '../runtime/container.ts';
import type { Attachment, Label } from './attachment.ts';
import { type ResolvedNetwork, resolvedNetworkSchema } from './network.ts';
import { type CniResult, decodeResult, type JsonObject, jsonObject } from './protocol.ts';

const STATES = ['planned', 'adding', 'added', 'deleting'] as const;

export type AttachmentState = (typeof STATES)[number];

/** One network of the container. */
export interface RecordedAttachment {
  readonly network: ResolvedNetwork;
  readonly interfaceName: string;
  readonly args: readonly (readonly [key: string, value: string])[];
  readonly capabilityArgs: JsonObject;
  /** Labels of the container when it was attached; absent when it had none. */
  readonly labels?: readonly Label[] | undefined;
  readonly state: AttachmentState;
  /** The result of ADD; while it is `adding`, what the plugins so far made of it. */
  readonly result?: CniResult | undefined;
}

/** What a container is called and what its request says about names, for the files of a run. */
export interface RecordedNames {
  readonly hostname: string;
  /** The container's name: others find it by this one. */
  readonly name: string;
  readonly naming?: Naming | undefined;
}

/** The networks of one run of a container. */
export interface NetworkRecord {
  /** networks: a namespace with interfaces; none: a namespace with loopback only; host: no namespace. */
  readonly mode: 'networks' | 'none' | 'host';
  /** Boot in which the namespace was made: it is gone in any other. */
  readonly bootId: string;
  /** Path of the named namespace; empty with the host's network. */
  readonly netnsPath: string;
  /** In order of ADD: eth0, eth1, ... */
  readonly attachments: readonly RecordedAttachment[];
  /** Absent in records of earlier versions: nobody finds these containers by name. */
  readonly names?: RecordedNames | undefined;
}

const attachmentSchema = z.object({
  network: resolvedNetworkSchema,
  interfaceName: z.string().min(1),
  args: z.array(z.tuple([z.string(), z.string()])),
  capabilityArgs: jsonObject,
  labels: z.array(z.object({ key: z.string(), value: z.string() })).optional(),
  state: z.enum(STATES),
  result: z
    .unknown()
    .transform((value) => (value === undefined ? undefined : decodeResult(value)))
    .optional(),
});

const recordSchema = z.object({
  mode: z.enum(['networks', 'none', 'host']),
  bootId: z.string(),
  netnsPath: z.string(),
  attachments: z.array(attachmentSchema),
  names: z.object({ hostname: z.string(), name: z.string(), naming: namingSchema.optional() }).optional(),
});

/** Decodes a stored record. @throws when the value does not have the shape of one */
export function decodeNetworkRecord(value: unknown): NetworkRecord {
  return recordSchema.parse(value);
}

/** What plugins are given for a recorded attachment. `netnsPath` is empty when the namespace is gone. */
export function attachmentOf(containerId: string, entry: RecordedAttachment, netnsPath: string): Attachment {
  const { network, interfaceName, args, capabilityArgs, labels } = entry;
  return { containerId, netnsPath, interfaceName, network, args, capabilityArgs, labels };
}

/** The record with one attachment changed, or taken off when `change` is undefined. */
export function withAttachment(
  record: NetworkRecord,
  interfaceName: string,
  change: Partial<Pick<RecordedAttachment, 'state' | 'result'>> | undefined,
): NetworkRecord {
  const attachments = record.attachments.flatMap((entry) => {
    if (entry.interfaceName !== interfaceName) return [entry];
    return change === undefined ? [] : [{ ...entry, ...change }];
  });
  return { ...record, attachments };
}
