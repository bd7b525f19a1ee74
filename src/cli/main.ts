/**
 * The entry of `berth`. Compiled code is kept in the package's own directory, where nobody but its owner can put
 * anything; where that cannot be written, every start compiles again.
 */
import { enableCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';

enableCompileCache(fileURLToPath(new URL('../../node_modules/.cache/berth', import.meta.url)));
const [{ runProgram }, { Session }, { EXIT_BROKEN_PIPE }] = await Promise.all([
  import('./program.ts'),
  import('./session.ts'),
  import('./failure.ts'),
]);

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT_BROKEN_PIPE);
    throw error;
  });
}
process.exitCode = await runProgram(process.argv.slice(2), new Session(process.stdout, process.stderr, process.env));
