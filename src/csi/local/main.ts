/**
 * The embedded CSI driver as a process: CSI_ENDPOINT says where it listens, --data-dir where the volumes lie, --node-id
 * what it calls this node, --attach that volumes are attached before use, --max-volumes how many at most. It logs to stderr and ends after the calls under way when it gets SIGTERM, or when its
 * standard input is a pipe that ends, which happens when the supervisor that holds it dies; one with another standard
 * input outlives its supervisor. Mounts and loop devices stay: the next driver finds them.
 */
import { fstatSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { flushCompileCache } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Server } from '@grpc/grpc-js';
import { destination, type Logger, pino } from 'pino';
import { lockDirectory } from '../../daemon-lock.ts';
import { invalid, RuntimeError } from '../../errors.ts';
import type { ControllerDefinition } from '../generated/csi/v1/Controller.ts';
import type { GroupControllerDefinition } from '../generated/csi/v1/GroupController.ts';
import type { IdentityDefinition } from '../generated/csi/v1/Identity.ts';
import type { NodeDefinition } from '../generated/csi/v1/Node.ts';
import type { SnapshotMetadataDefinition } from '../generated/csi/v1/SnapshotMetadata.ts';
import { loadCsi } from '../protocol.ts';
import { Attachments } from './attachments.ts';
import { Condition } from './condition.ts';
import { ControllerService } from './controller-service.ts';
import { Expansion } from './expansion.ts';
import { GroupControllerService } from './group-controller-service.ts';
import { identityService } from './identity-service.ts';
import { InFlight } from './in-flight.ts';
import { KernelView } from './kernel-view.ts';
import { listen, socketPathOf } from './listening.ts';
import { Modification } from './modification.ts';
import { NodeService } from './node-service.ts';
import { NodeStats } from './node-stats.ts';
import { RpcServing } from './rpc.ts';
import { streamingImplementation } from './rpc-streams.ts';
import { SnapshotFiles } from './snapshot-files.ts';
import { SnapshotMetadataService } from './snapshot-metadata-service.ts';
import { SnapshotService } from './snapshot-service.ts';
import { Stillness } from './stillness.ts';
import { Topology } from './topology.ts';
import { VolumeCopying } from './volume-copying.ts';
import { VolumeFiles } from './volume-files.ts';
import { VolumeListing } from './volume-listing.ts';
import { VolumeMounts } from './volume-mounts.ts';

/** Longest request taken; the longest lawful one is some 20 KiB. */
const MAX_REQUEST_BYTES = 256 * 1024;
/** How long a driver that lost its supervisor may take to end its calls. */
const LOCK_PATIENCE_MS = 60_000;
const LOCK_PAUSE_MS = 50;

interface Settings {
  readonly socketPath: string;
  readonly dataDir: string;
  readonly nodeId: string;
  readonly attach: boolean;
  readonly maxVolumes: number | undefined;
  readonly logLevel: string;
}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      'data-dir': { type: 'string' },
      'node-id': { type: 'string' },
      attach: { type: 'boolean', default: false },
      'max-volumes': { type: 'string' },
      'log-level': { type: 'string', default: 'info' },
    },
  });
  const { 'data-dir': dataDir, 'node-id': nodeId, 'log-level': logLevel } = values;
  if (dataDir === undefined || !dataDir.startsWith('/')) throw invalid('--data-dir', 'is missing or not absolute');
  if (nodeId === undefined || nodeId === '') throw invalid('--node-id', 'is missing');
  if (!(logLevel in pino.levels.values)) throw invalid('--log-level', `${logLevel} is no level`);
  const { attach, 'max-volumes': most } = values;
  if (most !== undefined && !/^[1-9]\d{0,5}$/.test(most)) throw invalid('--max-volumes', `${most} is no number`);
  const maxVolumes = most === undefined ? undefined : Number(most);
  return { socketPath: socketPathOf(process.env['CSI_ENDPOINT']), dataDir, nodeId, attach, maxVolumes, logLevel };
}

/** Settles when this driver alone works on the data directory. */
async function lockData(dataDir: string): Promise<void> {
  const giveUpAt = performance.now() + LOCK_PATIENCE_MS;
  for (;;) {
    try {
      lockDirectory(dataDir);
      return;
    } catch (error) {
      const isTaken = error instanceof RuntimeError && error.code === 'FAILED_PRECONDITION';
      if (!isTaken || performance.now() > giveUpAt) throw error;
      await sleep(LOCK_PAUSE_MS);
    }
  }
}

async function serve(settings: Settings, log: Logger): Promise<void> {
  process.umask(0o077);
  await mkdir(settings.dataDir, { recursive: true, mode: 0o700 });
  await lockData(settings.dataDir);
  const files = await VolumeFiles.open(settings.dataDir, log);
  const kernel = new KernelView(files);
  const mounts = new VolumeMounts(files, kernel, log);
  const still = new Stillness(files, kernel, log);
  await still.thawLeft();
  await mounts.sweep();
  const snapshots = await SnapshotFiles.open(files, still, log);
  const inFlight = new InFlight();
  const expansion = new Expansion({ files, kernel, inFlight, log });
  await expansion.finish();
  const modification = new Modification({ files, inFlight, log });
  await modification.finish();
  const { nodeId, maxVolumes } = settings;
  const attachments = await Attachments.open(
    { files, kernel, inFlight, log },
    { enabled: settings.attach, nodeId, maxVolumes },
  );
  const topology = await Topology.open(files.dataDir, nodeId);
  const condition = new Condition(files, kernel);
  const stats = new NodeStats(files, kernel, condition);
  const copying = new VolumeCopying({ volumes: files, snapshots, still, inFlight });
  const controller = new ControllerService({ files, kernel, inFlight, copying, modification, attachments, topology });
  const describe = controller.describe.bind(controller);
  const listing = new VolumeListing({ files, attachments, condition, describe });
  const nodeParts = {
    nodeId,
    maxVolumes,
    files,
    kernel,
    mounts,
    inFlight,
    expansion,
    modification,
    attachments,
    topology,
    stats,
  };
  const node = new NodeService(nodeParts);
  const snapshotService = new SnapshotService(files, snapshots, inFlight);
  const csi = loadCsi();
  const serving = new RpcServing(log);
  const server = new Server({ 'grpc.max_receive_message_length': MAX_REQUEST_BYTES });
  server.addService(csi.service('Identity'), serving.implementation<IdentityDefinition>(identityService()));
  server.addService(
    csi.service('Controller'),
    serving.implementation<ControllerDefinition>({
      ...controller.handlers(),
      ...listing.handlers(),
      ...attachments.handlers(),
      ...expansion.controllerHandlers(),
      ...modification.handlers(),
      ...snapshotService.handlers(),
    }),
  );
  const groups = new GroupControllerService(files, snapshots, inFlight);
  server.addService(
    csi.service('GroupController'),
    serving.implementation<GroupControllerDefinition>(groups.handlers()),
  );
  const metadata = new SnapshotMetadataService(snapshots);
  const streams = new AbortController();
  server.addService(
    csi.service('SnapshotMetadata'),
    streamingImplementation<SnapshotMetadataDefinition>(metadata.handlers(), log, streams.signal),
  );
  server.addService(csi.service('Node'), serving.implementation<NodeDefinition>(node.handlers()));
  // Asked for before anybody can know that the driver listens.
  const ending = endAsked();
  await listen(server, settings.socketPath);
  log.info({ socket: settings.socketPath, dataDir: files.dataDir, volumes: files.list().length }, 'driver listens');
  // A driver that is killed keeps what it compiled as well.
  flushCompileCache();
  const reason = await ending;
  log.info({ reason }, 'driver ends after the calls under way');
  streams.abort(new RuntimeError('UNAVAILABLE', 'the driver ends'));
  // No new calls; answers of those under way still go out.
  await Promise.all([new Promise((resolve) => server.tryShutdown(resolve)), serving.drain()]);
}

/** Settles with the reason when the process shall end. */
function endAsked(): Promise<string> {
  return new Promise((resolve) => {
    process.once('SIGTERM', () => resolve('SIGTERM'));
    process.once('SIGINT', () => resolve('SIGINT'));
    if (!isPipe(0)) return;
    process.stdin.once('end', () => resolve('standard input ended'));
    process.stdin.once('error', () => resolve('standard input failed'));
    process.stdin.resume();
  });
}

/** /dev/null and files are at their end from the start, which says nothing about who is at the other end. */
function isPipe(fd: number): boolean {
  const stats = fstatSync(fd);
  return stats.isFIFO() || stats.isSocket();
}

const output = destination({ fd: 2, sync: true });
// With the supervisor its pipe is gone; the calls under way must not fail for want of a log.
output.on('error', () => undefined);
const log = pino({ level: 'info' }, output);
try {
  const settings = readSettings();
  log.level = settings.logLevel;
  await serve(settings, log);
  process.exit(0);
} catch (error) {
  log.fatal({ err: error }, 'driver cannot run');
  process.exit(1);
}
