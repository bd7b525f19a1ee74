/**
 * The plugins that run now, for operators: a plugin that hangs has a name, a container and a process. Kept in memory
 * only, since no run outlives the daemon's interest in it.
 */
import type { ExecPlugin, PluginCall } from './exec.ts';
import { type CniCommand, jsonObject } from './protocol.ts';

/** One execution of one plugin that has not ended. */
export interface PluginRun {
  readonly plugin: string;
  readonly command: CniCommand;
  /** Empty for VERSION, which belongs to no network. */
  readonly network: string;
  /** Empty for commands that belong to no attachment: GC, STATUS, VERSION. */
  readonly containerId: string;
  readonly interfaceName: string;
  /** "2026-01-02T03:04:05.678Z" */
  readonly startedAt: string;
  /** Leader of its process group; absent until it was started. */
  readonly pid?: number;
}

/** See the module's head. */
export class PluginRuns {
  readonly #runs = new Set<{ run: PluginRun }>();

  /** An {@link ExecPlugin} whose runs are listed here from before they start until they have ended. */
  watch(exec: ExecPlugin): ExecPlugin {
    return async (call, signal) => {
      const entry = { run: runOf(call) };
      const onStart = (pid: number): void => {
        entry.run = { ...entry.run, pid };
        call.onStart?.(pid);
      };
      this.#runs.add(entry);
      try {
        return await exec({ ...call, onStart }, signal);
      } finally {
        this.#runs.delete(entry);
      }
    };
  }

  /** Those of one network, or all, the longest running first. */
  list(network?: string): readonly PluginRun[] {
    const all = [...this.#runs].map(({ run }) => run);
    return network === undefined ? all : all.filter((run) => run.network === network);
  }
}

function runOf({ plugin, command, env, request }: PluginCall): PluginRun {
  const name = jsonObject.safeParse(request).data?.['name'];
  const attached = command !== 'VERSION';
  return {
    plugin,
    command,
    network: typeof name === 'string' ? name : '',
    containerId: env['CNI_CONTAINERID'] ?? '',
    interfaceName: attached ? (env['CNI_IFNAME'] ?? '') : '',
    startedAt: new Date().toISOString(),
  };
}
