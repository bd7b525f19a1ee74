/** Recording plugins: what each run was given, byte for byte, and what it answers. See recording-plugin.sh. */
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestScope } from './cleanup.ts';
import { tempDir } from './temp-dir.ts';

const SCRIPT = join(import.meta.dirname, 'recording-plugin.sh');

/** One run of one plugin. */
export interface RecordedRun {
  readonly plugin: string;
  readonly command: string;
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: string;
}

/** A directory of recording plugins. */
export class RecordingPlugins {
  readonly base: string;

  constructor(base: string) {
    this.base = base;
    for (const name of ['bin', 'runs', 'does']) mkdirSync(join(base, name));
    // Whatever umask the test has: a plugin lies where nobody else can write.
    chmodSync(this.binDir, 0o755);
  }

  static async create(t: TestScope, ...names: readonly string[]): Promise<RecordingPlugins> {
    const plugins = new RecordingPlugins(await tempDir(t));
    for (const name of names) plugins.install(name);
    return plugins;
  }

  get binDir(): string {
    return join(this.base, 'bin');
  }

  install(name: string): void {
    copyFileSync(SCRIPT, join(this.binDir, name));
    chmodSync(join(this.binDir, name), 0o755);
  }

  uninstall(name: string): void {
    rmSync(join(this.binDir, name));
  }

  /** From now on `name` runs this piece of shell for `command`; the default again when undefined. */
  does(name: string, command: string, shell: string | undefined): void {
    const file = join(this.base, 'does', `${name}.${command}`);
    if (shell === undefined) rmSync(file, { force: true });
    else writeFileSync(file, shell);
  }

  /** `name` answers `command` with this value. */
  answers(name: string, command: string, value: unknown, exitCode = 0): void {
    const file = join(this.base, `${name}.${command}.json`);
    writeFileSync(file, JSON.stringify(value));
    this.does(name, command, `cat '${file}'\nexit ${exitCode}\n`);
  }

  /** All runs so far, in order of start. */
  runs(): readonly RecordedRun[] {
    return readdirSync(join(this.base, 'runs'))
      .sort()
      .map((number) => {
        const read = (name: string) => readFileSync(join(this.base, 'runs', number, name), 'utf8');
        const lines = read('env').trimEnd().split('\n');
        const env = Object.fromEntries(
          lines.map((line) => [line.split('=', 1)[0] ?? '', line.slice(line.indexOf('=') + 1)]),
        );
        return { plugin: read('name'), command: env['CNI_COMMAND'] ?? '', env, stdin: read('stdin') };
      });
  }

  /** "bridge ADD" for each run so far, in order of start. */
  calls(): readonly string[] {
    return this.runs().map(({ plugin, command }) => `${plugin} ${command}`);
  }
}
