/**
 * berthd: reads its settings, starts the daemon, and ends it on SIGTERM or SIGINT. Containers go on running; the next
 * start finds them. A second signal ends the process at once, and so does an error nobody caught: a start is a recovery
 * in any case.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Logger, pino } from 'pino';
import { readConfig } from './config.ts';
import { startDaemon } from './daemon.ts';
import { RuntimeError } from './errors.ts';
import { closeInheritedDescriptors } from './inherited-descriptors.ts';
import { PACKAGE_DIR } from './package-dir.ts';

const { version } = JSON.parse(readFileSync(join(PACKAGE_DIR, 'package.json'), 'utf8')) as {
  version: string;
};

/** Aborts at the first signal to end; the second one ends the process. */
function endOnSignal(log: Logger): AbortSignal {
  const controller = new AbortController();
  const end = (name: NodeJS.Signals): void => {
    if (controller.signal.aborted) {
      log.warn({ signalName: name }, 'second signal, ending at once');
      process.exit(130);
    }
    log.info({ signalName: name }, 'shutting down, containers go on running');
    controller.abort(new RuntimeError('CANCELLED', 'berthd is shutting down'));
  };
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
  return controller.signal;
}

async function serve(log: Logger, config: ReturnType<typeof readConfig>): Promise<void> {
  const ending = endOnSignal(log);
  const daemon = await startDaemon(config, version, log, ending);
  await new Promise<void>((resolve) => {
    if (ending.aborted) resolve();
    else ending.addEventListener('abort', () => resolve(), { once: true });
  });
  await daemon.close();
  log.info('ended');
}

async function main(): Promise<void> {
  closeInheritedDescriptors();
  // What is made is root's alone unless a mode says otherwise.
  process.umask(0o022);
  const config = readConfig(process.argv.slice(2), version);
  const log = pino({ name: 'berthd', level: config.logLevel }, pino.destination({ dest: 2, sync: true }));
  try {
    await serve(log, config);
  } catch (error) {
    log.fatal({ err: error }, 'berthd cannot go on');
    process.exitCode = 1;
  }
  // Nothing is left to wait for; a plugin's connection must not keep the process.
  process.exit();
}

try {
  await main();
} catch (error) {
  if (!(error instanceof RuntimeError)) throw error;
  process.stderr.write(`berthd: ${error.message}\n`);
  process.exit(2);
}
