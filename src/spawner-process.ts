/**
 * The process behind spawner.ts: runs the programs it is asked to run, and ends with the channel. It imports next to
 * nothing, so that it stays small.
 */
import { runProgram } from './run-program.ts';
import type { SpawnerAnswer, SpawnerRequest } from './spawner.ts';

const running = new Map<number, AbortController>();

process.on('message', (request: SpawnerRequest) => {
  if (request.kind === 'abort') {
    running.get(request.id)?.abort();
    return;
  }
  const { id, program } = request;
  const controller = new AbortController();
  running.set(id, controller);
  void runProgram(program, controller.signal).then((end) => {
    running.delete(id);
    const answer: SpawnerAnswer = { id, end };
    if (process.connected) process.send?.(answer);
  });
});
// Programs under way are their own masters: the next daemon deals with what they did.
process.on('disconnect', () => process.exit(0));
// The terminal's signals are for the daemon, which decides when this process goes.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => undefined);
