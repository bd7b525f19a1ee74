/**
 * The isolator "volume/csi": a container's named volumes become bind mounts and device nodes. It holds nothing itself:
 * what a container has is what it claims (volume-manager.ts), also after a restart. The volume's own mount is shared by
 * its containers; whether one may write is decided by the container's bind mount.
 */
import { gathered, invalid } from '../errors.ts';
import type { ContainerId, ContainerRecord, ContainerSpec } from '../runtime/container.ts';
import type { Contribution, Device, Isolator, IsolatorStatus, Mount } from '../runtime/isolator.ts';
import { claimed } from './volume-claims.ts';
import type { VolumeManager } from './volume-manager.ts';
import type { VolumeAccess } from './volume-request.ts';

export interface VolumeIsolatorOptions {
  readonly volumes: VolumeManager;
}

/** One named volume of a container. */
interface Wish {
  readonly field: 'volume' | 'device';
  readonly access: VolumeAccess;
  readonly volume: string;
  readonly target: string;
  readonly readOnly: boolean;
}

export class VolumeIsolator implements Isolator {
  readonly name = 'volume/csi';
  readonly #volumes: VolumeManager;

  constructor(options: VolumeIsolatorOptions) {
    this.#volumes = options.volumes;
  }

  /** Each volume exists, is used as what it was made, and is named once. */
  validate({ id, spec }: ContainerRecord): void {
    const seen = new Set<string>();
    for (const { field, access, volume, readOnly } of wishesOf(spec)) {
      const record = this.#volumes.get(volume);
      if (record.access !== access) {
        const flag = record.access === 'block' ? `--device ${volume}:/dev/NAME` : `-v ${volume}:/PATH`;
        throw invalid(field, `volume ${volume} was made for ${record.access} access: use ${flag}`);
      }
      // Who else uses it counts when the container starts.
      claimed({ ...record, claims: [] }, id, { readOnly });
      if (seen.has(volume)) throw invalid(field, `volume ${volume} is named twice`);
      seen.add(volume);
    }
  }

  async prepare({ id, spec }: ContainerRecord, signal: AbortSignal): Promise<Contribution> {
    const stop = new AbortController();
    const joint = AbortSignal.any([signal, stop.signal]);
    const failures: unknown[] = [];
    const parts = await Promise.all(
      wishesOf(spec).map(async (wish) => {
        try {
          return [await this.#publish(id, wish, joint)];
        } catch (error) {
          failures.push(error);
          stop.abort(error);
          return [];
        }
      }),
    );
    // Thrown when all have settled, so that cleanup does not race against them.
    if (failures.length > 0) throw failures[0];
    return {
      mounts: parts.flat().flatMap(({ mount }) => (mount === undefined ? [] : [mount])),
      devices: parts.flat().flatMap(({ device }) => (device === undefined ? [] : [device])),
    };
  }

  /** Gives back the volumes of every container that does not run. */
  async recover(
    running: ReadonlySet<ContainerId>,
    _existing: ReadonlySet<ContainerId>,
    signal: AbortSignal,
  ): Promise<void> {
    const claims = this.#claims().filter(({ containerId }) => !running.has(containerId));
    await this.#releaseAll(claims, signal);
  }

  status(id: ContainerId): IsolatorStatus {
    const volumes = this.#volumes.list().flatMap((record) =>
      record.claims
        .filter((claim) => claim.containerId === id)
        .map(({ target, readOnly }) => ({
          volume: record.name,
          driver: record.driver,
          target: target ?? '',
          readOnly,
        })),
    );
    return { volumes };
  }

  pending(): ReadonlySet<ContainerId> {
    const over = this.#claims().filter(({ releasing }) => releasing);
    return new Set(over.map(({ containerId }) => containerId));
  }

  async cleanup(id: ContainerId, signal: AbortSignal): Promise<void> {
    const claims = this.#claims().filter(({ containerId }) => containerId === id);
    await this.#releaseAll(claims, signal);
  }

  async #publish(id: ContainerId, wish: Wish, signal: AbortSignal): Promise<{ mount?: Mount; device?: Device }> {
    const { volume, target, readOnly } = wish;
    const { path, device } = await this.#volumes.publish(volume, id, { readOnly, target }, signal);
    if (device !== undefined)
      return { device: { path: target, type: 'b', ...device, ...(readOnly ? READ_ONLY_DEVICE : DEVICE) } };
    // Device nodes on a volume are data, never devices.
    const options = ['bind', 'private', 'nodev', readOnly ? 'ro' : 'rw'];
    return { mount: { destination: target, type: 'bind', source: path, options } };
  }

  #claims(): { volume: string; containerId: string; releasing: boolean }[] {
    return this.#volumes
      .list()
      .flatMap(({ name, claims }) =>
        claims.map(({ containerId, releasing }) => ({ volume: name, containerId, releasing })),
      );
  }

  async #releaseAll(claims: readonly { volume: string; containerId: string }[], signal: AbortSignal): Promise<void> {
    const results = await Promise.allSettled(
      claims.map(({ volume, containerId }) => this.#volumes.release(volume, containerId, signal)),
    );
    const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    const failure = gathered(errors, 'volumes could not be given back');
    if (failure !== undefined) throw failure;
  }
}

function wishesOf({ mounts, devices }: ContainerSpec): Wish[] {
  const mounted = mounts.flatMap((mount): Wish[] => {
    if (mount.kind !== 'volume') return [];
    const { volume, target, readOnly } = mount;
    return [{ field: 'volume', access: 'mount', volume, target, readOnly }];
  });
  const raw = devices.map(
    ({ volume, path, readOnly }): Wish => ({ field: 'device', access: 'block', volume, target: path, readOnly }),
  );
  return [...mounted, ...raw];
}

/** A device under the container's own name: it may be read and written, not made anew. */
const DEVICE = { fileMode: 0o660, uid: 0, gid: 0, access: 'rw' } as const;
/** The device's cgroup rule is what keeps root from writing; the mode shows it. */
const READ_ONLY_DEVICE = { fileMode: 0o440, uid: 0, gid: 0, access: 'r' } as const;
