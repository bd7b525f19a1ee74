/**
 * What a container costs without Berth: the same programs one after another, each started as soon as the one before it
 * has ended. Namespace, ADD, conmon with the runtime's create, start, exit, delete, DEL, namespace gone. It is lean on
 * purpose: no writable layer, no seccomp filter, no records, no log reader.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, watch } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { CNI_BIN_DIRS, findProgram } from '../../test/support/needs.ts';
import { command, versionOf } from './command.ts';
import type { Absent, Contestant, Lifecycle } from './contestant.ts';
import { type BenchNetwork, CGROUP, type Place } from './place.ts';

const NAME = 'raw sequence';

export async function rawSequence(place: Place, runtime: string): Promise<Contestant | Absent> {
  const conmon = findProgram('conmon');
  const runtimePath = findProgram(runtime);
  const bridge = CNI_BIN_DIRS.map((dir) => join(dir, 'bridge')).find(existsSync);
  if (conmon === undefined || runtimePath === undefined || bridge === undefined) {
    return { name: NAME, reason: `conmon, ${runtime} and the CNI plugins are needed` };
  }
  const [network, dir] = [await place.network(1), await place.runDirectory('raw')];
  const versions = { conmon: (await versionOf('conmon')) ?? '', [runtime]: (await versionOf(runtime)) ?? '' };
  const parts = { conmon, runtime: runtimePath, bridge, network, dir, rootfs: place.rootfs };
  return {
    name: NAME,
    versions,
    run: (argv) => new RawRun(parts, argv).run(),
    // Every run takes away what it made; only an interrupted one leaves something, in the bench's directory.
    close: async () => undefined,
  };
}

interface Parts {
  readonly conmon: string;
  readonly runtime: string;
  readonly bridge: string;
  readonly network: BenchNetwork;
  readonly dir: string;
  readonly rootfs: string;
}

class RawRun {
  readonly #parts: Parts;
  readonly #command: readonly string[];
  readonly #id = `berthbench${randomBytes(6).toString('hex')}`;
  readonly #bundle: string;
  readonly #stepsMs: Record<string, number> = {};

  constructor(parts: Parts, argv: readonly string[]) {
    this.#parts = parts;
    this.#command = argv;
    this.#bundle = join(parts.dir, this.#id);
  }

  async run(): Promise<Lifecycle> {
    try {
      return await this.#measured();
    } catch (error) {
      await command(this.#parts.runtime, ['delete', '--force', this.#id]).catch(() => undefined);
      await this.#plugin('DEL').catch(() => undefined);
      await command('ip', ['netns', 'delete', this.#id]).catch(() => undefined);
      throw error;
    }
  }

  async #measured(): Promise<Lifecycle> {
    const { runtime } = this.#parts;
    const id = this.#id;
    const begunMs = performance.now();
    await this.#step('namespace', () => command('ip', ['netns', 'add', id]));
    await this.#step('ADD', () => this.#plugin('ADD'));
    await this.#step('create', () => this.#create());
    const exited = this.#exited();
    await this.#step('start', () => command(runtime, ['start', id]));
    await this.#step('exit', () => exited);
    await this.#step('delete', () => command(runtime, ['delete', id]));
    await this.#step('DEL', () => this.#plugin('DEL'));
    await this.#step('namespace gone', () => command('ip', ['netns', 'delete', id]));
    const totalMs = performance.now() - begunMs;
    const output = await readFile(join(this.#bundle, 'log'), 'utf8');
    await rm(this.#bundle, { recursive: true });
    // conmon's log has "TIME STREAM F TEXT" in each line.
    return { totalMs, stepsMs: this.#stepsMs, output: output.replace(/^\S+ \S+ \S /gm, '') };
  }

  async #step(name: string, work: () => Promise<unknown>): Promise<void> {
    const begunMs = performance.now();
    await work();
    this.#stepsMs[name] = performance.now() - begunMs;
  }

  #plugin(verb: 'ADD' | 'DEL'): Promise<string> {
    const { bridge, network } = this.#parts;
    const [plugin] = network.config.plugins;
    const { cniVersion, name } = network.config;
    return command(bridge, [], {
      input: JSON.stringify({ cniVersion, name, ...plugin }),
      env: {
        CNI_COMMAND: verb,
        CNI_CONTAINERID: this.#id,
        CNI_NETNS: `/run/netns/${this.#id}`,
        CNI_IFNAME: 'eth0',
        CNI_PATH: CNI_BIN_DIRS.join(':'),
      },
    });
  }

  /** conmon detaches once its child runs; what became of create is told through a pipe. */
  async #create(): Promise<void> {
    const { conmon, runtime } = this.#parts;
    await mkdir(join(this.#bundle, 'exits'), { recursive: true });
    await writeFile(join(this.#bundle, 'config.json'), JSON.stringify(this.#spec()));
    const options = {
      '--api-version': '1',
      '--cid': this.#id,
      '--cuuid': this.#id,
      '--name': this.#id,
      '--runtime': runtime,
      '--bundle': this.#bundle,
      '--container-pidfile': join(this.#bundle, 'pid'),
      '--log-path': `k8s-file:${join(this.#bundle, 'log')}`,
      '--exit-dir': join(this.#bundle, 'exits'),
      '--socket-dir-path': this.#bundle,
    };
    const child = spawn(conmon, Object.entries(options).flat(), {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      env: { PATH: process.env['PATH'] ?? '', _OCI_SYNCPIPE: '3' },
    });
    const told = await syncMessage(child);
    if (told.data <= 0) throw new Error(`conmon could not create: ${JSON.stringify(told)}`);
  }

  async #exited(): Promise<void> {
    const dir = join(this.#bundle, 'exits');
    const file = join(dir, this.#id);
    const { promise, resolve } = Promise.withResolvers<void>();
    const watcher = watch(dir, () => {
      if (existsSync(file)) resolve();
    });
    if (existsSync(file)) resolve();
    await promise;
    watcher.close();
  }

  /** The least a container needs, with the namespaces and paths that runtimes give by default. */
  #spec(): object {
    const namespaces = ['pid', 'ipc', 'uts', 'mount', 'cgroup'].map((type) => ({ type }));
    const mount = (destination: string, type: string, ...options: readonly string[]): object => ({
      destination,
      type,
      source: type,
      options: ['nosuid', 'noexec', ...options],
    });
    return {
      ociVersion: '1.0.2',
      process: {
        args: this.#command,
        cwd: '/',
        env: ['PATH=/bin:/sbin'],
        user: { uid: 0, gid: 0 },
        noNewPrivileges: true,
        capabilities: {},
      },
      root: { path: this.#parts.rootfs, readonly: true },
      hostname: 'bench',
      mounts: [
        mount('/proc', 'proc', 'nodev'),
        { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755', 'size=65536k'] },
        mount('/dev/pts', 'devpts', 'newinstance', 'ptmxmode=0666', 'mode=0620'),
        mount('/dev/shm', 'tmpfs', 'nodev', 'mode=1777', 'size=65536k'),
        mount('/sys', 'sysfs', 'nodev', 'ro'),
      ],
      linux: {
        cgroupsPath: `/${CGROUP}/${this.#id}`,
        namespaces: [...namespaces, { type: 'network', path: `/run/netns/${this.#id}` }],
        resources: { devices: [{ allow: false, access: 'rwm' }] },
      },
    };
  }
}

interface SyncMessage {
  /** Pid of the container, negative when there is none. */
  readonly data: number;
  readonly message?: string;
}

/** conmon's first line on its sync pipe; its launcher process has then been reaped, too. */
async function syncMessage(child: ChildProcess): Promise<SyncMessage> {
  const pipe = child.stdio[3];
  if (pipe === null || pipe === undefined || !('setEncoding' in pipe)) throw new Error('conmon has no sync pipe');
  const stderr = child.stderr === null ? Promise.resolve('') : text(child.stderr);
  const [[line]] = await Promise.all([once(pipe, 'data'), once(child, 'exit')]);
  pipe.destroy();
  child.stderr?.destroy();
  stderr.catch(() => undefined);
  return JSON.parse(String(line));
}
