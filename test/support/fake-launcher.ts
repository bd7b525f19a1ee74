/** A launcher without processes: a "machine" that outlives it, as the real one does, so that a test can restart. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerId, Exit } from '../../src/runtime/container.ts';
import type { InitProcess, Launcher, OutputChunk } from '../../src/runtime/launcher.ts';

export interface FakeProcess {
  readonly init: InitProcess;
  started: boolean;
  exit: Exit | undefined;
}

/** What survives the daemon. */
export class FakeMachine {
  readonly processes = new Map<ContainerId, FakeProcess>();
  readonly calls: string[] = [];
  /** A call named here fails until it is taken off. */
  readonly failing = new Map<string, Error>();
  #pid = 1000;

  call(name: string, id: ContainerId): void {
    this.calls.push(name);
    const failure = this.failing.get(name);
    if (failure !== undefined) throw failure;
    if (id === '') throw new Error('no id');
  }

  spawn(id: ContainerId): InitProcess {
    this.#pid += 1;
    const init = { pid: this.#pid, startTicks: this.#pid * 10 };
    this.processes.set(id, { init, started: false, exit: undefined });
    return init;
  }

  exit(id: ContainerId, code: number): void {
    const process = this.processes.get(id);
    if (process !== undefined) process.exit ??= { code, oomKilled: false, exitedAt: new Date().toISOString() };
  }
}

export class FakeLauncher implements Launcher {
  readonly #machine: FakeMachine;

  constructor(machine: FakeMachine) {
    this.#machine = machine;
  }

  async recover(): Promise<ReadonlyMap<ContainerId, InitProcess | undefined>> {
    return new Map(
      [...this.#machine.processes].map(([id, { init, exit }]) => [id, exit === undefined ? init : undefined]),
    );
  }

  async create(id: ContainerId): Promise<InitProcess> {
    this.#machine.call('launcher.create', id);
    return this.#machine.spawn(id);
  }

  async start(id: ContainerId): Promise<void> {
    this.#machine.call('launcher.start', id);
    const process = this.#machine.processes.get(id);
    if (process !== undefined) process.started = true;
  }

  async kill(id: ContainerId, signalName: NodeJS.Signals): Promise<void> {
    this.#machine.call(`launcher.kill ${signalName}`, id);
    if (signalName === 'SIGKILL') this.#machine.exit(id, 137);
  }

  async wait(id: ContainerId, signal: AbortSignal): Promise<Exit> {
    for (;;) {
      signal.throwIfAborted();
      const exit = this.#machine.processes.get(id)?.exit;
      if (exit !== undefined) return exit;
      await sleep(2, undefined, { signal });
    }
  }

  async terminate(id: ContainerId): Promise<void> {
    this.#machine.call('launcher.terminate', id);
    this.#machine.exit(id, 137);
  }

  async destroy(id: ContainerId): Promise<void> {
    this.#machine.call('launcher.destroy', id);
    this.#machine.processes.delete(id);
  }

  async openLogs(): Promise<AsyncIterable<OutputChunk>> {
    return ReadableStream.from<OutputChunk>([]);
  }

  async remove(id: ContainerId): Promise<void> {
    this.#machine.call('launcher.remove', id);
  }
}
