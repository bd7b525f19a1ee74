/** `volume register | update | detach`. */
import { type Command, Option } from 'commander';
import type { RegisterVolumeRequest } from '../api/generated/berth/v1/RegisterVolumeRequest.ts';
import type { Volume__Output } from '../api/generated/berth/v1/Volume.ts';
import { Failure, usage } from './failure.ts';
import { parseParameter } from './parameter-flag.ts';
import { listOption, type Session } from './session.ts';
import { parseSize } from './size.ts';
import { addVolumeUseFlags, type VolumeUseFlags, volumeUse } from './volume-use-flags.ts';

/** What commander makes of the flags of `volume register`. */
export interface RegisterVolumeFlags extends VolumeUseFlags {
  readonly driver: string;
  readonly handle: string;
  readonly access?: string;
  readonly size?: string;
  readonly fsType?: string;
  readonly attribute?: readonly string[];
}

/** Adds the verbs to the group `volume`. */
export function addVolumeControl(group: Command, session: Session): void {
  addRegister(group, session);
  addUpdate(group, session);
  addDetach(group, session);
}

function addRegister(group: Command, session: Session): void {
  const register = group
    .command('register')
    .summary('take on a volume that the storage system has already')
    .description(
      'Takes on a volume that the storage system has already, and prints its name. The plugin is asked whether it can\n' +
        'be used so. "volume rm" forgets it and keeps its data, unless --reclaim delete says otherwise.',
    )
    .argument('<name>', 'name of the volume')
    .requiredOption('--driver <plugin>', 'CSI plugin (berth csi ls)')
    .requiredOption('--handle <id>', "the plugin's own id of the volume")
    .addOption(
      new Option('--access <access>', 'mount: a file system, the default; block: a raw device').choices([
        'mount',
        'block',
      ]),
    )
    .option('--size <size>', 'its capacity, where it is known: 64Mi, 10Gi')
    .option('--fs-type <type>', "ext4, xfs (default: the plugin's choice)")
    .addOption(listOption('--attribute <key=value>', 'what the plugin must be told of the volume (repeatable)'));
  addVolumeUseFlags(register, 'retain')
    .addHelpText(
      'after',
      '\nExample:\n  berth volume register share --driver nfs.csi.example --handle nas/share --attribute server=nas --access-mode RWX',
    )
    .action(async (name: string, flags: RegisterVolumeFlags, command: Command) => {
      const request = registerVolumeRequest(name, flags);
      const daemon = await session.daemon(command);
      const volume = await daemon.call('Volumes', 'Register', request);
      await session.print(`${volume.name}\n`);
    });
}

/** The request that name and flags ask for. @throws {Failure} naming the flag */
export function registerVolumeRequest(name: string, flags: RegisterVolumeFlags): RegisterVolumeRequest {
  return {
    name,
    driver: flags.driver,
    volumeId: flags.handle,
    access: flags.access === 'block' ? 'VOLUME_ACCESS_BLOCK' : 'VOLUME_ACCESS_MOUNT',
    ...(flags.fsType === undefined ? {} : { fsType: flags.fsType }),
    capacityBytes: flags.size === undefined ? '0' : String(parseSize('--size', flags.size)),
    context: (flags.attribute ?? []).map((text) => parseParameter(text, '--attribute')),
    use: volumeUse(flags),
  };
}

interface UpdateFlags {
  readonly availability?: string;
  readonly parameter?: readonly string[];
  readonly time?: string;
}

function addUpdate(group: Command, session: Session): void {
  group
    .command('update')
    .summary('change parameters of a volume, or whether containers may use it')
    .description(
      'Changes volumes and prints their names. --parameter gives a parameter that the plugin can change (MODIFY_VOLUME) a\n' +
        'new value; those that are not named stay. --availability says whether containers may use a volume:\n' +
        '  active  they may\n' +
        '  pause   none may begin to; those that use it go on\n' +
        '  drain   none may begin to, and those that use it are stopped: the volume is then taken off this machine',
    )
    .argument('<volume...>', 'name')
    .addOption(new Option('--availability <state>', 'active, pause or drain').choices(['active', 'pause', 'drain']))
    .addOption(listOption('--parameter <key=value>', 'new value of a parameter that can be changed (repeatable)'))
    .option('-t, --time <seconds>', 'drain: how long a container may take before it is killed (default: 10)')
    .addHelpText(
      'after',
      '\nExamples:\n  berth volume update data --availability drain\n  berth volume update data --parameter iops=2000',
    )
    .action(async (names: string[], flags: UpdateFlags, command: Command) => {
      const { availability = '', parameter = [] } = flags;
      const mutableParameters = parameter.map((text) => parseParameter(text));
      if (availability === '' && parameter.length === 0) throw usage('--availability', 'is needed, or --parameter');
      const timeout = flags.time === undefined ? {} : { stopTimeoutMs: String(parseSeconds(flags.time) * 1000) };
      const daemon = await session.daemon(command);
      await session.forEach(names, async (name) => {
        await daemon.call('Volumes', 'Update', { name, availability, mutableParameters, ...timeout });
        return `${name}\n`;
      });
    });
}

function parseSeconds(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw usage('--time', `${JSON.stringify(text)} is no whole number of seconds`);
  return Number(text);
}

function addDetach(group: Command, session: Session): void {
  group
    .command('detach')
    .summary('take a volume off this machine')
    .description(
      'Takes a volume off this machine: what could not be undone when its last container ended is tried once more.\n' +
        'It stays on record.',
    )
    .argument('<volume>', 'name')
    .option(
      '-f, --force',
      'take it from containers that use it, and pass over what fails; shows the risks, needs --yes',
    )
    .option('--yes', 'the risks of --force are understood')
    .addHelpText('after', '\nExamples:\n  berth volume detach data\n  berth volume detach --force --yes data')
    .action(async (name: string, flags: { force?: boolean; yes?: boolean }, command: Command) => {
      const { force = false, yes = false } = flags;
      const daemon = await session.daemon(command);
      if (force && !yes) throw new Failure(risks(await daemon.call('Volumes', 'Inspect', { name })));
      const { skipped } = await daemon.call('Volumes', 'Detach', { name, force });
      for (const { step, reason } of force ? skipped : []) {
        await session.warn(`berth: volume ${name}: skipped ${step}: ${reason}\n`);
      }
      await session.print(`${name}\n`);
    });
}

/** What a forced detachment of this volume may do. */
export function risks({ name, state, claims, stepsDown }: Volume__Output): string {
  const users = claims.map(({ containerId, target }) => `${containerId.slice(0, 12)} (${target})`);
  const lines = [
    `--force: volume ${name} is ${state}. Nothing was done; this is what --yes allows:`,
    ...(users.length === 0
      ? []
      : [
          `  it is taken from container ${users.join(', ')}: what is not written out is lost, and the container goes on`,
          '  with a mount that fails, until it is stopped',
        ]),
    ...(stepsDown.length === 0
      ? []
      : [
          `  any of these steps is skipped when it fails: ${stepsDown.join(', ')}`,
          '  the plugin may then hold the volume for mounted here: use it nowhere else before that is certain, or two',
          '  machines write to it',
        ]),
  ];
  return lines.join('\n');
}
