/** How a plugin that Berth runs is, for lists: pure functions of its record and of the registry's row. */
import type { PluginSummary } from './plugin-summary.ts';
import type { Supervision } from './plugin-supervision.ts';
import type { SupervisedPlugin } from './supervised-plugin.ts';
import type { PluginEnd } from './supervised-record.ts';

/** How a plugin that Berth runs is. */
export interface SupervisionStatus {
  /** The drop-in file without ".toml". */
  readonly name: string;
  readonly kind: Supervision['kind'];
  readonly state: SupervisedPlugin['state'];
  readonly pid?: number;
  readonly startedAt?: string;
  /** Starts after an end nobody asked for. */
  readonly restarts: number;
  readonly lastEnd?: PluginEnd;
  readonly nextStartAt?: string;
  /** Why it is still there although its file is gone. */
  readonly kept?: string;
}

/** A plugin as lists show it, with how Berth runs it where it does. */
export interface PluginView extends PluginSummary {
  /** Of several processes, the one that needs a look most. */
  readonly supervision?: SupervisionStatus;
  /** All that Berth runs of it, by name; one, unless its parts are started by files of their own. */
  readonly processes: readonly SupervisionStatus[];
}

/**
 * The registry's row with what is known of the processes or containers.
 * @param kept why plugins are kept that should go, by the names of their files
 */
export function viewOf(
  summary: PluginSummary,
  plugins: readonly SupervisedPlugin[],
  kept: ReadonlyMap<string, string>,
): PluginView {
  const processes = plugins
    .map((plugin) => statusOf(plugin, kept.get(plugin.record.name)))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  const supervision =
    processes.find(({ state }) => state !== 'running') ??
    processes.find((one) => one.kept !== undefined) ??
    processes[0];
  if (supervision === undefined) return { ...summary, processes };
  const reason = reasonOf(summary, supervision);
  return { ...summary, ...(reason === undefined ? {} : { reason }), supervision, processes };
}

function statusOf(plugin: SupervisedPlugin, kept: string | undefined): SupervisionStatus {
  const { name, supervision, run, restarts, lastEnd, nextStartAt } = plugin.record;
  const pid = run?.process?.pid;
  return {
    name,
    kind: supervision.kind,
    state: plugin.state,
    ...(pid === undefined ? {} : { pid }),
    ...(run === undefined ? {} : { startedAt: run.startedAt }),
    restarts,
    ...(lastEnd === undefined ? {} : { lastEnd }),
    ...(nextStartAt === undefined ? {} : { nextStartAt }),
    ...(kept === undefined ? {} : { kept }),
  };
}

/** What is worth more than that the socket does not answer: why nobody is there. */
function reasonOf({ state, reason }: PluginSummary, status: SupervisionStatus): string | undefined {
  const { kept, lastEnd, nextStartAt, restarts, name } = status;
  if (status.state === 'waiting' && lastEnd !== undefined) {
    const due = nextStartAt === undefined ? '' : `, next start at ${nextStartAt}`;
    return `${lastEnd.reason} (restarts: ${restarts}${due}); see berth csi logs ${name}`;
  }
  if (kept !== undefined) return kept;
  if (state === 'ready' || state === 'invalid' || lastEnd === undefined) return reason;
  return `${reason ?? 'not ready'}; before, ${lastEnd.reason}`;
}
