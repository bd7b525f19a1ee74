/**
 * `berth` without a process of its own: its program, run in the process of the test. Most of what a command costs is
 * the start of Node.js, so a test that gives a hundred commands gives those here whose process is not its subject. What
 * a process adds (exit code, signals, output) is in test/cli and test/e2e/containers.integration.ts.
 */
import { PassThrough } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { programFile } from './program-file.ts';

type Program = typeof import('../../src/cli/program.ts');
type SessionModule = typeof import('../../src/cli/session.ts');

/** Runs a command line to its end. `env` is all it sees of an environment. */
export async function runBerth(
  args: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const [{ runProgram }, { Session }]: [Program, SessionModule] = await Promise.all([
    import(programFile('cli/program')),
    import(programFile('cli/session')),
  ]);
  const streams = [new PassThrough(), new PassThrough()] as const;
  const read = Promise.all(streams.map((stream) => buffer(stream)));
  const code = await runProgram(args, new Session(...streams, env));
  for (const stream of streams) stream.end();
  const [stdout = '', stderr = ''] = (await read).map(String);
  return { code, stdout, stderr };
}
