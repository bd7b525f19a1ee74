/**
 * Which versions of the specification the plugins of this host speak: each is asked once (VERSION), and again when its
 * file is another one. A plugin that does not tell is nobody's to judge: it may speak any. One that takes its time is
 * left to it: nobody waits longer than a moment, and its answer counts from when it is there.
 */
import { statSync } from 'node:fs';
import type { Logger } from 'pino';
import { RETRYABLE, RuntimeError } from '../errors.ts';
import type { PluginPath } from './plugin-path.ts';

/** Options of {@link PluginVersions}. */
export interface PluginVersionsOptions {
  readonly plugins: PluginPath;
  /** Runs VERSION; bounded in time. */
  readonly ask: (type: string, signal: AbortSignal) => Promise<readonly string[]>;
  readonly log: Logger;
  /** How long others wait for an answer; 2,000 unless given. */
  readonly patienceMs?: number;
}

const PATIENCE_MS = 2000;

interface Answer {
  /** Of the file that gave it. */
  readonly identity: string;
  /** Undefined while it is not there, and when the plugin does not tell. */
  versions: readonly string[] | undefined;
  /** The answer is there, or was waited for long enough. */
  readonly settled: Promise<void>;
  isSettled: boolean;
}

/** See the module's head. */
export class PluginVersions {
  readonly #options: PluginVersionsOptions;
  /** By path of the executable. */
  readonly #answers = new Map<string, Answer>();
  readonly #log: Logger;
  readonly #closing = new AbortController();
  readonly #asking = new Set<Promise<void>>();

  constructor(options: PluginVersionsOptions) {
    this.#options = options;
    this.#log = options.log.child({ component: 'cni' });
  }

  /** What a plugin said; undefined when it was not asked or does not tell. @throws as {@link PluginPath.find} */
  known(type: string): readonly string[] | undefined {
    return this.#current(type)?.versions;
  }

  /**
   * Asks those of the plugins that were not asked yet, side by side, and waits for them a moment. Plugins that cannot be
   * run are passed over.
   * @returns true when some had to be asked
   * @throws the reason of `signal`; the plugins are asked all the same
   */
  async learn(types: readonly string[], signal: AbortSignal): Promise<boolean> {
    const answers = [...new Set(types)].filter((type) => this.#isUnasked(type)).map((type) => this.#ask(type));
    if (answers.length === 0) return false;
    const aborted = Promise.withResolvers<never>();
    const abort = (): void => aborted.reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
    try {
      await Promise.race([Promise.all(answers), aborted.promise]);
    } finally {
      signal.removeEventListener('abort', abort);
    }
    return true;
  }

  /** Ends plugins that still think, and waits for their end. */
  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#asking);
  }

  /** Runnable, and neither answered nor waited for long enough. */
  #isUnasked(type: string): boolean {
    try {
      return this.#current(type)?.isSettled !== true;
    } catch {
      // Whoever uses the plugin says why it cannot be run.
      return false;
    }
  }

  #current(type: string): Answer | undefined {
    const path = this.#options.plugins.find(type);
    const answer = this.#answers.get(path);
    return answer?.identity === identityOf(path) ? answer : undefined;
  }

  #ask(type: string): Promise<void> {
    const current = this.#current(type);
    if (current !== undefined) return current.settled;
    const path = this.#options.plugins.find(type);
    const { promise, resolve } = Promise.withResolvers<void>();
    const answer: Answer = { identity: identityOf(path), versions: undefined, settled: promise, isSettled: false };
    this.#answers.set(path, answer);
    const settle = (): void => {
      answer.isSettled = true;
      resolve();
    };
    const patience = setTimeout(settle, this.#options.patienceMs ?? PATIENCE_MS);
    const asking = this.#listen(type, path, answer).finally(() => {
      clearTimeout(patience);
      this.#asking.delete(asking);
      settle();
    });
    this.#asking.add(asking);
    return promise;
  }

  /** Never throws. */
  async #listen(type: string, path: string, answer: Answer): Promise<void> {
    try {
      answer.versions = await this.#options.ask(type, this.#closing.signal);
      this.#log.debug({ plugin: type, path, versions: answer.versions }, 'CNI plugin told its versions');
    } catch (error) {
      this.#log.debug({ err: error, plugin: type, path }, 'CNI plugin does not tell its versions');
      // Its file was being written, say: another time it may tell.
      if (RETRYABLE.has(RuntimeError.from(error, 'VERSION').code)) this.#answers.delete(path);
    }
  }
}

/** Another file in its place, or another content, has another one. */
function identityOf(path: string): string {
  const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
  return [dev, ino, size, mtimeNs, ctimeNs].join(':');
}
