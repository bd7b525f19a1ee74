/**
 * What a snapshot and a group snapshot have in common as durable records: the way from the cut to the end, as data.
 *
 *   (no record)
 *      |  Create… sent under a name that is on record
 *   cutting ------------------ nobody was told of a cut: it is found by its name and deleted ----> deleting
 *      |  the plugin has cut: the source may change again                                            |
 *   processing --- the plugin gives up: what it made is deleted ---> failed (a note for the user)     |
 *      |  the same Create… repeated until ready_to_use                                               |
 *   ready --------------------------------- Delete… repeated until it succeeds ----------------> deleting ---> (none)
 *
 * A cut whose outcome nobody saw is never kept: it may have come later than its caller believes (CSI CreateSnapshot).
 * Nothing here calls anything.
 */
import { randomBytes } from 'node:crypto';
import * as z from 'zod';
import { invalid, RuntimeError } from '../errors.ts';
import { type StringMap, stringMap } from '../string-map.ts';
import { checkMap, LIMITS } from './protocol.ts';
import { VOLUME_NAME } from './volume-request.ts';

export const CUT_STATES = ['cutting', 'processing', 'ready', 'deleting', 'failed'] as const;

/** Where a snapshot stands. */
export type CutState = (typeof CUT_STATES)[number];

/** Why the last step failed. */
export interface CutFailure {
  readonly message: string;
  readonly code: string;
  readonly failedAt: string;
}

/** The durable facts that snapshots and group snapshots share. */
export interface CutRecord {
  /** Berth's name: unique among all snapshots of this machine. */
  readonly name: string;
  /** Name of the CSI plugin. */
  readonly driver: string;
  /** The name the plugin is given, made once: repeating the call can never cut twice. */
  readonly csiName: string;
  /** Handed to the plugin as they are. */
  readonly parameters: StringMap;
  readonly state: CutState;
  readonly requestedAt: string;
  /** When the plugin has cut, by its own clock; absent when it does not say. */
  readonly cutAt?: string | undefined;
  readonly failure?: CutFailure | undefined;
  /** Why what was cut is deleted, though nobody asked for that: the reason stays to be read when it is gone. */
  readonly givenUp?: CutFailure | undefined;
}

export const instant: z.ZodISODateTime = z.iso.datetime();

const failure: z.ZodType<CutFailure> = z.object({ message: z.string(), code: z.string(), failedAt: instant });

/** The shared part of a record's schema. */
export const cutShape: {
  readonly name: z.ZodString;
  readonly driver: z.ZodString;
  readonly csiName: z.ZodString;
  readonly parameters: z.ZodType<StringMap>;
  readonly state: z.ZodType<CutState>;
  readonly requestedAt: z.ZodISODateTime;
  readonly cutAt: z.ZodOptional<z.ZodISODateTime>;
  readonly failure: z.ZodOptional<z.ZodType<CutFailure>>;
  readonly givenUp: z.ZodOptional<z.ZodType<CutFailure>>;
} = {
  name: z.string().regex(VOLUME_NAME),
  driver: z.string().max(LIMITS.pluginName),
  csiName: z.string().max(LIMITS.string),
  parameters: stringMap,
  state: z.enum(CUT_STATES),
  requestedAt: instant,
  cutAt: instant.optional(),
  failure: failure.optional(),
  givenUp: failure.optional(),
};

/** A name for the plugin that no other snapshot ever had. */
export function newCsiName(name: string): string {
  return `${name.slice(0, 48)}-${randomBytes(6).toString('hex')}`;
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the field */
export function checkSnapshotName(field: string, name: string): string {
  if (VOLUME_NAME.test(name)) return name;
  throw invalid(field, `${JSON.stringify(name.slice(0, 80))} must match ${VOLUME_NAME.source}`);
}

/** @throws {RuntimeError} INVALID_ARGUMENT when a key is empty or the map is too long */
export function checkParameters(parameters: StringMap): StringMap {
  if (Object.keys(parameters).includes('')) throw invalid('parameters', 'a key is empty');
  return checkMap('parameters', parameters);
}

/** The instant of a message of the wire. @throws {RuntimeError} INVALID_ARGUMENT when it is none */
export function instantOf(
  field: string,
  time: { readonly seconds: string | number | object; readonly nanos: number } | null,
): string | undefined {
  if (time === null) return undefined;
  const at = new Date(Number(time.seconds) * 1000 + Math.trunc(time.nanos / 1e6));
  if (Number.isNaN(at.getTime())) throw invalid(field, 'is no instant');
  return at.toISOString();
}

/** The refusal of work on a snapshot that is on its way to its end. */
export function busyCut(kind: string, { name, state, failure }: CutRecord): RuntimeError {
  const why = failure === undefined ? '' : `; ${failure.message}`;
  return new RuntimeError('FAILED_PRECONDITION', `${kind} ${name} is ${state}${why}`);
}
