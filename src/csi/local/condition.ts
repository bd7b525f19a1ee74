/**
 * How well a volume is (CSI VolumeCondition), by what the disk and the kernel show: its data, and for the node its loop
 * device, its mounts and its file system. The first thing that is wrong is told, in less than 128 bytes.
 */
import { lstat, readFile, stat } from 'node:fs/promises';
import { RuntimeError, systemCode } from '../../errors.ts';
import type { VolumeCondition } from '../generated/csi/v1/VolumeCondition.ts';
import { hasFileSystemErrors } from './file-system-growth.ts';
import type { KernelView } from './kernel-view.ts';
import type { VolumeFiles } from './volume-files.ts';
import type { NodeRecord, StagedRecord, VolumeRecord } from './volume-record.ts';

/** What ext4 shows among its options once it has stopped writing. */
const STOPPED = ['emergency_ro', 'shutdown'] as const;

export class Condition {
  readonly #files: VolumeFiles;
  readonly #kernel: KernelView;

  constructor(files: VolumeFiles, kernel: KernelView) {
    this.#files = files;
    this.#kernel = kernel;
  }

  /** What is on the disk. */
  async ofData(volume: VolumeRecord): Promise<VolumeCondition> {
    return conditionFor((await this.#wrongWithData(volume)) ?? (await this.#wrongWithFileSystem(volume)));
  }

  /** What this node has at a path where the volume was staged or published. */
  async onNode(volume: VolumeRecord, record: NodeRecord, path: string): Promise<VolumeCondition> {
    return conditionFor(
      (await this.#wrongWithData(volume)) ??
        (await this.#wrongOnNode(volume, record, path)) ??
        (await this.#wrongWithFileSystem(volume)),
    );
  }

  async #wrongWithData(volume: VolumeRecord): Promise<string | undefined> {
    const { type, sizeBytes } = volume;
    const path = this.#files.dataOf(volume);
    const found = await lstat(path).catch((error: unknown) => {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw RuntimeError.from(error, `look at ${path}`);
    });
    if (type === 'directory') return found?.isDirectory() === true ? undefined : 'its directory is missing';
    if (found?.isFile() !== true) return 'its image is missing';
    if (found.size < sizeBytes) return `its image has ${found.size} of ${sizeBytes} bytes`;
    return undefined;
  }

  /** What the file system on the image says of itself. */
  async #wrongWithFileSystem(volume: VolumeRecord): Promise<string | undefined> {
    const { fsType, access } = volume;
    // Who has the device may put there what he likes.
    if (fsType === undefined || access.includes('block')) return undefined;
    const hasErrors = await hasFileSystemErrors(this.#files.dataOf(volume), fsType);
    return hasErrors ? `its file system ${fsType} has errors, it needs a check` : undefined;
  }

  async #wrongOnNode(volume: VolumeRecord, { staged, targets }: NodeRecord, path: string): Promise<string | undefined> {
    if (staged === undefined) return 'it is not staged';
    if (!this.#kernel.isStaged(volume, staged.access, staged.path)) {
      return staged.access === 'block' ? 'its loop device is gone' : 'it is no longer mounted at its staging path';
    }
    if (Object.hasOwn(targets, path) && this.#kernel.mountOf(volume, path) === undefined) {
      return 'it is no longer mounted where it was published';
    }
    if (staged.access === 'block' || volume.type === 'directory') return undefined;
    return (await this.#wrongWithMount(volume, staged)) ?? (await unreadable(staged.path));
  }

  async #wrongWithMount(volume: VolumeRecord, staged: StagedRecord): Promise<string | undefined> {
    const options = this.#kernel.mountOf(volume, staged.path)?.superOptions ?? [];
    if (STOPPED.some((option) => options.includes(option))) return 'its file system stopped writing after an error';
    // Records of earlier drivers do not say what was asked for.
    if (staged.readonly === false && options.includes('ro')) return 'its file system became read-only';
    const [loop] = this.#kernel.loopsOf(volume);
    if (volume.fsType !== 'ext4' || loop === undefined) return undefined;
    const errors = await errorsOf(loop.name);
    return errors > 0 ? `its file system ext4 has met ${errors} errors` : undefined;
  }
}

/** Errors a mounted ext4 has met since its last check. */
async function errorsOf(device: string): Promise<number> {
  try {
    return Number(await readFile(`/sys/fs/ext4/${device}/errors_count`, 'utf8'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw RuntimeError.from(error, `read the errors of ${device}`);
  }
}

async function unreadable(path: string): Promise<string | undefined> {
  try {
    await stat(path);
    return undefined;
  } catch (error) {
    return `its file system cannot be read: ${systemCode(error) ?? 'unknown error'}`;
  }
}

function conditionFor(wrong: string | undefined): VolumeCondition {
  return { abnormal: wrong !== undefined, message: wrong ?? 'nothing is wrong' };
}
