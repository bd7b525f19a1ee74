/**
 * Volume classes: what kinds of volumes there are, by names of the administrator's choice. A class is a file of the class
 * directory, `NAME.toml`; a volume takes from it what its request leaves out, and keeps that in its own record:
 *
 *   driver = "some.csi.example"               needed
 *   default = true                            for requests that name neither class nor driver nor source; one class only
 *   size = "10Gi"                             when the request says none
 *   access = "mount"                          or "block"
 *   access-modes = ["RWO", "RWX"]             those that may be asked for; the first when none is
 *   fs-type = "xfs"
 *   mount-flags = ["noatime"]
 *   group = 2000
 *   ownership = "root-mismatch"               or "never", "always"
 *   reclaim = "retain"                        or "delete"
 *   allowed-topologies = [{ "some.csi.example/zone" = "a" }]   where volumes may be, in the plugin's own labels
 *   secrets = "fast"                          CSI-CONF-DIR/secrets/fast.toml instead of the plugin's own
 *   [parameters]                              handed to the plugin as they are
 *   [mutable-parameters]                      the same, for parameters that can be changed later
 *
 * What the values mean is checked as in any request (volume-request.ts). Nothing here reads anything.
 */
import { parse } from 'smol-toml';
import * as z from 'zod';
import { invalid, RuntimeError } from '../errors.ts';
import { type StringMap, stringMap } from '../string-map.ts';
import { ACCESS_MODES, type AskedMode, accessModeOf, fitsMode } from './access-modes.ts';
import { checkMap, checkPluginName } from './protocol.ts';
import { OWNERSHIP_POLICIES, type OwnershipPolicy, RECLAIM_POLICIES, type ReclaimPolicy } from './volume.ts';
import { DEFAULT_DRIVER, type VolumeAccess, type VolumeWish, validateVolumeWish } from './volume-request.ts';

/** One class. */
export interface VolumeClass {
  readonly name: string;
  readonly file: string;
  readonly driver: string;
  readonly isDefault: boolean;
  readonly sizeBytes?: bigint | undefined;
  readonly access?: VolumeAccess | undefined;
  /** Empty: any. */
  readonly accessModes: readonly AskedMode[];
  readonly fsType?: string | undefined;
  /** They may be secret. */
  readonly mountFlags: readonly string[];
  readonly group?: number | undefined;
  readonly ownership?: OwnershipPolicy | undefined;
  readonly reclaim?: ReclaimPolicy | undefined;
  /** Name of a file of references, never a secret. */
  readonly secretsName?: string | undefined;
  /** Places in the plugin's labels, alternatives: this machine must be in one of them. Empty: anywhere. */
  readonly allowedTopologies: readonly StringMap[];
  readonly parameters: StringMap;
  readonly mutableParameters: StringMap;
}

/** Names of classes, and of files of secrets: nothing that leads out of a directory. */
export const CLASS_NAME: RegExp = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$/;

const SIZE = /^(\d{1,6})([KMGTP])i?$/;
const SIZE_UNITS = 'KMGTP';

const text: z.ZodOptional<z.ZodString> = z.string().optional();
const words: z.ZodOptional<z.ZodType<StringMap>> = stringMap.optional();

const classSchema = z.strictObject({
  driver: z.string(),
  default: z.boolean().optional(),
  size: text,
  access: z.enum(['mount', 'block']).optional(),
  'access-modes': z.array(z.string()).optional(),
  'fs-type': text,
  'mount-flags': z.array(z.string()).optional(),
  group: z.number().optional(),
  ownership: z.enum(OWNERSHIP_POLICIES).optional(),
  reclaim: z.enum(RECLAIM_POLICIES).optional(),
  secrets: text,
  'allowed-topologies': z.array(stringMap).optional(),
  parameters: words,
  'mutable-parameters': words,
});

/**
 * The meaning of a file's text.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the key
 */
export function parseVolumeClass(name: string, file: string, source: string): VolumeClass {
  if (!CLASS_NAME.test(name)) throw invalid('file', `its name less ".toml" must match ${CLASS_NAME.source}`);
  const parsed = classSchema.safeParse(tables(source));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const key = issue?.code === 'unrecognized_keys' ? issue.keys.join(', ') : issue?.path.join('.');
    throw invalid(key === undefined || key === '' ? 'file' : key, issue?.message ?? 'not understood');
  }
  const said = parsed.data;
  const made: VolumeClass = {
    name,
    file,
    driver: checkPluginName('driver', said.driver),
    isDefault: said.default ?? false,
    sizeBytes: said.size === undefined ? undefined : sizeOf(said.size),
    access: said.access,
    accessModes: (said['access-modes'] ?? []).map((word) => accessModeOf(word)),
    fsType: said['fs-type'],
    mountFlags: said['mount-flags'] ?? [],
    group: said.group,
    ownership: said.ownership,
    reclaim: said.reclaim,
    secretsName: said.secrets,
    allowedTopologies: (said['allowed-topologies'] ?? []).map((place) => ({ ...place })),
    parameters: said.parameters ?? {},
    mutableParameters: said['mutable-parameters'] ?? {},
  };
  if (said.secrets !== undefined && !CLASS_NAME.test(said.secrets)) {
    throw invalid('secrets', `must be the name of a file, less ".toml": ${CLASS_NAME.source}`);
  }
  for (const place of made.allowedTopologies) checkPlace(place);
  // Whatever no request may say no class may say either.
  validateVolumeWish(withClass({ name: 'volume', parameters: {} }, made));
  return made;
}

/** @throws {RuntimeError} INVALID_ARGUMENT */
function checkPlace(place: StringMap): void {
  checkMap('allowed-topologies', place);
  const entries = Object.entries(place);
  if (entries.length === 0) throw invalid('allowed-topologies', 'a place has at least one label');
  if (entries.some(([key, value]) => key === '' || value === '')) {
    throw invalid('allowed-topologies', 'a label has a key and a value');
  }
}

/** False for the text of a file, however wrong, that does not ask to be the default class. */
export function mayBeDefault(source: string | undefined): boolean {
  if (source === undefined) return true;
  const asking = z.object({ default: z.unknown().optional() });
  try {
    const { default: said = false } = asking.parse(parse(source));
    return said !== false;
  } catch {
    // What is no TOML may say anything.
    return true;
  }
}

function tables(source: string): unknown {
  try {
    return parse(source);
  } catch (error) {
    const [line = 'not TOML'] = (error instanceof Error ? error.message : String(error)).split('\n');
    throw new RuntimeError('INVALID_ARGUMENT', `file: ${line}`, { cause: error });
  }
}

/** Bytes of "64Mi", "10G": powers of 1024, as on the command line. */
function sizeOf(written: string): bigint {
  const [, digits = '0', unit = ''] = SIZE.exec(written) ?? [];
  const bytes = BigInt(digits) * 1024n ** BigInt(SIZE_UNITS.indexOf(unit) + 1);
  if (unit !== '' && bytes > 0n) return bytes;
  throw invalid('size', `${JSON.stringify(written.slice(0, 40))} is no size: say 64Mi or 10Gi`);
}

/**
 * A request with what its class says where it says nothing. Parameters add up, and those of the request win.
 * @throws {RuntimeError} INVALID_ARGUMENT when request and class do not fit
 */
export function withClass(wish: VolumeWish, volumeClass: VolumeClass): VolumeWish {
  const { name, driver } = volumeClass;
  if (wish.driver !== undefined && wish.driver !== driver) {
    throw invalid('driver', `class ${name} is one of ${driver}, not of ${wish.driver}`);
  }
  const access = wish.access ?? volumeClass.access;
  return {
    ...wish,
    driver,
    volumeClass: name,
    ...(access === undefined ? {} : { access }),
    capacityBytes: wish.capacityBytes ?? (wish.source === undefined ? volumeClass.sizeBytes : undefined),
    accessMode: modeOf(wish.accessMode, volumeClass),
    ownership: wish.ownership ?? volumeClass.ownership,
    reclaim: wish.reclaim ?? volumeClass.reclaim,
    secretsName: volumeClass.secretsName,
    ...(volumeClass.allowedTopologies.length === 0 ? {} : { allowedTopologies: volumeClass.allowedTopologies }),
    parameters: { ...volumeClass.parameters, ...wish.parameters },
    mutableParameters: { ...volumeClass.mutableParameters, ...wish.mutableParameters },
    // Of a class for both kinds, a raw device takes only what it can have.
    ...(wish.access === 'block' && volumeClass.access === undefined ? {} : fileSystem(wish, volumeClass)),
  };
}

/** RWO leaves open which mode it is. */
function modeOf(asked: AskedMode | undefined, { name, accessModes }: VolumeClass): AskedMode | undefined {
  if (asked === undefined || accessModes.length === 0) return asked ?? accessModes[0];
  if (accessModes.includes(asked)) return asked;
  if (asked !== 'RWO' && accessModes.includes('RWO') && fitsMode(asked, 'RWO')) return asked;
  const fitting = accessModes.find((mode) => mode !== 'RWO' && asked === 'RWO' && fitsMode(mode, asked));
  if (fitting !== undefined) return fitting;
  throw invalid('access_mode', `${modeWord(asked)} is none of class ${name}: ${accessModes.map(modeWord).join(', ')}`);
}

/** A mode as users write it. */
export function modeWord(mode: AskedMode): string {
  return mode === 'RWO' ? mode : ACCESS_MODES[mode].word;
}

function fileSystem(
  wish: VolumeWish,
  { fsType, mountFlags, group }: VolumeClass,
): Pick<VolumeWish, 'fsType' | 'mountFlags' | 'group'> {
  return {
    fsType: wish.fsType ?? fsType,
    mountFlags: wish.mountFlags ?? mountFlags,
    group: wish.group ?? group,
  };
}

/** True when a request leaves it to the default class. */
export function asksForDefault({ volumeClass, driver, source }: VolumeWish): boolean {
  return volumeClass === undefined && driver === undefined && source === undefined;
}

/** A request for which no class is meant. */
export function withoutClass(wish: VolumeWish): VolumeWish {
  return asksForDefault(wish) ? { ...wish, driver: DEFAULT_DRIVER } : wish;
}
