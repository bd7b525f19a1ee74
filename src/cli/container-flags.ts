/**
 * The flags of `run` and `create`: as in docker where docker has them. Here words become a request; whether the request
 * makes sense is for berthd to say, so that every client gets the same answer.
 */
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import type { ContainerSpec } from '../api/generated/berth/v1/ContainerSpec.ts';
import type { Device } from '../api/generated/berth/v1/Device.ts';
import type { ExtraHost } from '../api/generated/berth/v1/ExtraHost.ts';
import type { Label } from '../api/generated/berth/v1/Label.ts';
import type { Mount } from '../api/generated/berth/v1/Mount.ts';
import type { Resources } from '../api/generated/berth/v1/Resources.ts';
import { usage } from './failure.ts';
import { type NetworkOptionFlags, networkOptionFlags, networkOptions } from './network-option-flags.ts';
import { parsePort } from './port-flag.ts';
import { listOption } from './session.ts';
import { parseSize } from './size.ts';

/** What commander makes of the flags. */
export interface ContainerFlags extends NetworkOptionFlags {
  readonly name?: string;
  readonly env?: readonly string[];
  readonly workdir?: string;
  readonly user?: string;
  readonly entrypoint?: string;
  readonly hostname?: string;
  readonly label?: readonly string[];
  readonly memory?: string;
  readonly cpus?: string;
  readonly pidsLimit?: string;
  readonly readOnly?: boolean;
  readonly capAdd?: readonly string[];
  readonly capDrop?: readonly string[];
  readonly securityOpt?: readonly string[];
  readonly network?: readonly string[];
  readonly networkAlias?: readonly string[];
  readonly dns?: readonly string[];
  readonly dnsSearch?: readonly string[];
  readonly dnsOption?: readonly string[];
  readonly addHost?: readonly string[];
  readonly publish?: readonly string[];
  readonly volume?: readonly string[];
  readonly device?: readonly string[];
  readonly rm?: boolean;
}

/** Where relative paths and `-e KEY` get their meaning from. */
export interface Surroundings {
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
}

/** Adds the flags to a command. */
export function addContainerFlags(command: Command): Command {
  const options = [
    new Option('--name <name>', 'name of the container (default: two words)'),
    new Option('--rm', 'remove the container when it has exited'),
    listOption('-e, --env <KEY=value>', 'environment variable; KEY alone passes on the one of this shell'),
    new Option('-w, --workdir <dir>', 'working directory inside the container'),
    new Option('-u, --user <user>', 'uid[:gid] or name[:group]'),
    new Option('--entrypoint <program>', "replaces the image's entrypoint; '' clears it"),
    new Option('--hostname <name>', 'host name inside the container'),
    listOption('-l, --label <key=value>', 'label'),
    new Option('-m, --memory <size>', 'most memory: 512m, 1Gi'),
    new Option('--cpus <number>', 'most CPU time: 1.5 is one and a half CPUs'),
    new Option('--pids-limit <number>', 'most processes and threads'),
    new Option('--read-only', 'make the root file system read-only'),
    listOption('--cap-add <capability>', 'add a capability: NET_ADMIN, or ALL'),
    listOption('--cap-drop <capability>', 'drop a capability, or ALL'),
    listOption('--security-opt <key=value>', 'seccomp=FILE or seccomp=unconfined'),
    listOption('--network <name>', 'network to attach to: eth0, eth1, ... in this order; or none, or host'),
    listOption('--network-alias <name>', 'further name by which containers of its networks find it'),
    listOption('--dns <address>', 'name server, instead of those of its networks'),
    listOption('--dns-search <domain>', 'search domain, instead of those of its networks; "." for none'),
    listOption('--dns-option <option>', 'option of the resolver, instead of those of its networks: ndots:2'),
    ...networkOptionFlags(),
    listOption('--add-host <name:address>', 'line of its hosts file; host-gateway stands for the gateway'),
    listOption('-p, --publish <[ip:]host:container[/proto]>', 'lead a port of the host to one of the container'),
    listOption('-v, --volume <source:path[:ro]>', 'mount a CSI volume by its name, or a host path, at path'),
    listOption('--device <volume:/dev/name[:ro]>', 'CSI block volume as a device'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

/**
 * The request that flags, image and command ask for. One "--" between image and command is left out.
 * @throws {Failure} naming the flag
 */
export function containerSpec(
  image: string,
  command: readonly string[],
  flags: ContainerFlags,
  { cwd, env }: Surroundings,
): ContainerSpec {
  const { workdir, user, hostname, entrypoint } = flags;
  const seccompProfile = seccompOf(flags.securityOpt ?? [], cwd);
  return {
    name: flags.name ?? '',
    image,
    command: command[0] === '--' ? command.slice(1) : [...command],
    ...(entrypoint === undefined ? {} : { entrypoint: { values: entrypoint === '' ? [] : [entrypoint] } }),
    env: (flags.env ?? []).flatMap((entry) => environment(entry, env)),
    ...(workdir === undefined ? {} : { workingDir: workdir }),
    ...(user === undefined ? {} : { user }),
    ...(hostname === undefined ? {} : { hostname }),
    labels: (flags.label ?? []).map(parseLabel),
    resources: resourcesOf(flags),
    readOnlyRootfs: flags.readOnly ?? false,
    capAdd: [...(flags.capAdd ?? [])],
    capDrop: [...(flags.capDrop ?? [])],
    ...(seccompProfile === undefined ? {} : { seccompProfile }),
    networks: [...(flags.network ?? [])],
    networkAliases: [...(flags.networkAlias ?? [])],
    dnsServers: [...(flags.dns ?? [])],
    dnsSearch: [...(flags.dnsSearch ?? [])],
    dnsOptions: [...(flags.dnsOption ?? [])],
    extraHosts: (flags.addHost ?? []).map(parseExtraHost),
    networkOptions: networkOptions(flags),
    ports: (flags.publish ?? []).map(parsePort),
    mounts: (flags.volume ?? []).map((text) => parseVolume(text, cwd)),
    devices: (flags.device ?? []).map(parseDevice),
    autoRemove: flags.rm ?? false,
  };
}

function environment(entry: string, env: NodeJS.ProcessEnv): string[] {
  if (entry.includes('=')) return [entry];
  const value = env[entry];
  return value === undefined ? [] : [`${entry}=${value}`];
}

function parseLabel(text: string): Label {
  const split = text.indexOf('=');
  return split < 0 ? { key: text, value: '' } : { key: text.slice(0, split), value: text.slice(split + 1) };
}

function resourcesOf({ memory, cpus, pidsLimit }: ContainerFlags): Resources {
  return {
    ...(memory === undefined ? {} : { memoryBytes: String(parseSize('--memory', memory)) }),
    ...(cpus === undefined ? {} : { cpuMillis: String(parseCpus(cpus)) }),
    ...(pidsLimit === undefined ? {} : { pidsLimit: String(parseCount('--pids-limit', pidsLimit)) }),
  };
}

function parseCpus(text: string): number {
  const millis = /^\d+(\.\d+)?$/.test(text) ? Math.round(Number(text) * 1000) : 0;
  if (millis <= 0) throw usage('--cpus', `${JSON.stringify(text)} is no number of CPUs such as 0.5 or 2`);
  return millis;
}

/** A whole number above 0. */
export function parseCount(flag: string, text: string): number {
  const count = /^\d{1,15}$/.test(text) ? Number(text) : 0;
  if (count <= 0) throw usage(flag, `${JSON.stringify(text)} is no whole number above 0`);
  return count;
}

/** "VOLUME:/path[:ro]" or "/host/path:/path[:ro]"; a source that begins with "." is a path seen from here. */
function parseVolume(text: string, cwd: string): Mount {
  const [source = '', target, mode = 'rw', ...more] = text.split(':');
  if (source === '' || target === undefined || more.length > 0) {
    throw usage('--volume', `${JSON.stringify(text)} must be VOLUME:/path[:ro] or /host/path:/path[:ro]`);
  }
  if (mode !== 'ro' && mode !== 'rw') {
    throw usage('--volume', `${JSON.stringify(text)}: ${JSON.stringify(mode)} must be "ro" or "rw"`);
  }
  const where = { target, readOnly: mode === 'ro' };
  if (source.startsWith('/')) return { hostPath: source, ...where };
  return source.startsWith('.') ? { hostPath: resolve(cwd, source), ...where } : { volume: source, ...where };
}

/** "NAME:ADDRESS" or "NAME=ADDRESS"; an IPv6 address may stand in brackets. */
function parseExtraHost(text: string): ExtraHost {
  const split = text.search(/[:=]/);
  const address = text.slice(split + 1).replace(/^\[(.*)\]$/, '$1');
  if (split < 1 || address === '') {
    throw usage('--add-host', `${JSON.stringify(text)} must be NAME:ADDRESS or NAME:host-gateway`);
  }
  return { name: text.slice(0, split), address };
}

function parseDevice(text: string): Device {
  const [volume = '', path, mode = 'rw', ...more] = text.split(':');
  if (volume === '' || volume.startsWith('/') || path === undefined || more.length > 0) {
    throw usage(
      '--device',
      `${JSON.stringify(text)} must be VOLUME:/dev/name[:ro] with the name of a CSI block volume`,
    );
  }
  if (mode !== 'ro' && mode !== 'rw') {
    throw usage('--device', `${JSON.stringify(text)}: ${JSON.stringify(mode)} must be "ro" or "rw"`);
  }
  return { volume, path, readOnly: mode === 'ro' };
}

function seccompOf(options: readonly string[], cwd: string): string | undefined {
  let profile: string | undefined;
  for (const option of options) {
    if (!option.startsWith('seccomp=')) {
      throw usage('--security-opt', `${JSON.stringify(option)} must be seccomp=FILE or seccomp=unconfined`);
    }
    const value = option.slice('seccomp='.length);
    profile = value === 'unconfined' || value === '' ? value : resolve(cwd, value);
  }
  return profile;
}
