/** How a plugin that Berth runs is, as `csi ls` and `csi inspect` show it. */
import type { PluginSupervision__Output } from '../api/generated/berth/v1/PluginSupervision.ts';

/** Null when somebody else runs the plugin. */
export function supervisionObject(supervision: PluginSupervision__Output | null): Record<string, unknown> | null {
  if (supervision === null) return null;
  const { name, kind, state, pid, startedAt, restarts, lastEnd, nextStartAt, kept } = supervision;
  return {
    name,
    kind,
    state,
    pid: pid === undefined ? null : Number(pid),
    startedAt: startedAt ?? null,
    restarts: Number(restarts),
    lastEnd:
      lastEnd === null
        ? null
        : {
            at: lastEnd.at,
            exitCode: lastEnd.exitCode ?? null,
            signal: lastEnd.signal ?? null,
            reason: lastEnd.reason,
          },
    nextStartAt: nextStartAt ?? null,
    kept: kept ?? null,
  };
}
