/**
 * Finds the secrets of a call just before it is sent, from the references of a file (secret-references.ts). Values are
 * handed on and forgotten: no error, log or record has them, and the program that provides them is told only which plugin
 * and which call it is for.
 */
import { constants } from 'node:fs';
import { type FileHandle, lstat, open } from 'node:fs/promises';
import { invalid, RuntimeError, systemCode } from '../errors.ts';
import { type RunProgram, runProgram } from '../run-program.ts';
import { stringMap } from '../string-map.ts';
import { checkMap, type Rpc, type StreamRpc, type StringMap } from './protocol.ts';
import {
  parseSecretReferences,
  referenceFor,
  type SecretReferences,
  type ValueReference,
} from './secret-references.ts';

export interface SecretResolverOptions {
  /** Directory of the files. */
  readonly dir: string;
  /** The environment of the daemon. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Who starts providers; this process unless given. */
  readonly run?: RunProgram | undefined;
  /** Longest run of a provider; 10,000 unless given. */
  readonly timeoutMs?: number | undefined;
}

const MAX_FILE_BYTES = 65_536;
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Writable by the group or by everybody. */
const WRITABLE = 0o022;

/** See the module's head. */
export class SecretResolver {
  readonly #options: SecretResolverOptions;

  constructor(options: SecretResolverOptions) {
    this.#options = options;
  }

  /**
   * The secrets of a call; none when the file is not there, unless it was asked for by name.
   * @throws {RuntimeError} FAILED_PRECONDITION naming the file and what of it cannot be resolved, never a value
   */
  async resolve(driver: string, rpc: Rpc | StreamRpc, signal: AbortSignal, name?: string): Promise<StringMap> {
    const file = `${this.#options.dir}/${name ?? driver}.toml`;
    try {
      const references = await readReferences(file, name !== undefined);
      const reference = references === undefined ? undefined : referenceFor(references, rpc);
      if (reference === undefined) return {};
      const { provider, keys } = reference;
      const provided = provider === undefined ? {} : await this.#provide(provider, driver, rpc, signal);
      const named = await Promise.all([...keys].map(async ([key, one]) => [key, await this.#value(key, one)] as const));
      return checkMap('secrets', { ...provided, ...Object.fromEntries(named) });
    } catch (error) {
      const { code, message } = RuntimeError.from(error, 'not readable');
      const passing = code === 'CANCELLED' || code === 'DEADLINE_EXCEEDED' ? code : 'FAILED_PRECONDITION';
      throw new RuntimeError(passing, `secrets of ${rpc} for CSI plugin ${driver}: ${file}: ${message}`);
    }
  }

  async #value(key: string, reference: ValueReference): Promise<string> {
    if ('file' in reference) return (await readOwn(key, reference.file)).replace(/\r?\n$/, '');
    const value = this.#options.env[reference.env];
    if (value === undefined) throw invalid(key, `berthd has no ${reference.env} in its environment`);
    return value;
  }

  async #provide(file: string, driver: string, rpc: Rpc | StreamRpc, signal: AbortSignal): Promise<StringMap> {
    await checkProvider(file);
    const { run = runProgram, timeoutMs = 10_000 } = this.#options;
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
    const end = await run({ file, args: [driver, rpc], env: { PATH } }, bounded);
    // What it wrote may hold what it was to provide: it stays unsaid.
    if (end.kind === 'aborted') {
      if (signal.aborted) throw RuntimeError.from(signal.reason, 'stopped', 'CANCELLED');
      throw new RuntimeError('DEADLINE_EXCEEDED', `provider ${file} was stopped after ${timeoutMs} ms`);
    }
    if (end.kind === 'overflow') throw invalid('provider', `${file} printed too much`);
    if (end.kind === 'unstartable') throw invalid('provider', `${file} cannot be started: ${end.systemCode}`);
    if (end.exitCode !== 0) throw invalid('provider', `${file} ended with ${end.signalName ?? end.exitCode}`);
    if (end.stdout.length > MAX_FILE_BYTES)
      throw invalid('provider', `${file} printed more than ${MAX_FILE_BYTES} bytes`);
    const parsed = stringMap.safeParse(json(end.stdout));
    if (!parsed.success) throw invalid('provider', `${file} printed no JSON object of text`);
    return parsed.data;
  }
}

async function readReferences(file: string, required: boolean): Promise<SecretReferences | undefined> {
  try {
    return parseSecretReferences(await readOwn('file', file));
  } catch (error) {
    if (!required && error instanceof RuntimeError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}

/** The text of a regular file that only root may write. @throws {RuntimeError} NOT_FOUND, INVALID_ARGUMENT */
async function readOwn(field: string, file: string): Promise<string> {
  const handle = await opened(field, file);
  try {
    const stats = await handle.stat();
    if (!stats.isFile()) throw invalid(field, `${file} is no regular file`);
    checkOwner(field, file, stats);
    if (stats.size > MAX_FILE_BYTES) throw invalid(field, `${file} has more than ${MAX_FILE_BYTES} bytes`);
    return await handle.readFile('utf8');
  } finally {
    await handle.close();
  }
}

/** A pipe of that name must not hold up anything. */
async function opened(field: string, file: string): Promise<FileHandle> {
  try {
    return await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') throw new RuntimeError('NOT_FOUND', `${field}: ${file} is not there`);
    throw invalid(field, `${file} cannot be opened: ${systemCode(error) ?? 'unknown reason'}`);
  }
}

async function checkProvider(file: string): Promise<void> {
  const stats = await lstat(file).catch((error: unknown) => {
    throw invalid('provider', `${file} cannot be looked at: ${systemCode(error) ?? 'unknown reason'}`);
  });
  if (!stats.isFile()) throw invalid('provider', `${file} is no regular file`);
  checkOwner('provider', file, stats);
}

function checkOwner(field: string, file: string, { uid, mode }: { readonly uid: number; readonly mode: number }): void {
  if (uid !== 0) throw invalid(field, `${file} belongs to user ${uid}; give it to root`);
  if ((mode & WRITABLE) !== 0) throw invalid(field, `${file} may be written by others than root; chmod go-w ${file}`);
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The message of the parser quotes the text.
    return undefined;
  }
}
