/**
 * The containers a daemon has a record of: looked up by id, by unique beginning of an id, or by name. Every change is
 * durable when it returns.
 */
import { randomBytes } from 'node:crypto';
import { RuntimeError } from '../errors.ts';
import type { Durability, Store } from '../store.ts';
import type { ContainerId, ContainerRecord, ContainerSpec, Run } from './container.ts';

const ID_PREFIX = /^[0-9a-f]{1,32}$/;

/**
 * Records by id, with names kept unique. What a user was told outlives a power failure; facts about a run need not,
 * since the run does not either.
 */
export class ContainerTable {
  readonly #store: Store<ContainerRecord>;

  constructor(store: Store<ContainerRecord>) {
    this.#store = store;
  }

  /** Ids of all records, those that do not decode included. */
  ids(): ReadonlySet<ContainerId> {
    return new Set([...this.#store.entries().keys(), ...this.#store.damaged().keys()]);
  }

  /** Ids whose record is present but does not decode: nothing of them is touched. */
  damaged(): ReadonlyMap<ContainerId, string> {
    return this.#store.damaged();
  }

  /** All records, newest first. */
  list(): ContainerRecord[] {
    return [...this.#store.entries().values()].sort((a, b) => b.createdAt.localeCompare(a.createdAt));
  }

  hasName(name: string): boolean {
    return this.list().some((record) => record.spec.name === name);
  }

  find(id: ContainerId): ContainerRecord | undefined {
    return this.#store.read(id);
  }

  /** @throws {RuntimeError} NOT_FOUND when the container has gone */
  get(id: ContainerId): ContainerRecord {
    const record = this.#store.read(id);
    if (record === undefined) throw new RuntimeError('NOT_FOUND', `no such container: ${id}`);
    return record;
  }

  /**
   * The record that `ref` means: an id, a name, or the beginning of exactly one id, tried in this order.
   * @throws {RuntimeError} NOT_FOUND, or INVALID_ARGUMENT when the beginning fits several
   */
  resolve(ref: string): ContainerRecord {
    const exact = this.#store.read(ref) ?? this.list().find((record) => record.spec.name === ref);
    if (exact !== undefined) return exact;
    const fitting = ID_PREFIX.test(ref) ? this.list().filter((record) => record.id.startsWith(ref)) : [];
    const [only] = fitting;
    if (only === undefined) throw new RuntimeError('NOT_FOUND', `no such container: ${ref.slice(0, 128)}`);
    if (fitting.length > 1) {
      throw new RuntimeError('INVALID_ARGUMENT', `container id ${ref}: the beginning of ${fitting.length} ids`);
    }
    return only;
  }

  /** @throws {RuntimeError} ALREADY_EXISTS when the name is taken */
  create(spec: ContainerSpec, provisional: boolean): ContainerRecord {
    const holder = this.list().find((record) => record.spec.name === spec.name);
    if (holder !== undefined) {
      throw new RuntimeError(
        'ALREADY_EXISTS',
        `name: "${spec.name}" is in use by container ${holder.id.slice(0, 12)}: remove it or choose another name`,
      );
    }
    const record: ContainerRecord = {
      id: randomBytes(16).toString('hex'),
      spec,
      createdAt: new Date().toISOString(),
      provisional,
      cleanupFailures: [],
    };
    // Nothing was said or done yet about a container that exists only if its launch succeeds.
    this.#store.create(record.id, record, provisional ? 'process' : 'power');
    return record;
  }

  write(record: ContainerRecord, durability: Durability = 'process'): ContainerRecord {
    this.#store.write(record.id, record, durability);
    return record;
  }

  /** Adds facts to the current run. */
  amendRun(id: ContainerId, facts: Partial<Run>): ContainerRecord {
    const record = this.get(id);
    if (record.run === undefined) throw new RuntimeError('INTERNAL', `container ${id} has no run`);
    return this.write({ ...record, run: { ...record.run, ...facts } });
  }

  /** User code runs: from now on the container stays, whatever becomes of the run. */
  started(id: ContainerId, startedAt: string): void {
    const record = this.get(id);
    if (record.run === undefined) throw new RuntimeError('INTERNAL', `container ${id} has no run`);
    const run = { ...record.run, startedAt };
    this.write({ ...record, run, provisional: false }, record.spec.autoRemove ? 'process' : 'power');
  }

  remove(id: ContainerId): void {
    // What is left of it after a power failure says that it is to go.
    this.#store.remove(id, 'process');
  }
}
