/**
 * Settings of berthd: flags over /etc/berth/berthd.toml (and berthd.toml.d/*.toml, in byte order) over defaults. The
 * only place that reads argv. A key in a file has the name of its flag: `run = "/run/berth"`.
 */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { Command, Option } from 'commander';
import { parse } from 'smol-toml';
import * as z from 'zod';
import {
  type CNI_COMMANDS,
  type CniConcurrency,
  cniConcurrency,
  cniTimeout,
  controllerCalls,
  pool,
  rootPath,
} from './config-values.ts';
import { invalid, RuntimeError } from './errors.ts';

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const;

/** Settings of a daemon, all checked. */
export interface Config {
  /** Data that survives a reboot: database, images, writable layers, volumes, logs. */
  readonly root: string;
  /** Data that does not: sockets, namespaces, bundles. */
  readonly run: string;
  /** Path of the API's unix socket. */
  readonly socketPath: string;
  readonly cniConfDirs: readonly string[];
  readonly cniBinDirs: readonly string[];
  /** Where results are written for other programs, in libcni's format; nowhere when absent. */
  readonly cniCacheDir?: string;
  /** Milliseconds a CNI command may take over a whole chain, where it is not the usual time. */
  readonly cniTimeoutsMs: Readonly<Partial<Record<(typeof CNI_COMMANDS)[number], number>>>;
  readonly cniConcurrency: CniConcurrency;
  /** Pause between two rounds of CHECK of all running containers; 0: no rounds. */
  readonly cniCheckIntervalMs: number;
  /** Subnets that networks to be created get theirs from, when none is named: "10.64.0.0/12". */
  readonly networkPools: readonly string[];
  readonly csiPluginDir: string;
  readonly csiConfDir: string;
  /** Where registrars of kubelet's plugin registration put their sockets. */
  readonly csiRegistrationDir: string;
  /** Start and supervise the embedded driver local.csi.berth. */
  readonly csiLocalDriver: boolean;
  /** The embedded driver wants volumes attached (ControllerPublishVolume) before they are used. */
  readonly csiLocalAttach: boolean;
  /** The most volumes the embedded driver takes on this machine at once; 0: any number. */
  readonly csiLocalMaxVolumes: number;
  /** Where the files of volume classes are. */
  readonly volumeClassDir: string;
  /** Pause between two rounds of questions to plugins how their volumes fare; 0: nobody asks. */
  readonly csiConditionIntervalMs: number;
  /** Changing calls that the controller of one CSI plugin is given at a time. */
  readonly csiControllerCalls: number;
  /** "auto", "crun", "runc", or the path of an OCI runtime. */
  readonly runtime: string;
  /** Name of Berth's cgroup in every hierarchy. */
  readonly cgroupParent: string;
  readonly logLevel: (typeof LOG_LEVELS)[number];
}

/** CNI configurations also lie directly in /etc/cni on some machines. */
const DEFAULT_CNI_CONF_DIRS = ['/etc/cni/net.d', '/etc/cni'] as const;
const DEFAULT_CNI_BIN_DIRS = ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'] as const;
const DEFAULT_NETWORK_POOL = '10.64.0.0/12';
const DEFAULT_CONFIG_FILE = '/etc/berth/berthd.toml';
const MAX_SOCKET_PATH_BYTES = 107;

/** A number in a file, digits on the command line. */
const count: z.ZodType<number> = z.union([
  z.int().min(0),
  z
    .string()
    .regex(/^\d{1,6}$/, 'expected a whole number')
    .transform(Number),
]);

const settingsSchema = z.strictObject({
  root: z.string(),
  run: z.string(),
  listen: z.string(),
  'cni-conf-dir': z.array(z.string()).min(1),
  'cni-bin-dir': z.array(z.string()).min(1),
  'cni-cache-dir': z.string().optional(),
  'cni-timeout': z.array(z.string()),
  'cni-concurrency': z.union([z.number(), z.string(), z.array(z.union([z.number(), z.string()]))]),
  'cni-check-interval': count,
  'network-pool': z.array(z.string()),
  'csi-plugin-dir': z.string(),
  'csi-conf-dir': z.string(),
  'csi-registration-dir': z.string(),
  'csi-local-driver': z.boolean(),
  'csi-local-attach': z.boolean(),
  'csi-local-max-volumes': count,
  'volume-class-dir': z.string(),
  'csi-controller-calls': count,
  'csi-condition-interval': count,
  runtime: z.string(),
  'cgroup-parent': z.string(),
  'log-level': z.enum(LOG_LEVELS),
});
type Settings = z.infer<typeof settingsSchema>;

/**
 * Reads flags and files.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the flag or the file and key
 */
export function readConfig(argv: readonly string[], version: string): Config {
  const program = berthdCommand(version);
  program.parse([...argv], { from: 'user' });
  const flags = settingsOfFlags(program);
  const file = program.getOptionValue('config');
  const chosen = typeof file === 'string';
  const fromFiles = readFiles(chosen ? file : DEFAULT_CONFIG_FILE, chosen);
  return configOf({ ...fromFiles, ...flags });
}

/** The environment of this process, for what a user may refer to by name. It may hold secrets: it is never shown. */
export function daemonEnvironment(): Readonly<Record<string, string | undefined>> {
  return process.env;
}

function berthdCommand(version: string): Command {
  const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];
  return new Command('berthd')
    .description(
      'Runs containers with CNI networks and CSI volumes on this machine.\n\n' +
        'Flags win over /etc/berth/berthd.toml and /etc/berth/berthd.toml.d/*.toml, which hold the same names\n' +
        '(run = "/run/berth"). Containers go on running when berthd stops; a start finds them again.',
    )
    .version(version)
    .option('--config <file>', `configuration file (default: ${DEFAULT_CONFIG_FILE})`)
    .option('--root <dir>', 'data that survives a reboot (default: /var/lib/berth)')
    .option('--run <dir>', 'data that does not: sockets, namespaces (default: /run/berth)')
    .option('--listen <address>', 'unix socket of the API (default: unix://RUN/berthd.sock)')
    .option(
      '--cni-conf-dir <dir>',
      `CNI configurations, repeatable (default: ${DEFAULT_CNI_CONF_DIRS.join(', ')})`,
      collect,
    )
    .option('--cni-bin-dir <dir>', `CNI plugins, repeatable (default: ${DEFAULT_CNI_BIN_DIRS.join(', ')})`, collect)
    .option('--cni-cache-dir <dir>', "write results for other programs too, in libcni's format (default: nowhere)")
    .option(
      '--cni-timeout <command=seconds>',
      'longest run of a CNI command, repeatable: ADD=60, DEL=30, CHECK, GC, STATUS, VERSION',
      collect,
    )
    .option(
      '--cni-concurrency <n or network=n>',
      'CNI chains side by side on every network, or on the one named; repeatable (default: 0, any number)',
      collect,
    )
    .option('--cni-check-interval <seconds>', 'check networks of running containers this often (default: 0, never)')
    .option(
      '--network-pool <subnet>',
      `where networks to be created get their subnets from, repeatable (default: ${DEFAULT_NETWORK_POOL})`,
      collect,
    )
    .option('--csi-plugin-dir <dir>', 'CSI plugins register by a socket in here (default: RUN/csi)')
    .option('--csi-conf-dir <dir>', 'CSI plugins registered by a file (default: /etc/berth/csi.d)')
    .option(
      '--csi-registration-dir <dir>',
      "CSI plugins register by kubelet's plugin registration in here (default: RUN/csi-registry)",
    )
    .option('--no-csi-local-driver', 'do not start the embedded driver local.csi.berth')
    .option('--csi-local-attach', 'the embedded driver attaches volumes before they are used (default: it need not)')
    .option(
      '--csi-local-max-volumes <n>',
      'volumes of the embedded driver that are used here at once (default: 0, any number)',
    )
    .option('--volume-class-dir <dir>', 'volume classes, a file for each (default: /etc/berth/volumes.d)')
    .option('--csi-controller-calls <n>', 'changing calls to the controller of one CSI plugin at a time (default: 1)')
    .option(
      '--csi-condition-interval <seconds>',
      'ask CSI plugins this often how their volumes fare (default: 60; 0: never)',
    )
    .option('--runtime <name>', 'auto, crun, runc, or the path of an OCI runtime (default: auto)')
    .option('--cgroup-parent <name>', "name of Berth's cgroup (default: berth)")
    .addOption(
      new Option('--log-level <level>', 'how much is logged to stderr (default: info)').choices([...LOG_LEVELS]),
    )
    .allowExcessArguments(false)
    .showHelpAfterError('Run berthd --help for what each flag takes.');
}

/** Flags that were given, under their file names; what was not given is absent. */
function settingsOfFlags(program: Command): Partial<Record<keyof Settings, unknown>> {
  const given = program.options.flatMap((option) => {
    const key = option.attributeName();
    if (program.getOptionValueSource(key) !== 'cli') return [];
    const name = option.long?.replace(/^--(no-)?/, '') ?? '';
    return name === 'config' || name === 'version' ? [] : [[name, program.getOptionValue(key)] as const];
  });
  return Object.fromEntries(given);
}

function readFiles(file: string, required: boolean): Partial<Record<keyof Settings, unknown>> {
  const dropIns = globSync(`${file}.d/*.toml`).sort();
  const files = required || existsSync(file) ? [file, ...dropIns] : dropIns;
  return Object.assign({}, ...files.map(readFile));
}

function readFile(file: string): Record<string, unknown> {
  try {
    return parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new RuntimeError('INVALID_ARGUMENT', `configuration file ${file}: ${reason}`, { cause: error });
  }
}

function configOf(given: Partial<Record<keyof Settings, unknown>>): Config {
  const run = typeof given.run === 'string' ? given.run : '/run/berth';
  const defaults: Settings = {
    root: '/var/lib/berth',
    run,
    listen: `unix://${run}/berthd.sock`,
    'cni-conf-dir': [...DEFAULT_CNI_CONF_DIRS],
    'cni-bin-dir': [...DEFAULT_CNI_BIN_DIRS],
    'cni-timeout': [],
    'cni-concurrency': [],
    'cni-check-interval': 0,
    'network-pool': [DEFAULT_NETWORK_POOL],
    'csi-plugin-dir': `${run}/csi`,
    'csi-conf-dir': '/etc/berth/csi.d',
    'csi-registration-dir': `${run}/csi-registry`,
    'csi-local-driver': true,
    'csi-local-attach': false,
    'csi-local-max-volumes': 0,
    'volume-class-dir': '/etc/berth/volumes.d',
    'csi-controller-calls': 1,
    'csi-condition-interval': 60,
    runtime: 'auto',
    'cgroup-parent': 'berth',
    'log-level': 'info',
  };
  const parsed = settingsSchema.safeParse({ ...defaults, ...given });
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const key = issue?.code === 'unrecognized_keys' ? issue.keys.join(', ') : issue?.path.join('.');
    throw invalid(String(key), issue?.message ?? 'not understood');
  }
  const settings = parsed.data;
  return {
    root: rootPath(directory('root', settings.root)),
    run: directory('run', settings.run),
    socketPath: socketPath(settings.listen),
    cniConfDirs: settings['cni-conf-dir'].map((dir) => directory('cni-conf-dir', dir)),
    cniBinDirs: settings['cni-bin-dir'].map((dir) => directory('cni-bin-dir', dir)),
    ...(settings['cni-cache-dir'] === undefined
      ? {}
      : { cniCacheDir: directory('cni-cache-dir', settings['cni-cache-dir']) }),
    cniTimeoutsMs: Object.fromEntries(settings['cni-timeout'].map(cniTimeout)),
    cniConcurrency: cniConcurrency([settings['cni-concurrency']].flat().map(String)),
    cniCheckIntervalMs: settings['cni-check-interval'] * 1000,
    networkPools: settings['network-pool'].map(pool),
    csiPluginDir: directory('csi-plugin-dir', settings['csi-plugin-dir']),
    csiConfDir: directory('csi-conf-dir', settings['csi-conf-dir']),
    csiRegistrationDir: directory('csi-registration-dir', settings['csi-registration-dir']),
    csiLocalDriver: settings['csi-local-driver'],
    csiLocalAttach: settings['csi-local-attach'],
    csiLocalMaxVolumes: settings['csi-local-max-volumes'],
    volumeClassDir: directory('volume-class-dir', settings['volume-class-dir']),
    csiControllerCalls: controllerCalls(settings['csi-controller-calls']),
    csiConditionIntervalMs: settings['csi-condition-interval'] * 1000,
    runtime: settings.runtime,
    cgroupParent: cgroupName(settings['cgroup-parent']),
    logLevel: settings['log-level'],
  };
}

/** An absolute directory in normal form. ":" separates directories in CNI_PATH and layers in overlay options, "," mount options. */
function directory(flag: string, path: string): string {
  if (!path.startsWith('/')) throw invalid(flag, `${JSON.stringify(path)} must be an absolute path`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\u0000-\u001f\u007f:,\\"]/.test(path)) {
    throw invalid(flag, `${JSON.stringify(path)} has a character that paths of mounts cannot hold`);
  }
  const normal = posix.normalize(path).replace(/(.)\/$/, '$1');
  if (normal === '/') throw invalid(flag, "the root directory is not Berth's to use");
  return normal;
}

function socketPath(listen: string): string {
  const match = /^unix:(?:\/\/)?(\/.+)$/.exec(listen);
  if (match?.[1] === undefined) throw invalid('listen', `${JSON.stringify(listen)} must be unix:///path/of/socket`);
  if (Buffer.byteLength(match[1]) > MAX_SOCKET_PATH_BYTES) {
    throw invalid('listen', `the path is longer than ${MAX_SOCKET_PATH_BYTES} bytes, the most a socket can have`);
  }
  return directory('listen', match[1]);
}

/** One name, no path: nobody else's cgroup can be meant by accident. */
function cgroupName(name: string): string {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$/.test(name)) {
    throw invalid('cgroup-parent', `${JSON.stringify(name)} must be one name of letters, digits, "_", "." and "-"`);
  }
  return name;
}
