/**
 * The root file system of a container: an overlay of the image's layers and the container's own writable layer, and what
 * the image says about the process in it.
 *
 *   RUN/rootfs/ID        the mount, there while a run lasts
 *   ROOT/containers/ID   what outlives a run (writable-layers.ts), there until the container is removed
 *
 * Whether something is mounted the kernel's list says, never a memory of it.
 */
import { lstatSync, mkdirSync, readdirSync } from 'node:fs';
import { rmdir } from 'node:fs/promises';
import type { Logger } from 'pino';
import { gathered, RuntimeError, systemCode } from '../errors.ts';
import { at, OpenDirectory } from '../fd-walk.ts';
import { hostCommand } from '../host-command.ts';
import { mountsBelow } from '../mountinfo.ts';
import { type RunProgram, runProgram } from '../run-program.ts';
import type { ContainerId, ContainerRecord } from '../runtime/container.ts';
import type { Contribution, Isolator, ProcessContribution } from '../runtime/isolator.ts';
import type { PerformSystemCall } from '../system-calls.ts';
import { resolveUser } from './account-files.ts';
import type { ImageRecord, ImageStore } from './image-store.ts';
import { accountOf, argumentsOf, environmentOf, workingDirOf } from './process-settings.ts';
import { makeWorkingDirectory } from './working-directory.ts';
import { WritableLayers } from './writable-layers.ts';

const ID = /^[0-9a-f]{32}$/;
/** Where the runtime mounts the kernel's file systems: links there would move those mounts (CVE-2025-31133 and its kin). */
const PSEUDO_ROOTS = ['proc', 'sys', 'dev'] as const;

export interface RootfsIsolatorOptions {
  readonly images: ImageStore;
  /** The daemon's root directory. */
  readonly rootDir: string;
  /** The daemon's run directory. */
  readonly runDir: string;
  readonly log: Logger;
  /** Who starts mount and umount; this process unless given. */
  readonly run?: RunProgram;
  /** Who mounts and unmounts by system calls; programs do it unless given. */
  readonly systemCall?: PerformSystemCall;
}

export class RootfsIsolator implements Isolator {
  readonly name = 'filesystem/overlay';
  readonly #images: ImageStore;
  readonly #writable: WritableLayers;
  readonly #mountsDir: string;
  readonly #log: Logger;
  readonly #run: RunProgram;
  readonly #systemCall: PerformSystemCall;
  /** Ids whose release failed at the start of the daemon. */
  readonly #pending = new Set<ContainerId>();

  constructor(options: RootfsIsolatorOptions) {
    this.#images = options.images;
    this.#writable = new WritableLayers(options.rootDir);
    this.#mountsDir = `${options.runDir}/rootfs`;
    this.#log = options.log.child({ component: 'rootfs-isolator' });
    this.#run = options.run ?? runProgram;
    this.#systemCall = options.systemCall ?? (async () => false);
    mkdirSync(this.#mountsDir, { recursive: true, mode: 0o700 });
  }

  validate(container: ContainerRecord): void {
    const image = this.#imageOf(container);
    argumentsOf(image.config, container.spec);
    accountOf(image.config, container.spec);
  }

  async recover(
    running: ReadonlySet<ContainerId>,
    existing: ReadonlySet<ContainerId>,
    signal: AbortSignal,
  ): Promise<void> {
    const mounted = readdirSync(this.#mountsDir).filter((name) => ID.test(name) && !running.has(name));
    const unknown = this.#writable.ids().filter((id) => !existing.has(id) && !running.has(id));
    const failures: unknown[] = [];
    const attempt = async (id: ContainerId, release: () => Promise<void>): Promise<void> => {
      try {
        await release();
      } catch (error) {
        this.#pending.add(id);
        failures.push(error);
      }
    };
    await Promise.all(mounted.map((id) => attempt(id, () => this.cleanup(id, signal))));
    // What is still mounted keeps its directories.
    const free = unknown.filter((id) => !this.#pending.has(id));
    await Promise.all(free.map((id) => attempt(id, () => this.remove(id, signal))));
    const failure = gathered(failures, 'release root file systems');
    if (failure !== undefined) throw failure;
  }

  async prepare(container: ContainerRecord, signal: AbortSignal): Promise<Contribution> {
    // The other isolators begin with a process that takes longer than a mount, this one with work on this thread.
    await Promise.resolve();
    const { id, spec } = container;
    const image = this.#imageOf(container);
    const args = argumentsOf(image.config, spec);
    const rootfs = this.#mountPoint(id);
    const layers = this.#images.layerPaths(image);
    if (this.#writable.image(id) === undefined) this.#writable.hold(id, image);
    mkdirSync(rootfs, { recursive: true, mode: 0o700 });
    await settled([this.#mount(container, layers, rootfs, signal), this.#writable.sync(id)]);
    return { rootfs, readOnlyRootfs: spec.readOnlyRootfs, process: this.#process(container, image, rootfs, args) };
  }

  pending(): ReadonlySet<ContainerId> {
    return this.#pending;
  }

  async cleanup(id: ContainerId, signal: AbortSignal): Promise<void> {
    const path = this.#mountPoint(id);
    for (const { mountPoint } of mountsBelow(path)) await this.#unmount(mountPoint, signal);
    try {
      await rmdir(path);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw RuntimeError.from(error, `remove mount point ${path}`);
    }
    this.#pending.delete(id);
  }

  async remove(id: ContainerId, signal: AbortSignal): Promise<void> {
    const image = this.#heldImage(id);
    await this.#writable.remove(id, signal);
    this.#pending.delete(id);
    if (image !== undefined) await this.#images.released(image);
  }

  /** The image the container was first started from; before that, the one its reference names now. */
  #imageOf({ id, spec }: ContainerRecord): ImageRecord {
    const held = ID.test(id) ? this.#writable.image(id) : undefined;
    return held ?? this.#images.get(spec.image);
  }

  /** Undefined also when its file cannot be read: a container can be removed all the same. */
  #heldImage(id: ContainerId): ImageRecord | undefined {
    try {
      return this.#writable.image(id);
    } catch (error) {
      this.#log.warn({ containerId: id, err: error }, 'image of a container is unknown');
      return undefined;
    }
  }

  async #mount(
    { id, spec }: ContainerRecord,
    layers: readonly string[],
    rootfs: string,
    signal: AbortSignal,
  ): Promise<void> {
    const { upper, work } = this.#writable.overlayDirs(id, layers[0] ?? '');
    // Directories of the daemon hold no character that these options take for their own (config.ts).
    const data = `lowerdir=${layers.join(':')},upperdir=${upper},workdir=${work}`;
    const begunMs = performance.now();
    // What a container mounts whose mounts reach the host must not reach it through its root file system.
    const apart = spec.hostAccess !== undefined;
    if (apart || !(await this.#systemCall({ kind: 'mountOverlay', target: rootfs, data }, signal))) {
      const flags = apart ? ['-i', '--make-private'] : ['-i'];
      const args = [...flags, '-t', 'overlay', '-o', `nodev,${data}`, 'overlay', rootfs];
      await hostCommand('mount', args, signal, { run: this.#run });
    }
    const durationMs = Math.round(performance.now() - begunMs);
    this.#log.debug({ containerId: id, layers: layers.length, durationMs }, 'root file system mounted');
  }

  #process(container: ContainerRecord, image: ImageRecord, rootfs: string, args: string[]): ProcessContribution {
    const { config } = image;
    using root = OpenDirectory.open(rootfs);
    makePseudoRoots(root, image.reference);
    const { home, ...user } = resolveUser(root, accountOf(config, container.spec));
    const cwd = workingDirOf(config, container.spec);
    makeWorkingDirectory(root, cwd);
    return { args, env: environmentOf(config, container, home), cwd, user };
  }

  /** A mount that is busy is taken out of sight now and goes when its last user does. */
  async #unmount(mountPoint: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#unmountBy(mountPoint, false, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!mountsBelow(mountPoint).some((entry) => entry.mountPoint === mountPoint)) return;
      this.#log.warn({ mountPoint, err: error }, 'mount is busy, detaching it');
      await this.#unmountBy(mountPoint, true, signal);
    }
  }

  async #unmountBy(path: string, lazy: boolean, signal: AbortSignal): Promise<void> {
    if (await this.#systemCall({ kind: 'unmount', path, lazy }, signal)) return;
    await hostCommand('umount', lazy ? ['-l', path] : [path], signal, { run: this.#run });
  }

  #mountPoint(id: ContainerId): string {
    if (!ID.test(id)) throw new RuntimeError('INVALID_ARGUMENT', `container id ${JSON.stringify(id)} is none`);
    return `${this.#mountsDir}/${id}`;
  }
}

/** Makes /proc, /sys and /dev where they are missing. @throws {RuntimeError} FAILED_PRECONDITION when one is no directory */
function makePseudoRoots(root: OpenDirectory, reference: string): void {
  for (const name of PSEUDO_ROOTS) {
    const stat = lstatSync(at(root.fd, name), { throwIfNoEntry: false });
    if (stat === undefined) mkdirSync(at(root.fd, name), 0o755);
    else if (!stat.isDirectory()) {
      throw new RuntimeError(
        'FAILED_PRECONDITION',
        `image ${reference}: /${name} is no directory, so it is not started`,
      );
    }
  }
}

/** Waits for all, also when one fails: what is under way has ended when the failure is told. */
async function settled(steps: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(steps);
  const failure = results.find((result) => result.status === 'rejected');
  if (failure !== undefined) throw failure.reason;
}
