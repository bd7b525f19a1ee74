/**
 * A launcher whose containers are functions: they write, receive signals and return an exit code. What runs is chosen
 * by the test; everything around it is as real as the fake machine is.
 */
import type { ContainerId } from '../../src/runtime/container.ts';
import type { ExecutableError, InitProcess, OutputChunk } from '../../src/runtime/launcher.ts';
import { FakeLauncher, type FakeMachine } from '../support/fake-launcher.ts';

/** A container's side of the world. */
export interface Inside {
  write(stream: 'stdout' | 'stderr', data: string | Uint8Array): void;
  /** The next signal sent to it. */
  nextSignal(): Promise<NodeJS.Signals>;
}

export type Program = (inside: Inside) => Promise<number>;

const AT = '2026-01-31T12:00:00.000Z';

export class ScriptedLauncher extends FakeLauncher {
  readonly #machine: FakeMachine;
  readonly #program: Program;
  readonly #chunks = new Map<ContainerId, OutputChunk[]>();
  readonly #followers = new Map<ContainerId, Set<() => void>>();
  readonly #ended = new Set<ContainerId>();
  readonly #signals = new Map<ContainerId, NodeJS.Signals[]>();
  /** What create waits for: a test that wants a slow launch puts a promise here. */
  gate: Promise<void> = Promise.resolve();
  /** Resolved when create is reached. */
  readonly creating: PromiseWithResolvers<void> = Promise.withResolvers<void>();
  /** Thrown by create. */
  refusal: ExecutableError | undefined;
  /** Output streams that are being read. */
  reading = 0;

  constructor(machine: FakeMachine, program: Program) {
    super(machine);
    this.#machine = machine;
    this.#program = program;
  }

  override async create(id: ContainerId): Promise<InitProcess> {
    this.creating.resolve();
    await this.gate;
    if (this.refusal !== undefined) throw this.refusal;
    return super.create(id);
  }

  override async start(id: ContainerId): Promise<void> {
    await super.start(id);
    this.#ended.delete(id);
    const inside: Inside = {
      write: (stream, data) => this.#write(id, { stream, data: Buffer.from(data), at: AT }),
      nextSignal: () => this.#nextSignal(id),
    };
    void this.#program(inside).then((code) => this.#end(id, code));
  }

  override async kill(id: ContainerId, signalName: NodeJS.Signals): Promise<void> {
    this.#machine.call(`launcher.kill ${signalName}`, id);
    if (signalName === 'SIGKILL') this.#end(id, 137);
    else this.#deliver(id, signalName);
  }

  override async openLogs(
    id?: ContainerId,
    options?: { follow: boolean },
    signal?: AbortSignal,
  ): Promise<AsyncIterable<OutputChunk>> {
    return this.#read(id ?? '', options?.follow ?? false, signal);
  }

  async *#read(id: ContainerId, follow: boolean, signal?: AbortSignal): AsyncGenerator<OutputChunk> {
    this.reading += 1;
    try {
      for (let index = 0; ; index += 1) {
        const chunk = this.#chunks.get(id)?.[index];
        if (chunk !== undefined) {
          yield chunk;
          continue;
        }
        if (!follow || this.#ended.has(id)) return;
        await this.#change(id, signal);
        index -= 1;
      }
    } finally {
      this.reading -= 1;
    }
  }

  #change(id: ContainerId, signal?: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const followers = this.#followers.get(id) ?? new Set();
    this.#followers.set(id, followers.add(resolve));
    const abort = (): void => reject(signal?.reason);
    if (signal?.aborted === true) abort();
    signal?.addEventListener('abort', abort, { once: true });
    return promise;
  }

  #write(id: ContainerId, chunk: OutputChunk): void {
    this.#chunks.set(id, [...(this.#chunks.get(id) ?? []), chunk]);
    this.#wake(id);
  }

  #end(id: ContainerId, code: number): void {
    this.#machine.exit(id, code);
    this.#ended.add(id);
    this.#wake(id);
  }

  #wake(id: ContainerId): void {
    const followers = this.#followers.get(id) ?? [];
    this.#followers.delete(id);
    for (const resolve of followers) resolve();
  }

  /** Signals queue until they are asked for. */
  async #nextSignal(id: ContainerId): Promise<NodeJS.Signals> {
    for (;;) {
      const next = this.#signals.get(id)?.shift();
      if (next !== undefined) return next;
      await this.#change(id);
    }
  }

  #deliver(id: ContainerId, name: NodeJS.Signals): void {
    this.#signals.set(id, [...(this.#signals.get(id) ?? []), name]);
    this.#wake(id);
  }
}
