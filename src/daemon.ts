/**
 * The parts of a daemon, made in the order in which they need each other: configuration -> objects -> recovered ->
 * serving, and back. The only module, beside main, that knows every other; it holds no logic of their own concerns.
 */

import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { ContainersService } from './api/containers-service.ts';
import { ImagesService } from './api/images-service.ts';
import { IpamService } from './api/ipam-service.ts';
import { NetworksService } from './api/networks-service.ts';
import { PluginsService } from './api/plugins-service.ts';
import { ApiServer } from './api/server.ts';
import { GroupSnapshotsService, SnapshotsService } from './api/snapshots-service.ts';
import { type Fact, SystemService } from './api/system-service.ts';
import { VolumeClassesService } from './api/volume-classes-service.ts';
import { VolumesService } from './api/volumes-service.ts';
import type { Check } from './check.ts';
import type { HostSide } from './cni/attacher.ts';
import { CniRuntime } from './cni/cni-runtime.ts';
import { pluginExecutor } from './cni/exec.ts';
import { networkChecks } from './cni/network-checks.ts';
import { conditionOf } from './cni/network-condition.ts';
import { NetworkConfigs } from './cni/network-config.ts';
import { NetworkGate } from './cni/network-gate.ts';
import { NetworkIsolator } from './cni/network-isolator.ts';
import { decodeNetworkRecord, type NetworkRecord } from './cni/network-record.ts';
import { PluginPath } from './cni/plugin-path.ts';
import { PluginRuns } from './cni/plugin-runs.ts';
import { PluginVersions } from './cni/plugin-versions.ts';
import { ResultCache } from './cni/result-cache.ts';
import type { Config } from './config.ts';
import { LOCAL_DRIVER_NAME } from './csi/local/local-driver.ts';
import { pluginChecks, propagationCheck } from './csi/plugin-checks.ts';
import { VolumeDrain } from './csi/volume-drain.ts';
import { VolumeIsolator } from './csi/volume-isolator.ts';
import { lockDirectory } from './daemon-lock.ts';
import { RuntimeError } from './errors.ts';
import { decodeImageRecord } from './image/image-record.ts';
import { ImageStore } from './image/image-store.ts';
import { RootfsIsolator } from './image/rootfs-isolator.ts';
import { parseSubnet } from './ipam/address.ts';
import { Ipam } from './ipam/ipam.ts';
import { ipamChecks } from './ipam/ipam-checks.ts';
import { installIpamPlugin } from './ipam/ipam-plugin.ts';
import { IpamServer } from './ipam/ipam-server.ts';
import { decodeLease, type Lease } from './ipam/lease-table.ts';
import { hostSide } from './networks/host-side.ts';
import { NetworkOperations } from './networks/network-operations.ts';
import { PACKAGE_DIR } from './package-dir.ts';
import { readBootId } from './process-identity.ts';
import type { RunProgram } from './run-program.ts';
import { CgroupTree } from './runtime/cgroup-tree.ts';
import { decodeContainerRecord } from './runtime/container.ts';
import { Containerizer } from './runtime/containerizer.ts';
import type { Isolator } from './runtime/isolator.ts';
import { CapabilitiesIsolator } from './runtime/isolators/capabilities.ts';
import { CgroupsIsolator } from './runtime/isolators/cgroups.ts';
import { HostAccessIsolator } from './runtime/isolators/host-access.ts';
import { HostPathIsolator } from './runtime/isolators/host-path.ts';
import { NamespacesIsolator } from './runtime/isolators/namespaces.ts';
import { PathsIsolator } from './runtime/isolators/paths.ts';
import { RlimitsIsolator } from './runtime/isolators/rlimits.ts';
import { SeccompIsolator } from './runtime/isolators/seccomp.ts';
import { hostChecks } from './runtime/launcher/host-checks.ts';
import { OciLauncher } from './runtime/launcher/oci-launcher.ts';
import { findProgram, type OciRuntime, selectRuntime } from './runtime/launcher/oci-runtime.ts';
import { Spawner } from './spawner.ts';
import { Database, type Store } from './store.ts';
import { type PerformSystemCall, SystemCalls } from './system-calls.ts';
import { volumeParts } from './volume-parts.ts';

/** Where conmon is when it is not in the PATH: doctor names what is missing. */
const CONMON_FALLBACK = '/usr/bin/conmon';

/** A daemon that serves. */
export interface Daemon {
  /** Stops serving and lets go of everything; containers go on. */
  close(): Promise<void>;
}

/**
 * Makes the daemon's place its own, recovers what is there, and serves. What was begun is let go when it throws.
 * @throws {RuntimeError} FAILED_PRECONDITION when another daemon has the place, DATA_LOSS when the database is corrupt
 */
export async function startDaemon(config: Config, version: string, log: Logger, signal: AbortSignal): Promise<Daemon> {
  takePlace(config);
  await using parts = new AsyncDisposableStack();
  const database = new Database(`${config.root}/berth.db`);
  parts.defer(() => database.close());
  const spawner = new Spawner({ log });
  parts.defer(() => spawner.close());
  spawner.open();
  const run: RunProgram = (program, joint) => spawner.run(program, joint);
  const calls = new SystemCalls({ log });
  parts.defer(() => calls.close());
  calls.open();
  const systemCall: PerformSystemCall = (call, joint) => calls.perform(call, joint);
  const runtime = await chooseRuntime(config, log, signal);
  const conmonPath = findProgram('conmon') ?? CONMON_FALLBACK;

  const images = new ImageStore({ store: database.store('image', decodeImageRecord), rootDir: config.root, log });
  const ipam = ipamParts(config, database, log);
  parts.defer(() => ipam.server.stop());
  const network = networkParts(config, database, { run, systemCall }, log);
  const volume = volumeParts(config, database, run, log);
  parts.defer(() => volume.close());
  const launcher = new OciLauncher({
    runtime: runtime instanceof Error ? config.runtime : runtime.path,
    conmonPath,
    rootDir: config.root,
    runDir: config.run,
    cgroupParent: config.cgroupParent,
    run,
    start: (program) => spawner.start(program),
    log,
  });
  const containerizer = new Containerizer({
    launcher,
    isolators: [
      new RootfsIsolator({ images, rootDir: config.root, runDir: config.run, run, systemCall, log }),
      new VolumeIsolator({ volumes: volume.manager }),
      new HostPathIsolator({ protectedDirs: [config.root, config.run], runDir: config.run }),
      network.isolator,
      new CgroupsIsolator({ cgroupParent: config.cgroupParent, log }),
      new NamespacesIsolator(),
      new CapabilitiesIsolator(),
      new SeccompIsolator(),
      new RlimitsIsolator(),
      new PathsIsolator(),
      new HostAccessIsolator(),
    ] satisfies Isolator[],
    store: database.store('container', decodeContainerRecord),
    bootId: readBootId(),
    log,
  });
  parts.defer(() => containerizer.close());
  const drain = new VolumeDrain({
    volumes: volume.manager,
    stop: (id, timeoutMs, joint) => containerizer.stop(id, { timeoutMs }, joint),
    log,
  });
  parts.defer(() => drain.close());
  parts.defer(() => volume.supervised.close());

  // What recovery gives back goes through it.
  await ipam.server.start(signal);
  await Promise.all([images.recover(signal), volume.start(signal)]);
  await containerizer.recover(signal);
  volume.supervised.useContainers(containerizer);
  const operations = networkOperations(config, network, containerizer, { ipam: ipam.ipam, run, log });
  parts.defer(() => operations.close());
  await operations.recover(signal);
  await volume.manager.recover(signal);
  drain.recover();
  parts.defer(() => network.versions.close());
  askAhead(network.configs, signal, log);
  await volume.snapshots.recover(signal);

  const facts = (): Fact[] => factsOf(config, runtime, version);
  const checks = async (joint: AbortSignal): Promise<Check[]> => {
    await network.configs.learnVersions(joint);
    return [
      ...(await hostChecks({ runtime, conmonPath }, joint)),
      ...networkChecks(network.configs, network.plugins),
      ...ipamChecks(ipam.store),
      ...pluginChecks(volume.registry),
      ...(await volume.classes.checks()),
      propagationCheck(config.root),
    ];
  };
  const server = new ApiServer({
    socketPath: config.socketPath,
    services: {
      System: new SystemService({ version, startedAt: new Date().toISOString(), facts, checks }),
      Images: new ImagesService({ images, containers: containerizer }),
      Containers: new ContainersService({ containerizer, networks: network.configs }),
      Networks: new NetworksService({
        configs: network.configs,
        attachments: (name) => network.isolator.attachments(name),
        condition: (summary, joint) => conditionOf(summary, network, joint),
        operations,
        runs: network.runs,
        wanted: () => new Set(containerizer.list().flatMap(({ record }) => record.spec.network)),
      }),
      Volumes: new VolumesService(volume.manager, drain, volume),
      VolumeClasses: new VolumeClassesService(volume.classes),
      Snapshots: new SnapshotsService(volume.snapshots),
      GroupSnapshots: new GroupSnapshotsService(volume.snapshots),
      Plugins: new PluginsService(volume),
      Ipam: new IpamService({
        ipam: ipam.ipam,
        configs: network.configs,
        attachments: (name) => network.isolator.attachments(name),
      }),
    },
    log,
  });
  parts.defer(() => server.stop());
  await server.start(signal);

  const serving = parts.move();
  return { close: () => serving.disposeAsync() };
}

/** Directories that only root can look into; the run directory lets others through to the sockets plugins put there. */
function takePlace({ root, run, csiPluginDir, csiRegistrationDir }: Config): void {
  for (const [dir, mode] of [
    [root, 0o700],
    [run, 0o700],
    [csiPluginDir, 0o700],
    [csiRegistrationDir, 0o700],
  ] as const) {
    mkdirSync(dir, { recursive: true, mode });
    chmodSync(dir, mode);
  }
  lockDirectory(root);
  lockDirectory(run);
}

/** A host without a runtime still gets a daemon: it removes volumes, lists networks and says what is missing. */
async function chooseRuntime(config: Config, log: Logger, signal: AbortSignal): Promise<OciRuntime | Error> {
  try {
    const runtime = await selectRuntime(config.runtime, signal);
    log.info({ runtime: runtime.path, version: runtime.version, reason: runtime.reason }, 'runtime chosen');
    return runtime;
  } catch (error) {
    const reason = RuntimeError.from(error, `runtime ${config.runtime}`);
    if (reason.code === 'INVALID_ARGUMENT') throw reason;
    log.error({ err: reason }, 'no OCI runtime: containers cannot run, see berth doctor');
    return reason;
  }
}

/** Where plugins lie that come with Berth. */
function ownPluginDir({ root }: Config): string {
  return `${root}/cni-bin`;
}

function ipamParts(
  config: Config,
  database: Database,
  log: Logger,
): { readonly ipam: Ipam; readonly store: Store<Lease>; readonly server: IpamServer } {
  const socketPath = `${config.run}/ipam.sock`;
  installIpamPlugin(ownPluginDir(config), socketPath);
  const store = database.store('lease', decodeLease);
  const ipam = new Ipam({ store, log });
  return { ipam, store, server: new IpamServer({ socketPath, ipam, log }) };
}

interface NetworkParts {
  readonly plugins: PluginPath;
  readonly configs: NetworkConfigs;
  readonly versions: PluginVersions;
  readonly cni: CniRuntime;
  readonly runs: PluginRuns;
  readonly hostSide: HostSide;
  readonly gate: NetworkGate;
  readonly store: Store<NetworkRecord>;
  readonly cache: ResultCache | undefined;
  readonly cgroupPath: (id: string) => string;
  readonly isolator: NetworkIsolator;
}

function networkParts(
  config: Config,
  database: Database,
  tools: { readonly run: RunProgram; readonly systemCall: PerformSystemCall },
  log: Logger,
): NetworkParts {
  const plugins = new PluginPath(config.cniBinDirs, [ownPluginDir(config)]);
  const fallbackDir = join(PACKAGE_DIR, 'cni-conf');
  const { everywhere, networks } = config.cniConcurrency;
  const gate = new NetworkGate((network) => (networks.get(network) ?? everywhere) || Number.POSITIVE_INFINITY);
  const runs = new PluginRuns();
  const cni = new CniRuntime({
    plugins,
    exec: runs.watch(pluginExecutor(tools.run)),
    deadlinesMs: config.cniTimeoutsMs,
    gate,
    log,
  });
  const versions = new PluginVersions({ plugins, ask: (type, signal) => cni.version(type, signal), log });
  const configs = new NetworkConfigs({ confDirs: config.cniConfDirs, fallbackDir, plugins, versions, log });
  const store = database.store('network', decodeNetworkRecord);
  const cache = config.cniCacheDir === undefined ? undefined : new ResultCache(config.cniCacheDir);
  const cgroups = new CgroupTree({ parent: config.cgroupParent });
  const cgroupPath = (id: string): string => cgroups.pathOf(id);
  const records = { store, cache, hostSide: hostSide(tools.run) };
  const parts = { plugins, configs, cni, cgroupPath, ...records };
  const isolator = new NetworkIsolator({ ...parts, runDir: config.run, ...tools, log });
  return { ...parts, versions, runs, gate, isolator };
}

/** Has plugins tell their versions before a launch needs them, and does not wait for that. */
function askAhead(configs: NetworkConfigs, signal: AbortSignal, log: Logger): void {
  configs.learnVersions(signal).catch((error: unknown) => log.debug({ err: error }, 'CNI plugins not asked'));
}

function networkOperations(
  config: Config,
  network: NetworkParts,
  containerizer: Containerizer,
  tools: { readonly ipam: Ipam; readonly run: RunProgram; readonly log: Logger },
): NetworkOperations {
  const [confDir = ''] = config.cniConfDirs;
  const atRest = new Set(['created', 'exited']);
  return new NetworkOperations({
    ...network,
    ...tools,
    lanes: containerizer,
    stale: () => network.isolator.pending(),
    active: () => new Set(containerizer.list().flatMap(({ record, state }) => (atRest.has(state) ? [] : [record.id]))),
    confDir,
    leaseDir: `${config.root}/leases`,
    checkIntervalMs: config.cniCheckIntervalMs,
    pools: config.networkPools.flatMap((text) => parseSubnet(text) ?? []),
    runDir: config.run,
  });
}

function factsOf(config: Config, runtime: OciRuntime | Error, version: string): Fact[] {
  const chosen = runtime instanceof Error ? runtime.message : `${runtime.path} (${runtime.version}, ${runtime.reason})`;
  return [
    ['version', version],
    ['pid', String(process.pid)],
    ['root', config.root],
    ['run', config.run],
    ['socket', config.socketPath],
    ['runtime', chosen],
    ['cgroupParent', config.cgroupParent],
    ['cniConfDirs', config.cniConfDirs.join(', ')],
    ['cniBinDirs', config.cniBinDirs.join(', ')],
    ['cniCacheDir', config.cniCacheDir ?? 'none'],
    ['csiPluginDir', config.csiPluginDir],
    ['csiConfDir', config.csiConfDir],
    ['csiRegistrationDir', config.csiRegistrationDir],
    ['volumeClassDir', config.volumeClassDir],
    ['csiLocalDriver', config.csiLocalDriver ? LOCAL_DRIVER_NAME : 'off'],
    ['csiControllerCalls', String(config.csiControllerCalls)],
    ['logLevel', config.logLevel],
  ].map(([key = '', value = '']) => ({ key, value }));
}
