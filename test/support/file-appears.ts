/** Files that another process makes: waited for by the kernel's notice, not by pauses. */
import { existsSync, watch } from 'node:fs';
import { dirname } from 'node:path';

const TIMEOUT_MS = 10_000;

/**
 * Calls `start` and settles when there is a file of this path. Whoever makes it does so by rename, so that it is whole.
 * @throws when it does not appear within ten seconds
 */
export async function fileAppears(path: string, start: () => void): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const look = (): void => {
    if (existsSync(path)) resolve();
  };
  // The watch is there before anybody begins: a name that comes at once is seen as well.
  const watcher = watch(dirname(path), look);
  const timer = setTimeout(() => reject(new Error(`${path} did not appear`)), TIMEOUT_MS);
  try {
    start();
    look();
    await promise;
  } finally {
    clearTimeout(timer);
    watcher.close();
  }
}
