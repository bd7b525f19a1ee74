/** What a registrar may say of its plugin: the rules of the plugin registration protocol, version 1. Pure. */
import { invalid } from '../errors.ts';
import { checkSocketPath } from './plugin-registration.ts';
import { checkPluginName } from './protocol.ts';
import type { PluginInfo } from './registrar-client.ts';

/** What is left of the answer when it is lawful. */
export interface AnnouncedPlugin {
  readonly name: string;
  /** Absolute path of the socket that serves CSI. */
  readonly endpoint: string;
}

/** The kind of plugin that Berth has use for. */
const CSI_TYPE = 'CSIPlugin';
const HIGHEST_MAJOR = 1;
const MAX_VERSIONS = 64;

/**
 * Checks type, name, versions and endpoint, in this order.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field: fit to be told to the registrar
 */
export function checkPluginInfo(info: PluginInfo, registrarSocket: string): AnnouncedPlugin {
  if (info.type !== CSI_TYPE) {
    throw invalid('type', `${shown(info.type)} is no kind of plugin that is used here, only ${CSI_TYPE}`);
  }
  const name = checkPluginName('name', info.name.slice(0, 256));
  checkVersions(info.supportedVersions);
  // An empty endpoint means that the registrar's socket serves CSI, too.
  const endpoint = checkSocketPath('endpoint', info.endpoint === '' ? registrarSocket : info.endpoint);
  return { name, endpoint };
}

/** One that can be read, with a major number that is not beyond this protocol's, is enough. */
function checkVersions(versions: readonly string[]): void {
  const usable = versions.slice(0, MAX_VERSIONS).some((version) => {
    const major = /^v?(\d{1,4})(\.\d{1,9}){1,3}([-+].*)?$/.exec(version)?.[1];
    return major !== undefined && Number(major) <= HIGHEST_MAJOR;
  });
  if (usable) return;
  const said = versions.length === 0 ? 'none is named' : versions.slice(0, 8).map(shown).join(', ');
  throw invalid('supported_versions', `${said}; one of major version ${HIGHEST_MAJOR} is needed, such as "1.0.0"`);
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 64));
}
