/**
 * One look at all configuration files: what each means, and whether its plugins can be run. Files are read and plugins
 * looked up anew at each look, so nobody has to be told of a change; a plugin once, however many chains it is in, and a
 * text that is the same as at the look before means the same.
 */
import { extname, join } from 'node:path';
import { RuntimeError } from '../errors.ts';
import { readRegularFile, sortedNames } from './config-files.ts';
import { executablesOf, type ResolvedNetwork } from './network.ts';
import { type ParsedNetwork, parseNetworkList, parsePlugin, parseSingleNetwork } from './network-config-parser.ts';
import type { PluginPath } from './plugin-path.ts';
import type { PluginVersions } from './plugin-versions.ts';
import type { JsonObject } from './protocol.ts';

/** Files of this kind hold a list of plugins. */
export const LIST = '.conflist';

/**
 * ready: can be attached to. missing-plugin: an executable is not there, must not be run, or speaks no version of the
 * configuration. invalid: the file does not parse. shadowed: another file has the same name and comes first.
 */
export type NetworkState = 'ready' | 'missing-plugin' | 'invalid' | 'shadowed';

/** A file and what became of it. */
export interface ConfigEntry {
  readonly file: string;
  readonly network?: ResolvedNetwork;
  readonly state: NetworkState;
  readonly reason: string;
}

/** The text of a file and what it means. */
export interface ParsedFile {
  readonly text: string;
  readonly network: ParsedNetwork;
}

/** A plugin by its name: why it cannot be run, or what it said about versions. */
interface FoundPlugin {
  /** Empty when it can be run. */
  readonly reason: string;
  readonly versions?: readonly string[] | undefined;
}

/** See the module's head. */
export class ConfigLook {
  /** What the files of this look mean. */
  readonly parsed: Map<string, ParsedFile> = new Map();
  readonly #plugins: PluginPath;
  readonly #versions: PluginVersions | undefined;
  readonly #before: ReadonlyMap<string, ParsedFile>;
  readonly #found = new Map<string, FoundPlugin>();

  constructor(plugins: PluginPath, versions: PluginVersions | undefined, before: ReadonlyMap<string, ParsedFile>) {
    this.#plugins = plugins;
    this.#versions = versions;
    this.#before = before;
  }

  /** The network in a file. @throws {RuntimeError} FAILED_PRECONDITION with the line, the place and the reason */
  parse(file: string): ParsedNetwork {
    const text = readRegularFile(file);
    const before = this.#before.get(file);
    if (before?.text === text) {
      this.parsed.set(file, before);
      return before.network;
    }
    const network = extname(file) === LIST ? parseNetworkList(text) : parseSingleNetwork(text);
    this.parsed.set(file, { text, network });
    return network;
  }

  /** Why a chain cannot be run; empty when nothing is missing. */
  missing(plugins: readonly JsonObject[]): string {
    const reasons = plugins.flatMap(executablesOf).map((type) => this.#find(type).reason);
    return [...new Set(reasons)].filter((reason) => reason !== '').join('; ');
  }

  /** Plugins that say that they do not speak a version, in words. */
  mutes(plugins: readonly JsonObject[], version: string): readonly string[] {
    const types = new Set(plugins.flatMap(executablesOf));
    return [...types].flatMap((type) => {
      const { versions } = this.#find(type);
      if (versions === undefined || versions.includes(version)) return [];
      return [`CNI plugin ${type} does not speak ${version}, but ${versions.join(', ') || 'nothing'}`];
    });
  }

  #find(type: string): FoundPlugin {
    const known = this.#found.get(type);
    if (known !== undefined) return known;
    const found = this.#lookUp(type);
    this.#found.set(type, found);
    return found;
  }

  #lookUp(type: string): FoundPlugin {
    try {
      if (this.#versions !== undefined) return { reason: '', versions: this.#versions.known(type) };
      this.#plugins.find(type);
      return { reason: '' };
    } catch (error) {
      return { reason: RuntimeError.from(error, `find CNI plugin ${type}`).message };
    }
  }
}

/** What a file is. Never throws: what is wrong with it is its state. */
export function readEntry(dir: string, name: string, look: ConfigLook): ConfigEntry {
  const file = join(dir, name);
  try {
    const { versions, ...rest } = withFolder(look.parse(file), dir);
    const [highest = ''] = versions;
    const missing = look.missing(rest.plugins);
    if (missing !== '') {
      return { file, network: { ...rest, cniVersion: highest }, state: 'missing-plugin', reason: missing };
    }
    const cniVersion = versions.find((version) => look.mutes(rest.plugins, version).length === 0);
    const network = { ...rest, cniVersion: cniVersion ?? highest };
    if (cniVersion !== undefined) return { file, network, state: 'ready', reason: '' };
    return { file, network, state: 'missing-plugin', reason: look.mutes(rest.plugins, highest).join('; ') };
  } catch (error) {
    return { file, state: 'invalid', reason: RuntimeError.from(error, 'read').message };
  }
}

function withFolder(parsed: ParsedNetwork, dir: string): Omit<ParsedNetwork, 'takesFolder'> {
  const { takesFolder, ...network } = parsed;
  const folder = join(dir, network.name);
  const names = takesFolder ? sortedNames(folder).filter((name) => extname(name) === '.conf') : [];
  const added = names.map((name) => {
    try {
      return parsePlugin(readRegularFile(join(folder, name)));
    } catch (error) {
      const { code, message } = RuntimeError.from(error, 'read');
      throw new RuntimeError(code, `${join(folder, name)}: ${message}`, { cause: error });
    }
  });
  const plugins = [...network.plugins, ...added];
  if (plugins.length === 0) throw new RuntimeError('FAILED_PRECONDITION', 'plugins: the chain is empty');
  return { ...network, plugins };
}
