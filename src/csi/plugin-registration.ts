/**
 * How a plugin was made known to Berth: by which sockets, and by whom. Whatever the source, the registry treats all the
 * same (plugin-registry.ts). Pure: nothing here looks at the disk.
 */
import { posix } from 'node:path';
import { invalid } from '../errors.ts';

/** A part of a plugin that may have a socket of its own. */
export type PluginRole = 'controller' | 'node';

/** One socket of a plugin. */
export interface PluginSocket {
  /** Absolute, in normal form, at most 107 bytes. */
  readonly path: string;
  /** What the socket is used for; whatever it serves when absent. */
  readonly role?: PluginRole;
}

/**
 * Who made the plugin known. "file": a file of the configuration directory; "directory": a socket in the plugin directory;
 * "registrar": kubelet's plugin registration; "command": `berth csi register`; "berthd": it was started by the daemon.
 */
export type RegistrationSource = 'file' | 'directory' | 'registrar' | 'command' | 'berthd';

/** A plugin that somebody made known. */
export interface PluginRegistration {
  /** Tells registrations apart: "file:/etc/berth/csi.d/some.toml". */
  readonly key: string;
  readonly source: RegistrationSource;
  /** Where to look for it: the file, the registrar's socket; for a command the name it was registered under. */
  readonly origin: string;
  /** The name the plugin must give itself; any name when absent. */
  readonly name?: string;
  /** One or more. */
  readonly sockets: readonly PluginSocket[];
}

/** Room in sockaddr_un; Node cuts longer paths without a word. */
export const MAX_SOCKET_PATH_BYTES = 107;

/**
 * The path in "unix:///path", "unix:/path" or "/path", in normal form.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field when it is none, relative, or too long for a socket
 */
export function checkSocketPath(field: string, address: string): string {
  const path = address.replace(/^unix:(\/\/)?/, '');
  const shown = JSON.stringify(address.slice(0, 256));
  if (!path.startsWith('/')) throw invalid(field, `${shown} must be absolute, such as unix:///run/some/csi.sock`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (!path.isWellFormed() || /[\u0000-\u001f\u007f]/.test(path)) throw invalid(field, `${shown} is no lawful path`);
  const bytes = Buffer.byteLength(path);
  if (bytes > MAX_SOCKET_PATH_BYTES) {
    throw invalid(field, `${shown} has ${bytes} bytes, the path of a socket has at most ${MAX_SOCKET_PATH_BYTES}`);
  }
  return posix.normalize(path);
}
