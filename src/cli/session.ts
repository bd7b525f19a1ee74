/** What every verb needs: the daemon, where to write, and how the program ends. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { type Command, Option } from 'commander';
import type { Daemon } from './daemon.ts';
import { Failure } from './failure.ts';
import { type Column, table } from './table.ts';

const DEFAULT_HOST = 'unix:///run/berth/berthd.sock';

export type Format = 'table' | 'json';

/** One run of the program. */
export class Session {
  readonly stdout: Writable;
  readonly stderr: Writable;
  readonly env: NodeJS.ProcessEnv;
  /** What the program ends with when nothing is thrown. */
  exitCode = 0;
  #daemon: Daemon | undefined;

  /** The version of this program, from the package it belongs to. */
  get version(): string {
    const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
    return typeof manifest === 'object' && manifest !== null && 'version' in manifest ? String(manifest.version) : '';
  }

  constructor(stdout: Writable, stderr: Writable, env: NodeJS.ProcessEnv) {
    this.stdout = stdout;
    this.stderr = stderr;
    this.env = env;
  }

  /** The daemon that the command line or BERTH_HOST names. */
  async daemon(command: Command): Promise<Daemon> {
    const { Daemon } = await import('./daemon.ts');
    this.#daemon = await Daemon.at(socketPathOf(hostOf(command, this.env)));
    return this.#daemon;
  }

  /** Writes to stdout; settles when the reader keeps up. */
  async print(text: string | Uint8Array): Promise<void> {
    await write(this.stdout, text);
  }

  async warn(text: string | Uint8Array): Promise<void> {
    await write(this.stderr, text);
  }

  /** A list as a table, or as a JSON array of what `json` makes of each row. */
  async printList<T>(
    format: Format,
    rows: readonly T[],
    shape: { readonly columns: readonly Column<T>[]; readonly json: (row: T) => unknown },
  ): Promise<void> {
    if (format === 'json') await this.printJson(rows.map(shape.json));
    else await this.print(table(shape.columns, rows));
  }

  async printJson(value: unknown): Promise<void> {
    await this.print(`${JSON.stringify(value, null, 2)}\n`);
  }

  /** Does the same to several objects at once. Each failure is shown and none stops the others. */
  async forEach(refs: readonly string[], act: (ref: string) => Promise<string>): Promise<void> {
    const results = await Promise.allSettled(refs.map(act));
    const failures: unknown[] = [];
    for (const result of results) {
      if (result.status === 'rejected') failures.push(result.reason);
      else await this.print(result.value);
    }
    for (const failure of failures) {
      if (!(failure instanceof Failure)) throw failure;
      await this.warn(`berth: ${failure.message}\n`);
    }
    if (failures.length > 0) this.exitCode = 1;
  }

  close(): void {
    this.#daemon?.close();
  }
}

/** The option of every list. */
export function formatOption(): Option {
  return new Option('--format <format>', 'how to print').choices(['table', 'json']).default('table');
}

/** The option of what is never shown as a table: a format that it has not is refused, not passed over. */
export function jsonOption(): Option {
  return new Option('--format <format>', 'how to print').choices(['json']).default('json');
}

/** An option that may be repeated: a list, absent when it was not given. */
export function listOption(flags: string, text: string): Option {
  const append = (value: string, before: readonly string[] | undefined): readonly string[] => [
    ...(before ?? []),
    value,
  ];
  return new Option(flags, text).argParser(append);
}

/** `--host` works before and after the verb. */
export function hostOption(): Option {
  return new Option('--host <address>', `where berthd listens (default: BERTH_HOST, or ${DEFAULT_HOST})`);
}

function hostOf(command: Command, env: NodeJS.ProcessEnv): string {
  for (let at: Command | null = command; at !== null; at = at.parent) {
    const host: unknown = at.getOptionValue('host');
    if (typeof host === 'string') return host;
  }
  const host = env['BERTH_HOST'];
  return host === undefined || host === '' ? DEFAULT_HOST : host;
}

function socketPathOf(host: string): string {
  const path = /^unix:(?:\/\/)?(\/.+)$/.exec(host)?.[1];
  if (path === undefined) throw new Failure(`--host: ${JSON.stringify(host)} must be unix:///path/of/socket`);
  return path;
}

async function write(stream: Writable, text: string | Uint8Array): Promise<void> {
  if (!stream.write(text)) await once(stream, 'drain');
}
