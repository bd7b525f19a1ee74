/**
 * Calls for volumes: finds the plugin afresh for each attempt, since it may have come back on another connection, repeats
 * what CSI lets be repeated, and adds secrets at the last moment.
 */
import type { Logger } from 'pino';
import { isDownward, isRepeatable } from './error-reactions.ts';
import type { Plugin } from './plugin.ts';
import type { PluginRegistry } from './plugin-registry.ts';
import { CsiError, type Request, type Response, type Rpc, type StringMap } from './protocol.ts';
import { withRetries } from './retry.ts';
import type { VolumeRecord } from './volume.ts';

/** The secrets for a call of a plugin, asked for just before the call and never kept. */
export type SecretSource = (driver: string, rpc: Rpc) => StringMap;

/** How long things may take; the deadlines of single calls are the client's. */
export interface VolumeDeadlines {
  /** Longest wait for a plugin that is not there; 10,000 unless given. */
  readonly pluginMs?: number | undefined;
  /** Longest time one call is repeated for; 30,000 unless given. */
  readonly retryForMs?: number | undefined;
}

export interface PluginCallerOptions {
  readonly registry: PluginRegistry;
  readonly log: Logger;
  readonly deadlines?: VolumeDeadlines | undefined;
  readonly secrets?: SecretSource | undefined;
}

/** Going down is tried again later anyway: an absent plugin must not hold up a start of the daemon for long. */
const DOWNWARD_PLUGIN_MS = 2000;

export class PluginCaller {
  readonly #options: PluginCallerOptions;

  constructor(options: PluginCallerOptions) {
    this.#options = options;
  }

  /** Waits for a plugin. @throws {RuntimeError} UNAVAILABLE with advice */
  async plugin(driver: string, signal: AbortSignal, longestMs: number = Number.POSITIVE_INFINITY): Promise<Plugin> {
    const patienceMs = Math.min(longestMs, this.#options.deadlines?.pluginMs ?? 10_000);
    return this.#options.registry.waitFor(driver, AbortSignal.any([signal, AbortSignal.timeout(patienceMs)]));
  }

  /** One call for a volume, repeated while that is lawful and time is left. @throws {RuntimeError} the last failure */
  async call<R extends Rpc>(
    { name, driver }: VolumeRecord,
    rpc: R,
    request: Request<R>,
    signal: AbortSignal,
  ): Promise<Response<R>> {
    const { log, deadlines } = this.#options;
    const patienceMs = isDownward(rpc) ? DOWNWARD_PLUGIN_MS : Number.POSITIVE_INFINITY;
    return withRetries(
      async () => (await this.plugin(driver, signal, patienceMs)).call(rpc, request, signal),
      {
        budgetMs: deadlines?.retryForMs ?? 30_000,
        repeatable: (error) => error instanceof CsiError && isRepeatable(error),
        onRetry: (err, pauseMs) => log.warn({ volume: name, rpc, err, pauseMs }, 'CSI call is repeated'),
      },
      signal,
    );
  }

  /** What goes into the `secrets` field of a call. */
  secrets({ driver }: VolumeRecord, rpc: Rpc): StringMap {
    return this.#options.secrets?.(driver, rpc) ?? {};
  }
}
