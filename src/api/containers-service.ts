/** The Containers service: calls of the API as calls of the Containerizer. */
import { RuntimeError } from '../errors.ts';
import type { ContainerRecord } from '../runtime/container.ts';
import type { Containerizer, ContainerView } from '../runtime/containerizer.ts';
import type { OutputChunk } from '../runtime/launcher.ts';
import { containerMessage, exitMessage, usageMessage } from './container-message.ts';
import { containerSpecOf } from './container-request.ts';
import { boundedInteger, instant } from './field.ts';
import type { Container } from './generated/berth/v1/Container.ts';
import type { ContainerRequest__Output } from './generated/berth/v1/ContainerRequest.ts';
import type { ContainersDefinition } from './generated/berth/v1/Containers.ts';
import type { CreateContainerRequest__Output } from './generated/berth/v1/CreateContainerRequest.ts';
import type { Exit } from './generated/berth/v1/Exit.ts';
import type { KillContainerRequest__Output } from './generated/berth/v1/KillContainerRequest.ts';
import type { KillContainerResponse } from './generated/berth/v1/KillContainerResponse.ts';
import type { ListContainersRequest__Output } from './generated/berth/v1/ListContainersRequest.ts';
import type { ListContainersResponse } from './generated/berth/v1/ListContainersResponse.ts';
import type { LogsRequest__Output } from './generated/berth/v1/LogsRequest.ts';
import type { OutputChunk as ChunkMessage } from './generated/berth/v1/OutputChunk.ts';
import type { RemoveContainerRequest__Output } from './generated/berth/v1/RemoveContainerRequest.ts';
import type { RemoveContainerResponse } from './generated/berth/v1/RemoveContainerResponse.ts';
import type { RunContainerRequest__Output } from './generated/berth/v1/RunContainerRequest.ts';
import type { RunEvent } from './generated/berth/v1/RunEvent.ts';
import type { StopContainerRequest__Output } from './generated/berth/v1/StopContainerRequest.ts';
import type { StopContainerResponse } from './generated/berth/v1/StopContainerResponse.ts';
import type { Usage } from './generated/berth/v1/Usage.ts';
import { checkRef } from './object-ref.ts';
import type { Call, ServiceMethods } from './protocol.ts';
import { signalNameOf } from './signal-name.ts';

const DEFAULT_STOP_MS = 10_000;
/** setTimeout and AbortSignal.timeout take no more. */
const MAX_STOP_MS = 2 ** 31 - 1;
const UNDO_MS = 120_000;

export interface ContainersServiceOptions {
  readonly containerizer: Containerizer;
  /** The network of containers that name none. @throws {RuntimeError} FAILED_PRECONDITION when there is none */
  readonly networks: { defaultNetworkName(): string };
}

export class ContainersService implements ServiceMethods<ContainersDefinition> {
  readonly #containerizer: Containerizer;
  readonly #networks: ContainersServiceOptions['networks'];

  constructor(options: ContainersServiceOptions) {
    this.#containerizer = options.containerizer;
    this.#networks = options.networks;
  }

  async create({ spec }: CreateContainerRequest__Output): Promise<Container> {
    const record = this.#create(spec, false);
    return containerMessage(this.#containerizer.get(record.id));
  }

  async start({ ref }: ContainerRequest__Output, { signal }: Call): Promise<Container> {
    const { record } = await this.#containerizer.launch(checkRef('ref', ref), signal);
    return containerMessage(this.#viewOf(record));
  }

  /** The events in the order the proto gives. The launch is undone when the caller goes before it hears of it. */
  async *run({ spec, detach }: RunContainerRequest__Output, call: Call): AsyncGenerator<RunEvent> {
    call.signal.throwIfAborted();
    const { id, spec: valid } = this.#create(spec, true);
    const attach = detach ? {} : { attach: true, outputSignal: call.waitSignal };
    const { output } = await this.#containerizer.launch(id, call.signal, attach);
    if (call.signal.aborted) {
      await this.#containerizer.remove(id, { force: true }, AbortSignal.timeout(UNDO_MS));
      throw call.signal.reason;
    }
    yield { started: { id, name: valid.name } };
    if (detach) return;
    for await (const { stream, data } of output ?? []) yield { [stream]: data };
    yield { exit: exitMessage(await this.#containerizer.wait(id, call.waitSignal)) };
    if (!valid.autoRemove) return;
    await this.#containerizer.removed(id, call.waitSignal);
    yield { removed: {} };
  }

  async list({ all }: ListContainersRequest__Output): Promise<ListContainersResponse> {
    const views = this.#containerizer.list().filter((view) => all || isUp(view));
    return { containers: views.map(containerMessage) };
  }

  async inspect({ ref }: ContainerRequest__Output): Promise<Container> {
    return containerMessage(this.#containerizer.get(checkRef('ref', ref)));
  }

  async *logs(request: LogsRequest__Output, { waitSignal }: Call): AsyncGenerator<ChunkMessage> {
    const options = {
      follow: request.follow,
      tailLines: boundedInteger('tail', request.tailLines, 0, Number.MAX_SAFE_INTEGER),
      since: instant('since', request.since),
    };
    const output = await this.#containerizer.openLogs(checkRef('ref', request.ref), options, waitSignal);
    for await (const chunk of output) yield chunkMessage(chunk);
  }

  async wait({ ref }: ContainerRequest__Output, { waitSignal }: Call): Promise<Exit> {
    return exitMessage(await this.#containerizer.wait(checkRef('ref', ref), waitSignal));
  }

  async stop(request: StopContainerRequest__Output, { signal }: Call): Promise<StopContainerResponse> {
    const timeoutMs = boundedInteger('timeout', request.timeoutMs, 0, MAX_STOP_MS) ?? DEFAULT_STOP_MS;
    const options =
      request.signal === undefined ? { timeoutMs } : { timeoutMs, signalName: signalNameOf(request.signal) };
    await this.#containerizer.stop(checkRef('ref', request.ref), options, signal);
    return {};
  }

  async kill({ ref, signal: name }: KillContainerRequest__Output, { signal }: Call): Promise<KillContainerResponse> {
    await this.#containerizer.kill(checkRef('ref', ref), signalNameOf(name), signal);
    return {};
  }

  async remove({ ref, force }: RemoveContainerRequest__Output, { signal }: Call): Promise<RemoveContainerResponse> {
    await this.#containerizer.remove(checkRef('ref', ref), { force }, signal);
    return {};
  }

  async stats({ ref }: ContainerRequest__Output, { signal }: Call): Promise<Usage> {
    return usageMessage(await this.#containerizer.usage(checkRef('ref', ref), signal));
  }

  #create(spec: CreateContainerRequest__Output['spec'], provisional: boolean): ContainerRecord {
    const request = containerSpecOf(spec, () => this.#networks.defaultNetworkName());
    return this.#containerizer.create(request, { provisional });
  }

  /** A short run may be over, and with auto_remove gone, before the answer is made. */
  #viewOf(record: ContainerRecord): ContainerView {
    try {
      return this.#containerizer.get(record.id);
    } catch (error) {
      if (error instanceof RuntimeError && error.code === 'NOT_FOUND') return { record, state: 'exited', status: {} };
      throw error;
    }
  }
}

function isUp({ state }: ContainerView): boolean {
  return state === 'starting' || state === 'running' || state === 'stopping';
}

function chunkMessage({ stream, data, at }: OutputChunk): ChunkMessage {
  return { stream: stream === 'stdout' ? 'OUTPUT_STREAM_STDOUT' : 'OUTPUT_STREAM_STDERR', data, at };
}
