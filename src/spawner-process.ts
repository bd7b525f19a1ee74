/**
 * The process behind spawner.ts: runs and starts the programs it is asked to, and ends with the channel. It imports next
 * to nothing, so that it stays small.
 */
import { spawnByNode } from './child.ts';
import { posixSpawner } from './posix-spawn.ts';
import { type Program, runProgram } from './run-program.ts';
import type { SpawnerAnswer, SpawnerRequest } from './spawner.ts';
import { startProgram } from './start-program.ts';

const running = new Map<number, AbortController>();
/** Requests wait for it: they are taken from the channel once the listener below is there. */
const spawnChild = await posixSpawner().catch(() => spawnByNode);

process.on('message', (request: SpawnerRequest) => {
  if (request.kind === 'run') void run(request);
  else if (request.kind === 'start') void start(request.id, request.program);
  else running.get(request.id)?.abort();
});
// Programs under way are their own masters: the next daemon deals with what they did.
process.on('disconnect', () => process.exit(0));
// The terminal's signals are for the daemon, which decides when this process goes.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => undefined);

async function run({ id, program, tellPid }: Extract<SpawnerRequest, { kind: 'run' }>): Promise<void> {
  const controller = new AbortController();
  running.set(id, controller);
  const onStart = (pid: number): void => answer({ kind: 'pid', id, pid });
  const end = await runProgram(tellPid ? { ...program, onStart } : program, controller.signal, spawnChild);
  running.delete(id);
  answer({ kind: 'end', id, end });
}

async function start(id: number, program: Omit<Program, 'input'>): Promise<void> {
  const started = startProgram(program, spawnChild);
  answer({ kind: 'pid', id, pid: await started.pid });
  const text = await started.report;
  // Where it complains before it reports nothing, the complaints must come first.
  if (text === '') answer({ kind: 'complaints', id, text: await started.complaints });
  answer({ kind: 'report', id, text });
  await started.ended;
  answer({ kind: 'ended', id });
}

function answer(message: SpawnerAnswer): void {
  if (process.connected) process.send?.(message);
}
