/**
 * Network configurations on disk. Directories are read in the order given, files in byte order of their names, and
 * anew at every call: an attach uses what the disk says now. A bad file is listed with its reason and hides no other.
 *
 *   DIR/10-name.conflist      a chain of plugins
 *   DIR/NAME/*.conf           more plugins for the chain of network NAME
 *   DIR/20-name.conf, .json   a single plugin
 *
 * When no directory holds any of these but networks that people had Berth create, the ones that come with Berth are used
 * as well, before them. The first usable network is the default one. Of two files with one name the first `.conflist`
 * counts, then the first of the others.
 */
import { extname } from 'node:path';
import type { Logger } from 'pino';
import { RuntimeError } from '../errors.ts';
import { isCreatedFile, sortedNames } from './config-files.ts';
import { type ConfigEntry, ConfigLook, LIST, type NetworkState, type ParsedFile, readEntry } from './config-look.ts';
import { executablesOf, type ResolvedNetwork, typeOf } from './network.ts';
import type { PluginPath } from './plugin-path.ts';
import type { PluginVersions } from './plugin-versions.ts';

/** One configuration file, for lists. */
export interface NetworkSummary {
  /** Empty when the file does not tell. */
  readonly name: string;
  readonly file: string;
  /** Empty when the file does not parse. */
  readonly cniVersion: string;
  /** Plugin names in order of ADD. */
  readonly plugins: readonly string[];
  readonly state: NetworkState;
  /** Why it is not ready; empty when it is. */
  readonly reason: string;
  readonly isDefault: boolean;
  /** It is Berth's own: see {@link ResolvedNetwork}. */
  readonly owned: boolean;
}

/** Options of {@link NetworkConfigs}. */
export interface NetworkConfigsOptions {
  readonly confDirs: readonly string[];
  /** Used when no directory of `confDirs` holds a configuration: `cni-conf` of the installation. */
  readonly fallbackDir: string;
  readonly plugins: PluginPath;
  /** Without it plugins are taken to speak every version. */
  readonly versions?: PluginVersions;
  readonly log?: Logger;
}

const EXTENSIONS: ReadonlySet<string> = new Set([LIST, '.conf', '.json']);

/** The networks of this host, as the disk has them now. */
export class NetworkConfigs {
  readonly #confDirs: readonly string[];
  readonly #fallbackDir: string;
  readonly #plugins: PluginPath;
  readonly #versions: PluginVersions | undefined;
  readonly #log: Logger | undefined;
  /** What the files of the last look meant, by path: the same text means the same. */
  #parsed: ReadonlyMap<string, ParsedFile> = new Map();

  constructor(options: NetworkConfigsOptions) {
    this.#confDirs = options.confDirs;
    this.#fallbackDir = options.fallbackDir;
    this.#plugins = options.plugins;
    this.#versions = options.versions;
    this.#log = options.log?.child({ component: 'cni' });
  }

  /** Every configuration file, good or bad, in order of search. */
  list(): NetworkSummary[] {
    const entries = this.#entries();
    const first = entries.find((entry) => entry.state === 'ready');
    return entries.map((entry) => summary(entry, entry === first));
  }

  /**
   * The network of this name, from the disk.
   * @throws {RuntimeError} NOT_FOUND when no file has the name, FAILED_PRECONDITION when it cannot be used
   */
  load(name: string): ResolvedNetwork {
    const entries = this.#entries();
    const entry = entries.find((other) => other.network?.name === name && other.state !== 'shadowed');
    if (entry?.network === undefined) {
      throw unknown(name, entries);
    }
    if (entry.state !== 'ready') {
      throw new RuntimeError('FAILED_PRECONDITION', `network: ${name} (${entry.file}) cannot be used: ${entry.reason}`);
    }
    return entry.network;
  }

  /** A network's file, state and configuration, whether it can be used or not. @throws {RuntimeError} NOT_FOUND */
  inspect(name: string): { readonly summary: NetworkSummary; readonly config: ResolvedNetwork } {
    const entries = this.#entries();
    const first = entries.find((entry) => entry.state === 'ready');
    const entry = entries.find((other) => other.network?.name === name && other.state !== 'shadowed');
    if (entry?.network === undefined) {
      throw unknown(name, entries);
    }
    return { summary: summary(entry, entry === first), config: entry.network };
  }

  /** Networks that can be used and are Berth's own. */
  owned(): ResolvedNetwork[] {
    return this.#entries().flatMap(({ state, network }) =>
      state === 'ready' && network?.owned === true ? [network] : [],
    );
  }

  /**
   * The first network that can be used.
   * @throws {RuntimeError} FAILED_PRECONDITION when there is none
   */
  defaultNetworkName(): string {
    const entries = this.#entries();
    const name = entries.find((entry) => entry.state === 'ready')?.network?.name;
    if (name !== undefined) return name;
    const reasons = entries.map((entry) => `${entry.file}: ${entry.reason}`);
    throw new RuntimeError('FAILED_PRECONDITION', `network: no usable configuration (${reasons.join('; ') || 'none'})`);
  }

  /**
   * Asks the plugins of these networks, or of all, which versions they speak, as far as that is not known. What is
   * loaded afterwards runs at a version that all of its plugins speak.
   * @returns true when there was something to ask
   */
  async learnVersions(signal: AbortSignal, networks?: readonly ResolvedNetwork[]): Promise<boolean> {
    const all = networks ?? this.#entries().flatMap((entry) => entry.network ?? []);
    const types = all.flatMap(({ plugins }) => plugins.flatMap(executablesOf));
    return (await this.#versions?.learn(types, signal)) ?? false;
  }

  /** The directories the configurations come from now: those given, or the one that comes with Berth. */
  directories(): readonly string[] {
    const given = this.#files();
    if (given.length === 0) return [this.#fallbackDir];
    return given.every(({ name }) => isCreatedFile(name)) ? [this.#fallbackDir, ...this.#confDirs] : this.#confDirs;
  }

  #entries(): ConfigEntry[] {
    const given = this.#files();
    const fallback = given.every(({ name }) => isCreatedFile(name));
    const files = [...(fallback ? configFiles(this.#fallbackDir, this.#log) : []), ...given];
    const look = new ConfigLook(this.#plugins, this.#versions, this.#parsed);
    const entries = files.map(({ dir, name }) => readEntry(dir, name, look));
    this.#parsed = look.parsed;
    return entries.map((entry) => shadowed(entry, entries));
  }

  #files(): ConfigFile[] {
    return this.#confDirs.flatMap((dir) => configFiles(dir, this.#log));
  }
}

function unknown(name: string, entries: readonly ConfigEntry[]): RuntimeError {
  const names = entries.flatMap((other) => (other.state === 'ready' ? [other.network?.name] : []));
  const bad = entries.filter((other) => other.state === 'invalid').map((other) => other.file);
  return new RuntimeError(
    'NOT_FOUND',
    `network: ${JSON.stringify(name)} is unknown; known are: ${names.join(', ') || 'none'}${
      bad.length === 0 ? '' : `; unreadable: ${bad.join(', ')}`
    }`,
  );
}

interface ConfigFile {
  readonly dir: string;
  readonly name: string;
}

function configFiles(dir: string, log: Logger | undefined): ConfigFile[] {
  try {
    return sortedNames(dir)
      .filter((name) => EXTENSIONS.has(extname(name)))
      .map((name) => ({ dir, name }));
  } catch (error) {
    log?.warn({ err: error, dir }, 'network configuration directory cannot be read');
    return [];
  }
}

function shadowed(entry: ConfigEntry, all: readonly ConfigEntry[]): ConfigEntry {
  const rivals = all.filter((other) => other.network !== undefined && other.network.name === entry.network?.name);
  const winner = rivals.find((other) => extname(other.file) === LIST) ?? rivals[0];
  if (winner === undefined || winner === entry) return entry;
  return { ...entry, state: 'shadowed', reason: `${winner.file} has the same name and comes first` };
}

function summary(entry: ConfigEntry, isDefault: boolean): NetworkSummary {
  return {
    name: entry.network?.name ?? '',
    file: entry.file,
    cniVersion: entry.network?.cniVersion ?? '',
    plugins: (entry.network?.plugins ?? []).map(typeOf),
    state: entry.state,
    reason: entry.reason,
    isDefault,
    owned: entry.network?.owned === true,
  };
}
