/**
 * Copies volumes in a moment in which none of them changes.
 *
 *   not in use           the caller keeps it so: it has the volume's turn (in-flight.ts)
 *   mounted image        frozen meanwhile (freezer.ts)
 *   image as a device    nothing can hold its writers up: what is dirty is written out, and the kernel's count of writes
 *                        tells afterwards whether the copy is of one moment; a copy made in one step always is
 *   directory in use     refused: that would freeze the host's own file system
 */
import { existsSync, readFileSync } from 'node:fs';
import type { Logger } from 'pino';
import { RuntimeError } from '../../errors.ts';
import { readMounts } from '../../mountinfo.ts';
import { COPY_TIMEOUT_MS } from './file-copy.ts';
import { type Freezable, thawLeftover, whileFrozen } from './freezer.ts';
import type { KernelView } from './kernel-view.ts';
import type { LoopDevice } from './loop-devices.ts';
import { volumeCommand } from './volume-command.ts';
import type { VolumeFiles } from './volume-files.ts';
import type { VolumeRecord } from './volume-record.ts';

/** Copies one volume over what an earlier attempt left; true when the copy was made in one step. */
export type CopyVolume = (volume: VolumeRecord, signal: AbortSignal) => Promise<boolean>;

/** Copies of a device that is written meanwhile are made anew so often. */
const ATTEMPTS = 4;

/** Fields of /sys/block/NAME/stat that count finished writes and discards. */
const WRITES_FIELD = 4;
const DISCARDS_FIELD = 11;

export class Stillness {
  readonly #files: VolumeFiles;
  readonly #kernel: KernelView;
  readonly #log: Logger;

  constructor(files: VolumeFiles, kernel: KernelView, log: Logger) {
    this.#files = files;
    this.#kernel = kernel;
    this.#log = log;
  }

  /**
   * Copies all of the volumes as of one moment. The caller has the turn of each.
   * @throws {RuntimeError} FAILED_PRECONDITION when a directory is in use, or the copy takes longer than a volume's users
   * may be held up; UNAVAILABLE when a device is written all the time
   */
  async copyAll(volumes: readonly VolumeRecord[], copy: CopyVolume): Promise<void> {
    const frozen: Freezable[] = [];
    const devices: { readonly volume: VolumeRecord; readonly loop: LoopDevice }[] = [];
    for (const volume of volumes) {
      this.#refuseUsedDirectory(volume);
      const loops = this.#kernel.loopsOf(volume);
      const path = this.#mountPointOf(loops);
      if (path !== undefined) frozen.push({ volumeId: volume.id, path, marker: this.#markerOf(volume) });
      else devices.push(...loops.map((loop) => ({ volume, loop })));
    }
    await whileFrozen(this.#log, frozen, async (lost) => {
      const limit = AbortSignal.timeout(COPY_TIMEOUT_MS);
      const signal = lost === undefined ? limit : AbortSignal.any([limit, lost]);
      for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
        const before = await Promise.all(devices.map((device) => this.#flushed(device)));
        let areSteps = true;
        for (const volume of volumes) areSteps = (await copy(volume, signal)) && areSteps;
        // Of several volumes each copy has a moment of its own.
        if (areSteps && volumes.length === 1) return;
        const isQuiet = devices.every(({ loop }, index) => writesOf(loop) === before[index] && !isWriting(loop));
        if (isQuiet) return;
      }
      const names = devices.map(({ volume }) => volume.id).join(', ');
      throw new RuntimeError('UNAVAILABLE', `block volume ${names} was written during each of ${ATTEMPTS} copies`);
    });
  }

  /** Thaws what a killed driver left frozen. */
  async thawLeft(): Promise<void> {
    for (const volume of this.#files.list()) {
      const marker = this.#markerOf(volume);
      if (!existsSync(marker)) continue;
      try {
        const result = await thawLeftover(marker, this.#mountPointOf(this.#kernel.loopsOf(volume)));
        this.#log.warn({ volumeId: volume.id, result }, 'a copy of a mounted volume was cut off');
      } catch (error) {
        this.#log.error({ volumeId: volume.id, err: error }, 'file system may still be frozen');
      }
    }
  }

  #refuseUsedDirectory(volume: VolumeRecord): void {
    if (volume.type !== 'directory') return;
    const user = this.#kernel.userOf(volume);
    if (user === undefined) return;
    const reason = `volume ${volume.id} is in use by ${user}: a directory can be copied only while nothing uses it`;
    throw new RuntimeError('FAILED_PRECONDITION', reason);
  }

  /** Any mount of the image's file system serves to freeze it. */
  #mountPointOf(loops: readonly LoopDevice[]): string | undefined {
    if (loops.length === 0) return undefined;
    return readMounts().find(({ device }) => loops.some((loop) => loop.device === device))?.mountPoint;
  }

  #markerOf({ id }: VolumeRecord): string {
    return `${this.#files.directory(id)}/frozen`;
  }

  async #flushed({ volume, loop }: { readonly volume: VolumeRecord; readonly loop: LoopDevice }): Promise<string> {
    await volumeCommand(this.#files.lockOf(volume), 'blockdev', ['--flushbufs', loop.path]);
    return writesOf(loop);
  }
}

/** Equal as long as nothing was written. */
function writesOf({ name }: LoopDevice): string {
  const fields = readFileSync(`/sys/block/${name}/stat`, 'utf8').trim().split(/\s+/);
  return `${fields[WRITES_FIELD]} ${fields[DISCARDS_FIELD]}`;
}

/** True when a write has begun and is not counted yet. */
function isWriting({ name }: LoopDevice): boolean {
  const [, writes] = readFileSync(`/sys/block/${name}/inflight`, 'utf8').trim().split(/\s+/);
  return writes !== '0';
}
