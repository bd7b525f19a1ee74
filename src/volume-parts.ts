/**
 * The parts of a daemon that volumes need, put together: plugins, their registration, volumes, snapshots and the embedded
 * driver. A piece of the composition root (daemon.ts).
 */
import { hostname } from 'node:os';
import type { Logger } from 'pino';
import { type Config, daemonEnvironment } from './config.ts';
import { decodeGroupSnapshotRecord } from './csi/group-snapshot.ts';
import { LOCAL_DRIVER_NAME, localDriverProcess } from './csi/local/local-driver.ts';
import { propagationCheck } from './csi/plugin-checks.ts';
import { PluginDropInDirectory } from './csi/plugin-drop-in-directory.ts';
import { decodeEnrolledPlugin, PluginEnrolment } from './csi/plugin-enrolment.ts';
import { PluginPlaces } from './csi/plugin-places.ts';
import { PluginRegistry } from './csi/plugin-registry.ts';
import { RegistrarDirectory } from './csi/registrar-directory.ts';
import { SecretResolver } from './csi/secret-resolver.ts';
import { SharedDirectory } from './csi/shared-mount.ts';
import { decodeSnapshotRecord } from './csi/snapshot.ts';
import { SnapshotCatalog } from './csi/snapshot-catalog.ts';
import { SnapshotManager } from './csi/snapshot-manager.ts';
import { SupervisedPlugins } from './csi/supervised-plugins.ts';
import { decodeSupervisedRecord } from './csi/supervised-record.ts';
import { decodeVolumeRecord } from './csi/volume.ts';
import { VolumeClassDirectory } from './csi/volume-class-directory.ts';
import { VolumeHealth } from './csi/volume-health.ts';
import { VolumeManager } from './csi/volume-manager.ts';
import { VolumeSurvey } from './csi/volume-survey.ts';
import { readBootId } from './process-identity.ts';
import type { RunProgram } from './run-program.ts';
import { ProcessSupervisor } from './runtime/launcher/posix-supervisor.ts';
import type { Database } from './store.ts';

/** Longest time one part may take to end. */
const CLOSE_TIMEOUT_MS = 10_000;

/** Volumes and all they need. */
export interface VolumeParts {
  readonly registry: PluginRegistry;
  readonly enrolment: PluginEnrolment;
  readonly supervised: SupervisedPlugins;
  readonly manager: VolumeManager;
  readonly snapshots: SnapshotManager;
  readonly classes: VolumeClassDirectory;
  readonly survey: VolumeSurvey;
  readonly health: VolumeHealth;
  start(signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** Makes the parts; nothing runs before `start`. */
export function volumeParts(config: Config, database: Database, run: RunProgram, log: Logger): VolumeParts {
  const registry = new PluginRegistry({ pluginDir: config.csiPluginDir, log });
  const classes = new VolumeClassDirectory({ dir: config.volumeClassDir, log });
  const driver = config.csiLocalDriver ? localDriver(config, log) : undefined;
  const store = database.store('volume', decodeVolumeRecord);
  const snapshotRecords = database.store('snapshot', decodeSnapshotRecord);
  const groupRecords = database.store('group-snapshot', decodeGroupSnapshotRecord);
  const secrets = new SecretResolver({ dir: `${config.csiConfDir}/secrets`, env: daemonEnvironment() });
  const manager = new VolumeManager({
    registry,
    store,
    snapshots: new SnapshotCatalog(snapshotRecords, groupRecords),
    classes,
    rootDir: config.root,
    bootId: readBootId(),
    run,
    controllerCalls: config.csiControllerCalls,
    secrets: (plugin, rpc, signal, name) => secrets.resolve(plugin, rpc, signal, name),
    log,
  });
  const snapshots = new SnapshotManager({
    registry,
    snapshots: snapshotRecords,
    groups: groupRecords,
    volumeRecords: store,
    volumes: manager,
    log,
  });
  const intervalMs = config.csiConditionIntervalMs;
  const health = new VolumeHealth({ volumes: manager, registry, intervalMs, log });
  const registrars = new RegistrarDirectory({ dir: config.csiRegistrationDir, registry, log });
  const inUse = (plugin: string): string[] =>
    manager
      .list()
      .filter(({ driver, claims, state }) => driver === plugin && (claims.length > 0 || state !== 'created'))
      .map(({ name }) => name);
  const enrolment = new PluginEnrolment({ registry, store: database.store('csi-plugin', decodeEnrolledPlugin), inUse });
  const supervised = new SupervisedPlugins({
    store: database.store('supervised-plugin', decodeSupervisedRecord),
    registry,
    places: new PluginPlaces({ socketsDir: `${config.run}/plugins`, logsDir: `${config.root}/plugin-logs`, log }),
    volumes: new SharedDirectory(`${config.root}/csi/mounts`, run),
    nodeId: nodeId(),
    bootId: readBootId(),
    inUse,
    log,
  });
  const dropIns = new PluginDropInDirectory({
    dir: config.csiConfDir,
    registry,
    log,
    changed: (all) => supervised.apply(all),
  });
  return {
    registry,
    enrolment,
    supervised,
    manager,
    snapshots,
    classes,
    health,
    survey: new VolumeSurvey({ caller: manager.caller, records: () => manager.list(), classes }),
    async start(signal) {
      const { state, detail } = propagationCheck(config.root);
      if (state !== 'ok') log.warn({ detail }, 'mounts of CSI plugins in containers do not reach this host');
      driver?.start();
      enrolment.recover();
      supervised.recover();
      await dropIns.start();
      await classes.start();
      await registrars.start(signal);
      health.start();
      await registry.start(signal);
    },
    async close() {
      await health.close();
      await snapshots.close();
      await manager.close();
      await registrars.close();
      await dropIns.close();
      await supervised.close();
      await classes.close();
      await registry.close();
      await driver?.close(AbortSignal.timeout(CLOSE_TIMEOUT_MS));
    },
  };
}

/** The embedded driver: a plugin like any other, except that its process is ours. */
function localDriver(config: Config, log: Logger): ProcessSupervisor {
  const dataDir = `${config.root}/${LOCAL_DRIVER_NAME}`;
  const socketPath = `${config.csiPluginDir}/${LOCAL_DRIVER_NAME}.sock`;
  const { csiLocalAttach: attach, csiLocalMaxVolumes: most } = config;
  const limit = most === 0 ? {} : { maxVolumes: most };
  const command = localDriverProcess({ dataDir, socketPath, nodeId: nodeId(), attach, ...limit });
  return new ProcessSupervisor({ name: LOCAL_DRIVER_NAME, ...command, log });
}

/** What plugins are told to call this machine. */
function nodeId(): string {
  return hostname() || 'localhost';
}
