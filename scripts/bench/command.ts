/** Runs programs for the bench: as little as possible between the clock and the program. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { findProgram } from '../../test/support/needs.ts';

/** Options of {@link command}. */
export interface CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
}

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Runs a program to its end and returns its stdout. @throws with its stderr when it fails */
export async function command(file: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  const child = spawn(file, args, {
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    env: { PATH, ...options.env },
  });
  child.stdin?.end(options.input);
  const [stdout, stderr, [code, signal]] = await Promise.all([
    output(child.stdout),
    output(child.stderr),
    once(child, 'close'),
  ]);
  if (code === 0) return stdout;
  throw new Error(`${file} ${args.join(' ')} ended with ${code ?? signal}: ${stderr.trim() || stdout.trim()}`);
}

function output(stream: ChildProcess['stdout']): Promise<string> {
  return stream === null ? Promise.resolve('') : text(stream);
}

/** First line of what a program says about itself; undefined when it is not installed. */
export async function versionOf(program: string): Promise<string | undefined> {
  const path = findProgram(program);
  if (path === undefined) return undefined;
  return (await command(path, ['--version'])).split('\n')[0];
}
