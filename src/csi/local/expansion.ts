/**
 * Makes volumes larger: ControllerExpandVolume gives the image its new size, NodeExpandVolume shows it to the loop device
 * and the file system, in use or not.
 *
 *   volume.json expandingTo --> image truncated up --> volume.json sizeBytes     a killed driver's part is ended at start
 *   loop device's capacity  --> file system, online                              repeated until all of it is there
 *
 * The node's part is also done with each staging: a volume that grew while it was not used, or a clone that is larger
 * than its source, has its whole size as soon as it can be used.
 */
import { open, stat } from 'node:fs/promises';
import type { Logger } from 'pino';
import { invalid, RuntimeError } from '../../errors.ts';
import type { ControllerDefinition } from '../generated/csi/v1/Controller.ts';
import type { ControllerExpandVolumeRequest__Output } from '../generated/csi/v1/ControllerExpandVolumeRequest.ts';
import type { ControllerExpandVolumeResponse } from '../generated/csi/v1/ControllerExpandVolumeResponse.ts';
import type { NodeDefinition } from '../generated/csi/v1/Node.ts';
import type { NodeExpandVolumeRequest__Output } from '../generated/csi/v1/NodeExpandVolumeRequest.ts';
import type { NodeExpandVolumeResponse } from '../generated/csi/v1/NodeExpandVolumeResponse.ts';
import { checkMap } from '../protocol.ts';
import { allocate } from './allocation.ts';
import { parseCapability } from './capability.ts';
import { grownSize, parseSizeRange } from './create-request.ts';
import {
  type Command,
  canGrowMounted,
  checkUnmounted,
  GROW_MOUNTED,
  growUnmounted,
  isFileSystemSmaller,
} from './file-system-growth.ts';
import type { InFlight } from './in-flight.ts';
import type { KernelView } from './kernel-view.ts';
import type { Handlers } from './rpc.ts';
import { volumeCommand } from './volume-command.ts';
import type { VolumeFiles } from './volume-files.ts';
import { checkVolumeId, livePath } from './volume-path.ts';
import type { FileSystem, VolumeRecord } from './volume-record.ts';

/** Before a mount, tables may have to be moved. */
const UNMOUNTED_TIMEOUT_MS = 10 * 60_000;

export interface ExpansionParts {
  readonly files: VolumeFiles;
  readonly kernel: KernelView;
  readonly inFlight: InFlight;
  readonly log: Logger;
}

/** See the module's head. */
export class Expansion {
  readonly #parts: ExpansionParts;

  constructor(parts: ExpansionParts) {
    this.#parts = parts;
  }

  controllerHandlers(): Handlers<ControllerDefinition> {
    return { ControllerExpandVolume: (request) => this.#expand(request) };
  }

  nodeHandlers(): Handlers<NodeDefinition> {
    return { NodeExpandVolume: (request) => this.#expandNode(request) };
  }

  /** Ends what a killed driver began. One that fails is reported, and tried again with the volume's next expansion. */
  async finish(): Promise<void> {
    const { files, log } = this.#parts;
    for (const volume of files.list().filter(({ expandingTo }) => expandingTo !== undefined)) {
      try {
        await this.#enlarge(volume);
        log.info({ volumeId: volume.id, sizeBytes: volume.expandingTo }, 'ended an expansion that was cut off');
      } catch (error) {
        log.error({ volumeId: volume.id, err: error }, 'volume does not grow');
      }
    }
  }

  /**
   * Before a volume is mounted: gives a file system that cannot grow while mounted the whole image.
   * @throws {RuntimeError} what the program says; the volume is not to be mounted in the middle of it
   */
  async beforeMount(volume: VolumeRecord): Promise<void> {
    const { files, kernel, log } = this.#parts;
    const { fsType } = volume;
    if (fsType === undefined || (await canGrowMounted(fsType)) || kernel.loopsOf(volume).length > 0) return;
    const image = files.dataOf(volume);
    if (!(await isFileSystemSmaller(image, fsType, volume.sizeBytes))) return;
    const run = ([program, ...args]: Command): Promise<string> =>
      volumeCommand(files.lockOf(volume), program, args, UNMOUNTED_TIMEOUT_MS);
    await run(checkUnmounted(image)).catch((error: unknown) => {
      log.warn({ volumeId: volume.id, err: error }, 'file system had to be mended, checking it again');
      return run(checkUnmounted(image));
    });
    await run(growUnmounted(image));
    log.info({ volumeId: volume.id, sizeBytes: volume.sizeBytes }, 'file system grew before it was mounted');
  }

  /** When a volume is mounted at its staging path: gives its file system the whole image. A failure is only reported. */
  async afterMount(volume: VolumeRecord, path: string): Promise<void> {
    const { files, kernel, log } = this.#parts;
    const { fsType } = volume;
    if (fsType === undefined || !(await canGrowMounted(fsType))) return;
    try {
      const isSmaller = await isFileSystemSmaller(files.dataOf(volume), fsType, volume.sizeBytes);
      const isReadOnly = kernel.mountOf(volume, path)?.superOptions.includes('ro') === true;
      if (isSmaller && !isReadOnly) await this.#grow(volume, path);
    } catch (error) {
      // The volume is as useful as it was.
      log.error({ volumeId: volume.id, err: error }, 'file system does not grow');
    }
  }

  #expand(request: ControllerExpandVolumeRequest__Output): Promise<ControllerExpandVolumeResponse> {
    const { files, kernel, inFlight } = this.#parts;
    const id = checkVolumeId(request.volumeId);
    checkMap('secrets', request.secrets);
    if (request.volumeCapability !== null) parseCapability('volume_capability', request.volumeCapability);
    if (request.capacityRange === null) throw invalid('capacity_range', 'is missing');
    const range = parseSizeRange(request.capacityRange);
    const isBounded = range.requiredBytes > 0 || range.limitBytes < Number.MAX_SAFE_INTEGER;
    if (!isBounded) throw invalid('capacity_range', 'has no bound');
    return inFlight.run(id, async () => {
      const volume = await this.#enlarge(files.get(id));
      const sizeBytes = grownSize(volume, range);
      const grown = sizeBytes === volume.sizeBytes ? volume : await this.#begin(volume, sizeBytes);
      await allocate(files, grown);
      const nodeExpansionRequired = grown.fsType !== undefined || kernel.loopsOf(grown).length > 0;
      return { capacityBytes: String(grown.sizeBytes), nodeExpansionRequired };
    });
  }

  /** @throws {RuntimeError} RESOURCE_EXHAUSTED when the disk could not hold the volume once full */
  async #begin(volume: VolumeRecord, sizeBytes: number): Promise<VolumeRecord> {
    const { files } = this.#parts;
    const createdBytes = volume.createdBytes ?? volume.sizeBytes;
    // Nothing enforces the size of a directory.
    if (volume.type === 'directory') return files.rewrite({ ...volume, createdBytes, sizeBytes });
    const wanted = { ...volume, createdBytes, expandingTo: sizeBytes };
    await files.withReserved(volume.id, sizeBytes - volume.sizeBytes, () => files.rewrite(wanted));
    return this.#enlarge(wanted);
  }

  /** Brings the image to the size on record. */
  async #enlarge(volume: VolumeRecord): Promise<VolumeRecord> {
    const { files } = this.#parts;
    const { expandingTo, ...rest } = volume;
    if (expandingTo === undefined) return volume;
    const path = files.dataOf(volume);
    try {
      await enlargeFile(path, expandingTo);
    } catch (error) {
      // The disk's file system takes no file of that size: the volume stays as it is.
      if ((await stat(path)).size < expandingTo) await files.rewrite(rest);
      throw RuntimeError.from(error, `enlarge volume ${volume.id}`);
    }
    return files.rewrite({ ...rest, sizeBytes: expandingTo });
  }

  #expandNode(request: NodeExpandVolumeRequest__Output): Promise<NodeExpandVolumeResponse> {
    const { files, kernel, inFlight } = this.#parts;
    const id = checkVolumeId(request.volumeId);
    if (request.volumePath === '') throw invalid('volume_path', 'is missing');
    checkMap('secrets', request.secrets);
    if (request.volumeCapability !== null) parseCapability('volume_capability', request.volumeCapability);
    const range = request.capacityRange === null ? undefined : parseSizeRange(request.capacityRange);
    return inFlight.run(id, async () => {
      const volume = files.get(id);
      const path = await livePath(request.volumePath);
      const { staged, targets } = await files.readNodeRecord(id);
      const isKnown = path !== undefined && (staged?.path === path || Object.hasOwn(targets, path));
      if (staged === undefined || !isKnown || !kernel.isStaged(volume, staged.access, staged.path)) {
        throw new RuntimeError('NOT_FOUND', `volume_path: volume ${id} is not at ${request.volumePath}`);
      }
      const { sizeBytes } = volume;
      if (range !== undefined && (sizeBytes < range.requiredBytes || sizeBytes > range.limitBytes)) {
        const reason = `capacity_range: volume ${id} has ${sizeBytes} bytes, ControllerExpandVolume changes them`;
        throw new RuntimeError('OUT_OF_RANGE', reason);
      }
      if (volume.type === 'image') await this.#grow(volume, staged.access === 'mount' ? staged.path : undefined);
      return { capacityBytes: String(sizeBytes) };
    });
  }

  /**
   * Shows the image's size to its loop device, and to the file system when it is mounted at `path`.
   * @throws {RuntimeError} FAILED_PRECONDITION when that is not possible while it is mounted (CSI NodeExpandVolume)
   */
  async #grow(volume: VolumeRecord, path: string | undefined): Promise<void> {
    const { files, kernel } = this.#parts;
    const lock = files.lockOf(volume);
    const imageBytes = (await stat(files.dataOf(volume))).size;
    for (const loop of kernel.loopsOf(volume)) {
      if (loop.sizeBytes !== imageBytes) await volumeCommand(lock, 'losetup', ['--set-capacity', loop.path]);
    }
    if (path === undefined || volume.fsType === undefined) return;
    const mounted = kernel.mountOf(volume, path);
    if (mounted === undefined) throw new RuntimeError('INTERNAL', `volume ${volume.id} is not mounted at ${path}`);
    if (mounted.superOptions.includes('ro')) {
      throw new RuntimeError('FAILED_PRECONDITION', `volume ${volume.id} is mounted read-only, it cannot grow so`);
    }
    if (!(await canGrowMounted(volume.fsType))) return this.#requireGrown(volume, volume.fsType);
    const [program, ...args] = GROW_MOUNTED[volume.fsType]({ device: mounted.source, path });
    await volumeCommand(lock, program, args);
  }

  async #requireGrown(volume: VolumeRecord, fsType: FileSystem): Promise<void> {
    if (!(await isFileSystemSmaller(this.#parts.files.dataOf(volume), fsType, volume.sizeBytes))) return;
    throw new RuntimeError(
      'FAILED_PRECONDITION',
      `volume ${volume.id}: the driver lacks CAP_SYS_RESOURCE, ${fsType} grows when it is staged next`,
    );
  }
}

/** Makes a file `bytes` long, sparse, when it is shorter; durable when it returns. */
async function enlargeFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    if ((await file.stat()).size < bytes) await file.truncate(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}
