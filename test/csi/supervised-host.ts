/**
 * Drop-in files of plugins that a daemon of a test runs. When the test ends the files are removed, the daemon, started
 * again if need be, ends the plugins, and what then lives of them is killed.
 */
import assert from 'node:assert/strict';
import { globSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { identify, isAlive, type ProcessIdentity, signalProcess } from '../../src/process-identity.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import type { Daemon } from '../support/daemon.ts';
import { programFile } from '../support/program-file.ts';

/** The embedded driver's program. */
export const DRIVER_MAIN: string = programFile('csi/local/main');

/** How `csi inspect` shows a plugin that Berth runs. */
export interface Row {
  readonly name: string;
  readonly socket: string;
  readonly state: string;
  readonly reason: string;
  readonly nodeId: string | null;
  readonly registrations: readonly { readonly source: string; readonly origin: string }[];
  readonly supervision: {
    readonly name: string;
    readonly kind: string;
    readonly state: string;
    readonly pid: number | null;
    readonly restarts: number;
    readonly lastEnd: {
      readonly exitCode: number | null;
      readonly signal: string | null;
      readonly reason: string;
    } | null;
    readonly nextStartAt: string | null;
    readonly kept: string | null;
  } | null;
  readonly processes: readonly { readonly name: string; readonly pid: number | null }[];
  readonly sockets: readonly {
    readonly path: string;
    readonly role: string | null;
    readonly serves: readonly string[];
  }[];
}

export async function rows(daemon: Daemon): Promise<Row[]> {
  return JSON.parse(await daemon.ok(['csi', 'ls', '--format', 'json']));
}

/** The row of `csi ls` that looks like this, as soon as there is one. */
export async function untilRow(daemon: Daemon, look: (row: Row) => boolean, withinMs = 30_000): Promise<Row> {
  return until(
    async () => (await rows(daemon)).find(look),
    async () => JSON.stringify(await rows(daemon)),
    withinMs,
  );
}

export async function until<T>(
  look: () => T | undefined | false | Promise<T | undefined | false>,
  state: () => unknown = () => '',
  withinMs = 30_000,
): Promise<T> {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    assert.ok(Date.now() < deadline, `never came to be: ${String(await state())}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The embedded driver as the command of a drop-in file. */
export function driverCommand(daemon: Daemon): string {
  const words = [process.execPath, DRIVER_MAIN, `--data-dir=${daemon.root}/local.csi.berth`, '--node-id={node-id}'];
  return `command = ${JSON.stringify(words)}\n`;
}

/** Puts a file into the configuration directory. */
export function dropIn(t: TestScope, daemon: Daemon, name: string, text: string): { remove(): void } {
  const file = `${daemon.dir}/csi.d/${name}.toml`;
  cleanup(t, () => dismiss(daemon, name, file));
  writeFileSync(file, text);
  return { remove: () => rmSync(file) };
}

async function dismiss(daemon: Daemon, name: string, file: string): Promise<void> {
  rmSync(file, { force: true });
  const endpoint = `unix://${daemon.run}/plugins/${name}/csi.sock`;
  try {
    if (!daemon.alive) await daemon.start();
    await until(async () => (await rows(daemon)).every(({ supervision }) => supervision?.name !== name));
    assert.deepEqual(processesAt(endpoint), [], 'the plugin was not ended');
  } finally {
    for (const identity of processesAt(endpoint)) signalProcess(identity, 'SIGKILL');
  }
}

/** Processes that were told of this endpoint, by what the kernel says. */
export function processesAt(endpoint: string): ProcessIdentity[] {
  return globSync('/proc/[0-9]*').flatMap((dir) => {
    let environ: string;
    try {
      environ = readFileSync(`${dir}/environ`, 'utf8');
    } catch {
      return [];
    }
    if (!environ.split('\0').includes(`CSI_ENDPOINT=${endpoint}`)) return [];
    return identify(Number(dir.slice('/proc/'.length))) ?? [];
  });
}

export function identityOf({ supervision }: Row): ProcessIdentity {
  const identity = identify(supervision?.pid ?? 0);
  assert.ok(identity !== undefined, `no process: ${JSON.stringify(supervision)}`);
  return identity;
}

export { isAlive };
