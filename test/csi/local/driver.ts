/**
 * The embedded driver as its callers meet it: its own process, started by the very command the daemon uses, and a plain
 * gRPC client on its socket. Everything it mounted or attached is taken away when the test ends, and its absence is
 * asked of the kernel.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import {
  Client,
  type ClientReadableStream,
  credentials,
  Metadata,
  type ServiceDefinition,
  type ServiceError,
} from '@grpc/grpc-js';
import { type LocalDriverOptions, localDriverProcess } from '../../../src/csi/local/local-driver.ts';
import { loopDevicesBelow } from '../../../src/csi/local/loop-devices.ts';
import { type Csi, loadCsi } from '../../../src/csi/protocol.ts';
import { hostCommand } from '../../../src/host-command.ts';
import { mountsBelow } from '../../../src/mountinfo.ts';
import { codeOfStatus } from '../../../src/status.ts';
import { cleanup, type TestScope } from '../../support/cleanup.ts';
import type { Message } from '../../support/csi-message.ts';
import { programFile } from '../../support/program-file.ts';
import { tempDir } from '../../support/temp-dir.ts';

export type { Message };

export const MIB = 1024 * 1024;
export const csi: Csi = loadCsi();

const methods: ServiceDefinition = {
  ...csi.service('Identity'),
  ...csi.service('Controller'),
  ...csi.service('GroupController'),
  ...csi.service('SnapshotMetadata'),
  ...csi.service('Node'),
};

export interface DriverOptions {
  /** Runs the driver's command; nothing unless given. */
  readonly wrapper?: readonly string[];
  readonly process?: Partial<LocalDriverOptions>;
}

/** A driver on directories of its own. */
export class Driver {
  /** Short, without mounts of others. */
  readonly dir: string;
  readonly socketPath: string;
  readonly dataDir: string;
  #process: ChildProcess | undefined;
  #client: Client | undefined;
  #stderr = '';
  /** May be changed before the next start. */
  options: DriverOptions;

  constructor(dir: string, options: DriverOptions = {}) {
    this.dir = dir;
    this.options = options;
    this.socketPath = `${dir}/csi.sock`;
    this.dataDir = `${dir}/data`;
  }

  get process(): ChildProcess {
    if (this.#process === undefined) throw new Error('the driver is not running');
    return this.#process;
  }

  get stderr(): string {
    return this.#stderr;
  }

  /** Starts the process and waits until it says that it listens. */
  async start(): Promise<void> {
    const { dataDir, socketPath } = this;
    const { file, args, env } = localDriverProcess({
      dataDir,
      socketPath,
      nodeId: 'test-node',
      ...this.options.process,
    });
    const [program = file, ...programArgs] = [...(this.options.wrapper ?? []), file, ...args];
    const child = spawn(program, programArgs.map(asTested), { env, stdio: ['pipe', 'ignore', 'pipe'] });
    this.#process = child;
    const listens = new Promise<void>((resolve, reject) => {
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        this.#stderr += text;
        if (text.includes('driver listens')) resolve();
      });
      child.once('exit', (code) => reject(new Error(`the driver ended with ${code}: ${this.#stderr}`)));
    });
    await listens;
    this.#client = new Client(`unix://${socketPath}`, credentials.createInsecure(), {
      'grpc.default_authority': 'localhost',
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_retries': 0,
    });
  }

  /** Ends the process by a signal and waits for it. */
  async end(signalName: NodeJS.Signals): Promise<number | null> {
    const child = this.#process;
    this.#client?.close();
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const exit = once(child, 'exit');
    child.kill(signalName);
    const [code] = await exit;
    return code;
  }

  async restart(signalName: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.end(signalName);
    await this.start();
  }

  /** Calls an RPC; throws the plugin's status. */
  call(rpc: string, request: Message = {}): Promise<Message> {
    const method = methods[rpc];
    if (method === undefined || this.#client === undefined) throw new Error(`no ${rpc}`);
    const client = this.#client;
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + 30_000 };
      const { path, requestSerialize, responseDeserialize } = method;
      client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        new Metadata(),
        options,
        (error, answer) => {
          if (error !== null) reject(error);
          else resolve(answer ?? {});
        },
      );
    });
  }

  /** Begins a call that is answered by a stream. */
  beginStream(rpc: string, request: Message = {}): ClientReadableStream<Message> {
    const method = methods[rpc];
    if (method === undefined || this.#client === undefined) throw new Error(`no ${rpc}`);
    const { path, requestSerialize, responseDeserialize } = method;
    const options = { deadline: Date.now() + 30_000 };
    return this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, options);
  }

  /** All messages of such a call; throws the plugin's status. */
  async stream(rpc: string, request: Message = {}): Promise<Message[]> {
    const messages: Message[] = [];
    for await (const message of this.beginStream(rpc, request)) messages.push(message);
    return messages;
  }

  /** The name of the status a call fails with, "OK" when it does not fail. */
  async codeOf(rpc: string, request: Message = {}): Promise<string> {
    return this.call(rpc, request).then(
      () => 'OK',
      (error: ServiceError) => codeOfStatus(error.code),
    );
  }

  /** Makes a volume and returns its id. */
  async createVolume(name: string, request: Message = {}): Promise<string> {
    const answer = await this.call('CreateVolume', {
      name,
      capacityRange: { requiredBytes: String(16 * MIB) },
      volumeCapabilities: [mountOf()],
      ...request,
    });
    return answer['volume'].volumeId;
  }

  /** Paths of a volume, made as an orchestrator makes them. */
  async paths(name: string): Promise<{ stagingTargetPath: string; targetPath: string }> {
    await mkdir(`${this.dir}/${name}/staging`, { recursive: true });
    return { stagingTargetPath: `${this.dir}/${name}/staging`, targetPath: `${this.dir}/${name}/target` };
  }

  /** Mounts and loop devices the kernel holds for this driver. */
  held(): string[] {
    return [
      ...mountsBelow(this.dir).map(({ mountPoint }) => mountPoint),
      ...loopDevicesBelow(this.dir).map(({ path, backingFile }) => `${path} on ${backingFile}`),
    ];
  }

  /** Takes away all the kernel holds, for tests that failed half way. */
  async dispose(): Promise<void> {
    await this.end('SIGKILL');
    const signal = AbortSignal.timeout(20_000);
    for (const { mountPoint } of mountsBelow(this.dir)) await hostCommand('umount', ['-l', mountPoint], signal);
    for (const { path, autoclear } of loopDevicesBelow(this.dir)) {
      if (!autoclear) await hostCommand('losetup', ['-d', path], signal);
    }
  }
}

/** The program that is tested, where the command names the source. */
function asTested(word: string): string {
  return word.endsWith('/src/csi/local/main.ts') ? programFile('csi/local/main') : word;
}

/** A running driver with nothing in it. */
export async function startDriver(t: TestScope, options: DriverOptions = {}): Promise<Driver> {
  const driver = new Driver(await tempDir(t), options);
  cleanup(t, () => driver.dispose());
  await driver.start();
  return driver;
}

export function mountOf(mode = 'SINGLE_NODE_WRITER', mount: Message = {}): Message {
  return { mount: { fsType: '', ...mount }, accessMode: { mode } };
}

export function blockOf(mode = 'SINGLE_NODE_WRITER'): Message {
  return { block: {}, accessMode: { mode } };
}
