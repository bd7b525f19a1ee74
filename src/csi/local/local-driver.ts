/**
 * How the embedded driver is started: a process of its own, reached over its socket only, like any other CSI plugin.
 * Whoever supervises it needs this file and nothing else of the directory.
 */
import { COMPILE_CACHE_DIR } from '../../compile-cache.ts';
import { invalid } from '../../errors.ts';
import { HOST_ENV } from '../../host-command.ts';
import { programFile } from '../../package-dir.ts';
import { checkText, LIMITS } from '../protocol.ts';

/** The driver's name towards CSI. */
export const LOCAL_DRIVER_NAME = 'local.csi.berth';

export interface LocalDriverOptions {
  /** Where the volumes lie; made when absent. Absolute. */
  readonly dataDir: string;
  /** Where the driver listens; its directory exists. Absolute, at most 107 bytes. */
  readonly socketPath: string;
  /** The driver's answer to NodeGetInfo: 1 to 256 bytes. */
  readonly nodeId: string;
  /** Volumes must be attached (ControllerPublishVolume) before they are staged; false unless given. */
  readonly attach?: boolean;
  /** The most volumes that may be attached; as many as there are unless given. */
  readonly maxVolumes?: number;
}

/** A program with its arguments and its whole environment. */
export interface LocalDriverProcess {
  readonly file: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/**
 * The command that runs the driver, from `src` and from `dist` alike. It ends when its standard input does.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the option when a path is not absolute or the node id is too long
 */
export function localDriverProcess(options: LocalDriverOptions): LocalDriverProcess {
  for (const field of ['dataDir', 'socketPath'] as const) {
    if (!options[field].startsWith('/')) throw invalid(field, `${options[field]} is not absolute`);
  }
  if (options.nodeId === '') throw invalid('nodeId', 'is empty');
  checkText('nodeId', options.nodeId, LIMITS.nodeId);
  return {
    file: process.execPath,
    args: [
      programFile('csi/local/main'),
      `--data-dir=${options.dataDir}`,
      `--node-id=${options.nodeId}`,
      ...(options.attach === true ? ['--attach'] : []),
      ...(options.maxVolumes === undefined ? [] : [`--max-volumes=${options.maxVolumes}`]),
    ],
    env: { ...HOST_ENV, NODE_COMPILE_CACHE: COMPILE_CACHE_DIR, CSI_ENDPOINT: `unix://${options.socketPath}` },
  };
}
