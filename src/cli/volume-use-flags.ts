/** Flags that say how containers use a volume: of `volume create` and `volume register`. */
import { type Command, Option } from 'commander';
import type { VolumeUse } from '../api/generated/berth/v1/VolumeUse.ts';
import { usage } from './failure.ts';
import { listOption } from './session.ts';

/** What commander makes of the flags. */
export interface VolumeUseFlags {
  readonly accessMode?: string;
  readonly mountFlag?: readonly string[];
  readonly fsGroup?: string;
  readonly ownership?: string;
  readonly reclaim?: string;
}

/** The id that means "leave it as it is" (chown(2)). */
const NO_ID = 2 ** 32 - 1;

/** Adds the flags to a command. */
export function addVolumeUseFlags(command: Command, usualReclaim: string): Command {
  const options = [
    new Option(
      '--access-mode <mode>',
      'who may use it: RWO, RWOP (one container), ROX, RWX, or a mode of CSI such as single-node-multi-writer ' +
        '(default: as many containers of this machine as the plugin can tell apart)',
    ),
    listOption('--mount-flag <flag>', 'option of the mount, as noatime (repeatable)'),
    new Option('--fs-group <gid>', 'group that owns the files and may write'),
    new Option(
      '--ownership <policy>',
      'give the files to the group, where the plugin does not: never; root-mismatch: when the top directory is not the ' +
        "group's; always: at each start (default: root-mismatch)",
    ).choices(['never', 'root-mismatch', 'always']),
    new Option('--reclaim <policy>', `what rm does with the data (default: ${usualReclaim})`).choices([
      'delete',
      'retain',
    ]),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

/** The message that the flags ask for. @throws {Failure} naming the flag */
export function volumeUse(flags: VolumeUseFlags): VolumeUse {
  const { accessMode = '', mountFlag = [], fsGroup, ownership = '', reclaim = '' } = flags;
  return {
    accessMode,
    mountFlags: [...mountFlag],
    ...(fsGroup === undefined ? {} : { group: parseGroup(fsGroup) }),
    ownership,
    reclaim,
  };
}

function parseGroup(text: string): number {
  const group = /^\d{1,10}$/.test(text) ? Number(text) : NO_ID;
  if (group >= NO_ID) throw usage('--fs-group', `${JSON.stringify(text)} is no group id from 0 to ${NO_ID - 1}`);
  return group;
}
