/** `csi ls | inspect | register | unregister | probe | logs`. */
import { type Command, Option } from 'commander';
import type { Parameter__Output } from '../api/generated/berth/v1/Parameter.ts';
import type { Plugin__Output } from '../api/generated/berth/v1/Plugin.ts';
import type { PluginSocket__Output } from '../api/generated/berth/v1/PluginSocket.ts';
import { addCapacity } from './driver-volumes.ts';
import { tailOf } from './logs.ts';
import { supervisionObject } from './plugin-supervision-view.ts';
import { type Format, formatOption, jsonOption, type Session } from './session.ts';
import type { Column } from './table.ts';

interface RegisterFlags {
  readonly name?: string;
  readonly controllerSocket?: string;
}

/** Adds the group to the program. */
export function addPluginVerbs(program: Command, session: Session): void {
  const group = program
    .command('csi')
    .summary('CSI plugins: ls, inspect, register, unregister, probe, capacity, logs')
    .description(
      'CSI plugins of this host: programs that make volumes and mount them. Berth runs those whose file in the\n' +
        'configuration directory has a command or an image, and uses others wherever they listen.',
    );
  addLs(group, session);
  group
    .command('inspect')
    .summary('show everything about CSI plugins')
    .description(
      'Shows everything about CSI plugins as a JSON array: sockets, probes, capabilities, and how each came\n' +
        'to be known.',
    )
    .argument('<plugin...>', 'name, or path of a socket or file where there is no name')
    .addOption(jsonOption())
    .action(async (names: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const plugins = await Promise.all(names.map((name) => daemon.call('Plugins', 'Inspect', { name })));
      await session.printJson(plugins.map(pluginObject));
    });
  addRegister(group, session);
  addUnregister(group, session);
  addProbe(group, session);
  addCapacity(group, session);
  addLogs(group, session);
}

function addLs(group: Command, session: Session): void {
  group
    .command('ls')
    .alias('list')
    .summary('list CSI plugins')
    .description(
      'Lists the CSI plugins that are known, also those that do not answer, are refused, or whose file is\n' +
        'not understood, with the reason.',
    )
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { plugins } = await daemon.call('Plugins', 'List', {});
      await session.printList(format, plugins, { columns: COLUMNS, json: pluginObject });
    });
}

function addRegister(group: Command, session: Session): void {
  group
    .command('register')
    .summary('register a CSI plugin by its socket')
    .description(
      'Registers a CSI plugin that answers at a socket, and prints its name. berthd remembers it. Files in the\n' +
        "configuration directory, sockets in the plugin directory and kubelet's plugin registration do the same.",
    )
    .argument('<socket>', 'unix:///path/of/csi.sock, or the absolute path')
    .option('--name <name>', 'refuse a plugin that gives itself another name')
    .option('--controller-socket <socket>', 'where its Controller service listens when that is elsewhere')
    .addHelpText(
      'after',
      '\nExamples:\n  berth csi register /run/some/csi.sock\n' +
        '  berth csi register /run/some/node.sock --controller-socket /run/some/controller.sock',
    )
    .action(async (socket: string, flags: RegisterFlags, command: Command) => {
      const daemon = await session.daemon(command);
      const { name = '', controllerSocket = '' } = flags;
      const plugin = await daemon.call('Plugins', 'Register', { socket, name, controllerSocket });
      await session.print(`${plugin.name}\n`);
    });
}

function addUnregister(group: Command, session: Session): void {
  group
    .command('unregister')
    .summary('forget CSI plugins that were registered by a command')
    .description(
      'Forgets CSI plugins that "csi register" made known; they go on running. Refused while volumes of the\n' +
        'plugin are in use.',
    )
    .argument('<plugin...>', 'name')
    .option('-f, --force', 'also while volumes are in use: they stay as they are until the plugin is back')
    .action(async (names: string[], { force = false }: { force?: boolean }, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(names, async (name) => {
        await daemon.call('Plugins', 'Unregister', { name, force });
        return `${name}\n`;
      });
    });
}

function addProbe(group: Command, session: Session): void {
  group
    .command('probe')
    .summary('ask a CSI plugin anew')
    .description(
      'Asks all sockets of a CSI plugin anew: its name, whether it is ready, what it offers, what it calls this\n' +
        'machine. Ends with 1 when it is not ready.',
    )
    .argument('<plugin>', 'name, or path of a socket')
    .addOption(formatOption())
    .action(async (name: string, { format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const plugin = await daemon.call('Plugins', 'Probe', { name });
      if (format === 'json') await session.printJson(pluginObject(plugin));
      else await session.printList(format, plugin.sockets, { columns: SOCKET_COLUMNS, json: socketObject });
      if (stateName(plugin) !== 'ready') session.exitCode = 1;
    });
}

function addLogs(group: Command, session: Session): void {
  group
    .command('logs')
    .summary('show what a CSI plugin wrote that Berth runs')
    .description(
      'Shows what a CSI plugin that Berth runs wrote, in all its runs. Plugins run by others keep their own logs.',
    )
    .argument('<plugin>', 'name, or its file in the configuration directory without ".toml"')
    .option('-f, --follow', 'go on until the plugin is gone with its file')
    .addOption(new Option('-n, --tail <lines>', 'only the last lines').default('all'))
    .addHelpText('after', '\nExample:\n  berth csi logs -f --tail 20 some.csi.example')
    .action(async (name: string, flags: { follow?: boolean; tail: string }, command: Command) => {
      const request = { name, follow: flags.follow ?? false, ...tailOf(flags.tail) };
      const daemon = await session.daemon(command);
      for await (const { data } of daemon.stream('Plugins', 'Logs', request)) await session.print(data);
    });
}

const COLUMNS: readonly Column<Plugin__Output>[] = [
  { heading: 'NAME', cell: ({ name }) => (name === '' ? '-' : name) },
  { heading: 'STATE', cell: (plugin) => stateName(plugin) },
  { heading: 'SERVES', cell: ({ sockets }) => [...new Set(sockets.flatMap(({ serves }) => serves))].sort().join(' ') },
  { heading: 'VERSION', cell: ({ vendorVersion }) => vendorVersion },
  { heading: 'SOCKET', cell: ({ sockets, socket }) => sockets.map(({ path }) => path).join(' ') || socket },
  { heading: 'BY', cell: ({ registrations }) => registrations.map(({ source }) => source).join(' ') },
  { heading: 'SINCE', cell: ({ sinceAt }) => sinceAt },
  { heading: 'REASON', cell: ({ reason }) => reason },
];

const SOCKET_COLUMNS: readonly Column<PluginSocket__Output>[] = [
  { heading: 'SOCKET', cell: ({ path }) => path },
  { heading: 'STATE', cell: (socket) => stateName(socket) },
  { heading: 'SERVES', cell: ({ serves }) => serves.join(' ') },
  { heading: 'LAST SUCCESS', cell: ({ lastSuccessAt }) => lastSuccessAt ?? '-' },
  { heading: 'FAILURES', cell: ({ failuresInARow }) => String(failuresInARow) },
  { heading: 'REASON', cell: ({ reason }) => reason },
];

/** "ready", "starting", "unreachable", "refused", "invalid". */
function stateName({ state }: { readonly state: Plugin__Output['state'] }): string {
  return String(state).replace('PLUGIN_STATE_', '').toLowerCase().replace('_', '-');
}

function pluginObject(plugin: Plugin__Output): Record<string, unknown> {
  const { name, socket, reason, sinceAt, vendorVersion, capabilities, nodeId, maxVolumesPerNode } = plugin;
  return {
    name,
    socket,
    state: stateName(plugin),
    reason,
    sinceAt,
    vendorVersion,
    manifest: mapOf(plugin.manifest),
    capabilities,
    nodeId: nodeId ?? null,
    topology: mapOf(plugin.topology),
    maxVolumesPerNode: maxVolumesPerNode === undefined ? null : Number(maxVolumesPerNode),
    sockets: plugin.sockets.map(socketObject),
    registrations: plugin.registrations.map(({ source, origin }) => ({ source, origin })),
    supervision: supervisionObject(plugin.supervision),
    processes: plugin.processes.map(supervisionObject),
  };
}

function socketObject(socket: PluginSocket__Output): Record<string, unknown> {
  const { path, role, reason, serves, sinceAt, lastProbeAt, lastSuccessAt, failuresInARow } = socket;
  return {
    path,
    role: role === '' ? null : role,
    state: stateName(socket),
    reason,
    serves,
    sinceAt,
    lastProbeAt: lastProbeAt ?? null,
    lastSuccessAt: lastSuccessAt ?? null,
    failuresInARow,
  };
}

function mapOf(pairs: readonly Parameter__Output[]): Record<string, string> {
  return Object.fromEntries(pairs.map(({ key, value }) => [key, value]));
}
