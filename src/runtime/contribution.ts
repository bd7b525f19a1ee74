/**
 * Many contributions become one, in list order: lists are concatenated, environments too (later entries win when the
 * process starts), single values of later isolators replace earlier ones, namespaces are replaced by type.
 */
import type { Contribution, ProcessContribution } from './isolator.ts';

/** The whole of what the isolators want of one process. Pure. */
export function mergeContributions(list: readonly Contribution[]): Contribution {
  return list.reduce<Contribution>(merge, {});
}

function merge(base: Contribution, next: Contribution): Contribution {
  const process = mergeProcess(base.process, next.process);
  return {
    ...base,
    ...next,
    ...(process === undefined ? {} : { process }),
    mounts: [...(base.mounts ?? []), ...(next.mounts ?? [])],
    devices: [...(base.devices ?? []), ...(next.devices ?? [])],
    namespaces: mergeNamespaces(base.namespaces, next.namespaces),
    resources: { ...base.resources, ...next.resources },
    rlimits: [...(base.rlimits ?? []), ...(next.rlimits ?? [])],
    sysctl: { ...base.sysctl, ...next.sysctl },
    maskedPaths: [...(base.maskedPaths ?? []), ...(next.maskedPaths ?? [])],
    readonlyPaths: [...(base.readonlyPaths ?? []), ...(next.readonlyPaths ?? [])],
  };
}

function mergeProcess(
  base: ProcessContribution | undefined,
  next: ProcessContribution | undefined,
): ProcessContribution | undefined {
  if (base === undefined || next === undefined) return next ?? base;
  return { ...base, ...next, env: [...(base.env ?? []), ...(next.env ?? [])] };
}

type Namespaces = NonNullable<Contribution['namespaces']>;

function mergeNamespaces(base: Namespaces = [], next: Namespaces = []): Namespaces {
  const replaced = new Set(next.map((namespace) => namespace.type));
  return [...base.filter((namespace) => !replaced.has(namespace.type)), ...next];
}
