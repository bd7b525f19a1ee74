/** What `berth doctor` says about networks: plugins, configurations, and what the usual plugins need of the host. */
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Check } from '../check.ts';
import { type Code, RuntimeError } from '../errors.ts';
import { HOST_ENV } from '../host-command.ts';
import { executablesOf } from './network.ts';
import type { NetworkConfigs, NetworkSummary } from './network-config.ts';
import type { PluginPath } from './plugin-path.ts';

const AREA = 'network';
const INSTALL_PLUGINS = 'apt-get install -y containernetworking-plugins';
/** Gives files of the package their owner and mode back. */
const REINSTALL_PLUGINS = 'apt-get install --reinstall -y containernetworking-plugins';
/** Plugins that call iptables. */
const RULE_MAKERS: ReadonlySet<string> = new Set(['bridge', 'ptp', 'portmap', 'firewall']);

/** Looks at the host; changes nothing. */
export function networkChecks(configs: NetworkConfigs, plugins: PluginPath): Check[] {
  const networks = configs.list();
  return [
    pluginDirectories(plugins),
    configDirectories(configs, networks),
    ...networks.map((summary) => network(summary, configs, plugins)),
    program('unshare', 'util-linux', 'makes network namespaces'),
    program('umount', 'util-linux', 'removes network namespaces'),
    program('ip', 'iproute2', 'raises the loopback interface'),
    iptables(networks),
    forwarding(),
    kernelModule('bridge'),
    kernelModule('veth'),
  ];
}

function pluginDirectories(plugins: PluginPath): Check {
  const dirs = plugins.given;
  const present = dirs.filter(isDirectory);
  if (present.length > 0) return ok('CNI plugins', present.join(', '));
  return bad('fail', 'CNI plugins', `none of ${dirs.join(', ')} exists`, INSTALL_PLUGINS);
}

function configDirectories(configs: NetworkConfigs, networks: readonly NetworkSummary[]): Check {
  const name = 'CNI configurations';
  const where = configs.directories().join(', ');
  const first = networks.find((candidate) => candidate.isDefault);
  if (first !== undefined) return ok(name, `${where}; default network ${first.name}`);
  return bad('fail', name, `${where}: no network can be used`, 'berth network ls');
}

function network(summary: NetworkSummary, configs: NetworkConfigs, plugins: PluginPath): Check {
  const { name, file, state, reason, cniVersion } = summary;
  const title = `network ${name || file}`;
  switch (state) {
    case 'ready':
      return ok(title, `${file}: ${summary.plugins.join(', ')} (${cniVersion})`);
    case 'missing-plugin':
      return bad('fail', title, `${file}: ${reason}`, pluginRemedy(file, failuresOf(name, configs, plugins)));
    case 'invalid':
      return bad('fail', title, `${file}: ${reason}`, edit(file));
    case 'shadowed':
      return bad('warn', title, `${file}: ${reason}`, `mv ${quoted(file)} ${quoted(`${file}.disabled`)}`);
  }
}

/** Why plugins of a network cannot be run, each as a code. */
function failuresOf(name: string, configs: NetworkConfigs, plugins: PluginPath): ReadonlySet<Code> {
  const types = configs.inspect(name).config.plugins.flatMap(executablesOf);
  return new Set(types.flatMap((type) => failureOf(type, plugins) ?? []));
}

function failureOf(type: string, plugins: PluginPath): Code | undefined {
  try {
    plugins.find(type);
    return undefined;
  } catch (error) {
    return RuntimeError.from(error, `find CNI plugin ${type}`).code;
  }
}

function pluginRemedy(file: string, failures: ReadonlySet<Code>): string {
  if (failures.has('INVALID_ARGUMENT')) return edit(file);
  return failures.has('PERMISSION_DENIED') ? REINSTALL_PLUGINS : INSTALL_PLUGINS;
}

function edit(file: string): string {
  return `\${EDITOR:-vi} ${quoted(file)}`;
}

function program(name: string, pack: string, purpose: string): Check {
  const path = findProgram(name);
  if (path !== undefined) return ok(name, path);
  return bad('fail', name, `not installed: ${purpose}`, `apt-get install -y ${pack}`);
}

function iptables(networks: readonly NetworkSummary[]): Check {
  const path = findProgram('iptables');
  if (path !== undefined) return ok('iptables', path);
  const users = networks.filter(({ plugins }) => plugins.some((type) => RULE_MAKERS.has(type)));
  const detail = `not installed: ${users.map(({ name }) => name).join(', ') || 'no network'} may need it`;
  return bad(users.length > 0 ? 'fail' : 'warn', 'iptables', detail, 'apt-get install -y iptables');
}

function forwarding(): Check {
  const name = 'IP forwarding';
  const value = readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8').trim();
  if (value === '1') return ok(name, 'on');
  const detail = 'off: the bridge plugin switches it on with the first container, other plugins do not';
  return bad('warn', name, detail, 'sysctl -w net.ipv4.ip_forward=1');
}

/** Built in, loaded, or to be loaded: the kernel loads both by itself when an interface of the kind is made. */
function kernelModule(name: string): Check {
  const title = `kernel module ${name}`;
  if (existsSync(`/sys/module/${name}`)) return ok(title, 'loaded or built in');
  const release = readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim();
  const lists = ['modules.builtin', 'modules.dep'].map((list) => join('/lib/modules', release, list));
  const known = lists.filter(existsSync);
  if (known.some((list) => readFileSync(list, 'utf8').includes(`/${name}.ko`))) return ok(title, 'available');
  // Without the lists of a kernel that came without its modules nothing can be told: most have both built in.
  if (known.length === 0) return ok(title, 'not known: the kernel lists no modules');
  return bad('warn', title, 'neither loaded nor to be found', `modprobe ${name}`);
}

function findProgram(name: string): string | undefined {
  const dirs = (HOST_ENV['PATH'] ?? '').split(delimiter);
  return dirs.map((dir) => join(dir, name)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

function quoted(word: string): string {
  return /^[\w./@:+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

function ok(name: string, detail: string): Check {
  return { area: AREA, name, state: 'ok', detail };
}

function bad(state: 'warn' | 'fail', name: string, detail: string, remedy: string): Check {
  return { area: AREA, name, state, detail, remedy };
}
