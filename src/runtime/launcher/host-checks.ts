/**
 * What the launcher needs of the host, as lines of `berth doctor`: a runtime, conmon, cgroups, features of the kernel.
 */
import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import type { Check } from '../../check.ts';
import { hostCommand } from '../../host-command.ts';
import { type CgroupLayout, hierarchyOf, readCgroupLayout } from '../cgroup-layout.ts';
import { crunObjection, findProgram, type OciRuntime } from './oci-runtime.ts';

/** Controllers Berth sets limits in. */
const CONTROLLERS = ['memory', 'pids', 'cpu'] as const;
const VERSION_TIMEOUT_MS = 10_000;

export interface HostChecksOptions {
  /** What `selectRuntime` chose, or why it could choose none. */
  readonly runtime: OciRuntime | Error;
  readonly conmonPath: string;
}

/** One line for each thing; what fails says how to mend it. */
export async function hostChecks(options: HostChecksOptions, signal: AbortSignal): Promise<Check[]> {
  const layout = readCgroupLayout();
  return [
    runtimeCheck(options.runtime, layout),
    await conmonCheck(options.conmonPath, signal),
    layoutCheck(layout),
    ...CONTROLLERS.map((name) => controllerCheck(layout, name)),
    ...kernelChecks(),
  ];
}

function runtimeCheck(runtime: OciRuntime | Error, layout: CgroupLayout): Check {
  const line = { area: 'runtime', name: 'OCI runtime' };
  if (runtime instanceof Error) {
    return { ...line, state: 'fail', detail: runtime.message, remedy: 'apt-get install -y crun runc' };
  }
  const objection = runtime.name === 'crun' ? crunObjection(layout) : undefined;
  const detail = `${runtime.path} (${runtime.version}): ${objection ?? runtime.reason}`;
  if (objection === undefined) return { ...line, state: 'ok', detail };
  return { ...line, state: 'fail', detail, remedy: crunRemedy(layout) };
}

async function conmonCheck(path: string, signal: AbortSignal): Promise<Check> {
  const line = { area: 'runtime', name: 'conmon' };
  const remedy = 'apt-get install -y conmon';
  try {
    const said = await hostCommand(path, ['--version'], signal, { timeoutMs: VERSION_TIMEOUT_MS });
    const version = /^conmon version (\d+)\.(\S+)/m.exec(said);
    const detail = `${path} (${said.split('\n', 1)[0] ?? ''})`;
    if (Number(version?.[1]) >= 2) return { ...line, state: 'ok', detail };
    return { ...line, state: 'fail', detail: `${detail}: version 2 or later is needed`, remedy };
  } catch (error) {
    if (signal.aborted) throw error;
    return { ...line, state: 'fail', detail: error instanceof Error ? error.message : String(error), remedy };
  }
}

function layoutCheck(layout: CgroupLayout): Check {
  const line = { area: 'cgroups', name: 'layout' };
  if (layout.mode === 'none') {
    const remedy = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup';
    return { ...line, state: 'fail', detail: 'no cgroup hierarchy is mounted', remedy };
  }
  const trees = layout.hierarchies.filter((hierarchy) => hierarchy.kind !== 'plain').length;
  const detail = `${layout.mode}, ${trees} ${trees === 1 ? 'hierarchy' : 'hierarchies'}`;
  const objection = crunObjection(layout);
  if (objection === undefined || findProgram('crun') === undefined) return { ...line, state: 'ok', detail };
  return { ...line, state: 'warn', detail: `${detail}; crun refuses it: ${objection}`, remedy: crunRemedy(layout) };
}

/** On a hybrid host, takes the controllers out of the v2 tree: a controller is in one hierarchy at a time. */
function crunRemedy(layout: CgroupLayout): string {
  if (layout.mode !== 'hybrid') return 'apt-get install -y runc';
  const unified = layout.hierarchies.find((hierarchy) => hierarchy.kind === 'v2');
  const mounts = (unified?.controllers ?? []).map((name) => {
    const path = `/sys/fs/cgroup/${name}`;
    return `mkdir -p ${path} && mount -t cgroup -o ${name} cgroup ${path}`;
  });
  return mounts.join(' && ');
}

function controllerCheck(layout: CgroupLayout, name: (typeof CONTROLLERS)[number]): Check {
  const line = { area: 'cgroups', name: `${name} controller` };
  const tree = hierarchyOf(layout, name);
  if (tree !== undefined) return { ...line, state: 'ok', detail: tree.mountPoint };
  const path = `/sys/fs/cgroup/${name}`;
  const remedy =
    layout.mode === 'v2'
      ? `add cgroup_enable=${name} to the kernel command line and reboot`
      : `mkdir -p ${path} && mount -t cgroup -o ${name} cgroup ${path}`;
  return { ...line, state: 'warn', detail: 'not mounted: limits cannot be set', remedy };
}

function kernelChecks(): Check[] {
  return [
    fileSystemCheck('overlay', 'fail'),
    fileSystemCheck('ext4', 'warn'),
    fileSystemCheck('xfs', 'warn'),
    presence('loop devices', '/dev/loop-control', 'warn', 'modprobe loop'),
    presence('seccomp filter', '/proc/sys/kernel/seccomp/actions_avail', 'fail', 'boot a kernel with SECCOMP_FILTER'),
    presence('pid namespaces', '/proc/self/ns/pid', 'fail', 'boot a kernel with CONFIG_PID_NS'),
    presence('network namespaces', '/proc/self/ns/net', 'fail', 'boot a kernel with CONFIG_NET_NS'),
    presence('user namespaces', '/proc/self/ns/user', 'warn', 'boot a kernel with CONFIG_USER_NS'),
  ];
}

type Severity = 'warn' | 'fail';

function presence(name: string, path: string, severity: Severity, remedy: string): Check {
  const line = { area: 'kernel', name };
  if (existsSync(path)) return { ...line, state: 'ok', detail: path };
  return { ...line, state: severity, detail: `${path} is missing`, remedy };
}

/** A file system the kernel has, or can load when it is first mounted. */
function fileSystemCheck(name: string, severity: Severity): Check {
  const line = { area: 'kernel', name: `${name} file system` };
  if (new RegExp(`\\t${name}$`, 'm').test(readFileSync('/proc/filesystems', 'utf8'))) {
    return { ...line, state: 'ok', detail: 'available' };
  }
  const modules = `/lib/modules/${release()}/modules.dep`;
  if (existsSync(modules) && readFileSync(modules, 'utf8').includes(`/${name}.ko`)) {
    return { ...line, state: 'ok', detail: 'available as a module' };
  }
  return { ...line, state: severity, detail: 'unknown to the kernel', remedy: `modprobe ${name}` };
}
