/** A registry in a directory of its own, for tests of how plugins are met. */
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { pino } from 'pino';
import type { PluginRegistration } from '../../src/csi/plugin-registration.ts';
import { PluginRegistry, type PluginRegistryOptions, type PluginSummary } from '../../src/csi/plugin-registry.ts';
import { RuntimeError } from '../../src/errors.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { tempDir } from '../support/temp-dir.ts';

export const log: pino.Logger = pino({ level: 'silent' });
export const soon = (): AbortSignal => AbortSignal.timeout(10_000);

export interface Place {
  readonly dir: string;
  readonly registry: PluginRegistry;
}

export async function place(t: TestScope, options: Partial<PluginRegistryOptions> = {}): Promise<Place> {
  const dir = await tempDir(t);
  await mkdir(`${dir}/csi`);
  const registry = new PluginRegistry({ pluginDir: `${dir}/csi`, log, rescanMs: 200, ...options });
  cleanup(t, () => registry.close());
  return { dir, registry };
}

/** A registration as a file makes it. */
export function fileOf(path: string, change: Partial<PluginRegistration> = {}): PluginRegistration {
  return { key: `file:${path}`, source: 'file', origin: `${path}.toml`, sockets: [{ path }], ...change };
}

/** Settles with what `look` finds in the list of plugins, as soon as it finds something. */
export async function untilRow(
  registry: PluginRegistry,
  look: (row: PluginSummary) => boolean,
): Promise<PluginSummary> {
  const rows = await until(registry, () => registry.list().find(look));
  return rows;
}

/** Settles with what is no longer undefined or false. */
export async function until<T>(registry: PluginRegistry, look: () => T | undefined | false): Promise<T> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const found = look();
    if (found !== undefined && found !== false) return found;
    assert.ok(Date.now() < deadline, `never came to be: ${JSON.stringify(registry.list())}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export const hasCode =
  (code: string, text = /./) =>
  (error: unknown): boolean =>
    error instanceof RuntimeError && error.code === code && text.test(error.message);
