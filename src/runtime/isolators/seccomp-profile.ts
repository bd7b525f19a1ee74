/**
 * Seccomp profiles in docker's format, and what they come to for one container: an OCI `linux.seccomp` object (OCI
 * runtime spec 1.0.2, config-linux.md "Seccomp"). Conditions on capabilities, architecture and kernel are decided here,
 * since the OCI format has none. A profile in the OCI format passes too.
 */
import { release } from 'node:os';
import * as z from 'zod';

const ACTIONS = [
  'SCMP_ACT_KILL',
  'SCMP_ACT_KILL_PROCESS',
  'SCMP_ACT_KILL_THREAD',
  'SCMP_ACT_TRAP',
  'SCMP_ACT_ERRNO',
  'SCMP_ACT_TRACE',
  'SCMP_ACT_ALLOW',
  'SCMP_ACT_LOG',
] as const;

const OPERATORS = [
  'SCMP_CMP_NE',
  'SCMP_CMP_LT',
  'SCMP_CMP_LE',
  'SCMP_CMP_EQ',
  'SCMP_CMP_GE',
  'SCMP_CMP_GT',
  'SCMP_CMP_MASKED_EQ',
] as const;

const conditionSchema = z.object({
  caps: z.array(z.string()).optional(),
  arches: z.array(z.string()).optional(),
  minKernel: z
    .string()
    .regex(/^\d+\.\d+$/)
    .optional(),
});

const ruleSchema = z
  .object({
    name: z.string().min(1).optional(),
    names: z.array(z.string().min(1)).nullish(),
    action: z.enum(ACTIONS),
    errnoRet: z.int().nonnegative().optional(),
    args: z
      .array(
        z.object({
          index: z.int().min(0).max(5),
          value: z.int().nonnegative(),
          valueTwo: z.int().nonnegative().optional(),
          op: z.enum(OPERATORS),
        }),
      )
      .nullish(),
    includes: conditionSchema.optional(),
    excludes: conditionSchema.optional(),
  })
  .transform(({ name, names, args, ...rest }): SeccompRule => {
    const list = [...(names ?? []), ...(name === undefined ? [] : [name])];
    return { ...rest, names: list, ...(args === null || args === undefined ? {} : { args }) };
  })
  .refine((rule) => rule.names.length > 0, 'a rule names no system call');

const profileSchema = z.object({
  defaultAction: z.enum(ACTIONS),
  defaultErrnoRet: z.int().nonnegative().optional(),
  architectures: z.array(z.string().startsWith('SCMP_ARCH_')).optional(),
  archMap: z
    .array(
      z.object({
        architecture: z.string().startsWith('SCMP_ARCH_'),
        subArchitectures: z.array(z.string().startsWith('SCMP_ARCH_')).nullish(),
      }),
    )
    .optional(),
  flags: z.array(z.string()).optional(),
  syscalls: z.array(ruleSchema),
});

/** When a rule applies; every field given must hold. */
export interface SeccompCondition {
  readonly caps?: readonly string[] | undefined;
  /** Go's architecture names, as docker has them: "amd64", "arm64". */
  readonly arches?: readonly string[] | undefined;
  /** "4.8" */
  readonly minKernel?: string | undefined;
}

/** One entry of a profile. */
export interface SeccompRule {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number | undefined;
  readonly args?:
    | readonly {
        readonly index: number;
        readonly value: number;
        readonly valueTwo?: number | undefined;
        readonly op: string;
      }[]
    | undefined;
  readonly includes?: SeccompCondition | undefined;
  readonly excludes?: SeccompCondition | undefined;
}

/** A profile in docker's format. */
export interface SeccompProfile {
  readonly defaultAction: string;
  readonly defaultErrnoRet?: number | undefined;
  readonly architectures?: readonly string[] | undefined;
  readonly archMap?:
    | readonly { readonly architecture: string; readonly subArchitectures?: readonly string[] | null | undefined }[]
    | undefined;
  readonly flags?: readonly string[] | undefined;
  readonly syscalls: readonly SeccompRule[];
}

/** What a profile is resolved for. */
export interface SeccompTarget {
  /** Full names: "CAP_SYS_ADMIN". */
  readonly capabilities: readonly string[];
  /** Node's name; this machine's unless given. */
  readonly arch?: string;
  /** This machine's unless given. */
  readonly kernelRelease?: string;
}

const ARCHITECTURES: Readonly<Record<string, { readonly go: string; readonly scmp: string }>> = {
  x64: { go: 'amd64', scmp: 'SCMP_ARCH_X86_64' },
  arm64: { go: 'arm64', scmp: 'SCMP_ARCH_AARCH64' },
};

/** Reads the JSON of a profile. @throws {ZodError | SyntaxError} when it is not one */
export function parseSeccompProfile(json: string): SeccompProfile {
  return profileSchema.parse(JSON.parse(json));
}

/** The OCI `linux.seccomp` object of a profile for one container. Pure but for the target's defaults. */
export function resolveSeccompProfile(profile: SeccompProfile, target: SeccompTarget): Record<string, unknown> {
  const arch = ARCHITECTURES[target.arch ?? process.arch];
  const mapped = profile.archMap?.find((entry) => entry.architecture === arch?.scmp);
  const fromMap = mapped === undefined ? undefined : [mapped.architecture, ...(mapped.subArchitectures ?? [])];
  const architectures = profile.architectures ?? fromMap;
  const facts: Facts = {
    caps: new Set(target.capabilities),
    arch: arch?.go ?? target.arch ?? process.arch,
    kernel: version(target.kernelRelease ?? release()),
  };
  const rules = profile.syscalls.filter((rule) => applies(rule, facts));
  return {
    defaultAction: profile.defaultAction,
    ...(profile.defaultErrnoRet === undefined ? {} : { defaultErrnoRet: profile.defaultErrnoRet }),
    ...(architectures === undefined ? {} : { architectures }),
    ...(profile.flags === undefined ? {} : { flags: profile.flags }),
    syscalls: rules.map(({ names, action, errnoRet, args }) => ({
      names,
      action,
      ...(errnoRet === undefined ? {} : { errnoRet }),
      ...(args === undefined ? {} : { args }),
    })),
  };
}

interface Facts {
  readonly caps: ReadonlySet<string>;
  readonly arch: string;
  readonly kernel: readonly [number, number];
}

function applies({ includes, excludes }: SeccompRule, facts: Facts): boolean {
  if (includes?.arches !== undefined && includes.arches.length > 0 && !includes.arches.includes(facts.arch)) {
    return false;
  }
  if (includes?.caps?.some((name) => !facts.caps.has(name)) === true) return false;
  if (includes?.minKernel !== undefined && !isAtLeast(facts.kernel, includes.minKernel)) return false;
  if (excludes?.arches?.includes(facts.arch) === true) return false;
  if (excludes?.caps?.some((name) => facts.caps.has(name)) === true) return false;
  return excludes?.minKernel === undefined || !isAtLeast(facts.kernel, excludes.minKernel);
}

function version(text: string): readonly [number, number] {
  const parts = /^(\d+)\.(\d+)/.exec(text);
  return [Number(parts?.[1] ?? 0), Number(parts?.[2] ?? 0)];
}

function isAtLeast([major, minor]: readonly [number, number], wanted: string): boolean {
  const [wantedMajor, wantedMinor] = version(wanted);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}
