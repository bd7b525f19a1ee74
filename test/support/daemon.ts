/**
 * A whole berthd for a test: own root and run directories, cgroup parent, networks and plugins; the real command line
 * and a client of the API beside it; an oracle bound to what belongs to it. When the test ends, containers and volumes
 * are removed through the daemon, the daemon is stopped, and what is then left is a failure of the test; it is swept
 * away in any case.
 *
 *   const daemon = await startDaemon(t);
 *   await daemon.importBusybox();
 *   const { stdout } = await daemon.cli(['run', '--rm', 'busybox:1', '--', 'hostname']);
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { runBerth } from './berth-program.ts';
import { busyboxTar } from './busybox-image.ts';
import { mountHugetlb } from './cgroup-fixture.ts';
import { cleanup, type TestScope } from './cleanup.ts';
import { ApiClient } from './daemon-api.ts';
import { DaemonProcess, formatLog, type LineMatch, type LogLine, program } from './daemon-process.ts';
import { sweep } from './daemon-sweep.ts';
import { assertClean, type CleanOptions, type Scope, type Snapshot, snapshot } from './oracle.ts';
import { tempDir } from './temp-dir.ts';
import { claimNetworks, conflist, type TestNetwork } from './test-network.ts';

const START_TIMEOUT_MS = 60_000;
const CLI_TIMEOUT_MS = 60_000;
/** Ids that Berth makes. Others call containers as they like, and what bears the name is ended when the test ends. */
const CONTAINER_ID = /^[0-9a-f]{32}$/;

export interface DaemonOptions {
  /** Flags added to those that make the daemon's place: `['--runtime', 'runc']`. */
  readonly flags?: readonly string[];
  /** Further files of the CNI configuration directory, by name; they come after the test's two networks. */
  readonly confFiles?: Readonly<Record<string, object | string>>;
  /** False for tests that need none: the embedded driver, a process of its own, is not started. */
  readonly volumes?: boolean;
}

/** What a command of `berth` did. */
export interface CliResult {
  /** 128 + number when a signal ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  /** Empty unless given. */
  readonly stdin?: string;
  /** 60,000 unless given; the command is killed then and the test fails. */
  readonly timeoutMs?: number;
}

/** Makes a daemon's place, starts it and waits until it listens. */
export async function startDaemon(t: TestScope, options: DaemonOptions = {}): Promise<Daemon> {
  mountHugetlb();
  const { subnet, networks } = await claimNetworks(t);
  const dir = await tempDir(t);
  const place: Place = {
    dir,
    root: join(dir, 'root'),
    run: join(dir, 'run'),
    confDir: join(dir, 'net.d'),
    leaseDir: join(dir, 'leases'),
    cgroupParent: `berth-e2e-${randomBytes(4).toString('hex')}`,
    subnet,
    networks,
  };
  await mkdir(place.confDir);
  await mkdir(join(dir, 'csi.d'));
  await mkdir(join(dir, 'volumes.d'));
  const own = Object.fromEntries(
    networks.map((network, index) => [`${10 + index}-${network.name}.conflist`, conflist(network, place.leaseDir)]),
  );
  for (const [name, content] of Object.entries({ ...own, ...options.confFiles })) {
    await writeFile(join(place.confDir, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
  const driver = options.volumes === false ? ['--no-csi-local-driver'] : [];
  const daemon = new Daemon(place, [...driver, ...(options.flags ?? [])]);
  cleanup(t, () => daemon.dispose(t));
  await daemon.start();
  return daemon;
}

/** Where a daemon of a test lives. */
interface Place {
  readonly dir: string;
  readonly root: string;
  readonly run: string;
  readonly confDir: string;
  readonly leaseDir: string;
  readonly cgroupParent: string;
  readonly subnet: string;
  readonly networks: readonly [TestNetwork, TestNetwork];
}

/** A berthd of a test; see the module's head. */
export class Daemon {
  /** Directory of the test that holds everything of the daemon. */
  readonly dir: string;
  readonly root: string;
  readonly run: string;
  readonly confDir: string;
  readonly cgroupParent: string;
  readonly socketPath: string;
  /** "e2e", the default, and "e2e-second". */
  readonly networks: readonly [TestNetwork, TestNetwork];
  /** The log of all runs. */
  readonly lines: LogLine[] = [];
  readonly api: ApiClient;
  /** What belongs to the daemon; ids are learned from its log. */
  readonly scope: Scope;
  readonly #flags: readonly string[];
  readonly #ids = new Set<string>();
  readonly #clis = new Set<ChildProcess>();
  #process: DaemonProcess | undefined;

  constructor(place: Place, flags: readonly string[]) {
    this.dir = place.dir;
    this.root = place.root;
    this.run = place.run;
    this.confDir = place.confDir;
    this.cgroupParent = place.cgroupParent;
    this.networks = place.networks;
    this.socketPath = join(place.run, 'berthd.sock');
    this.#flags = [
      ['--root', place.root],
      ['--run', place.run],
      ['--cni-conf-dir', place.confDir],
      ['--csi-conf-dir', join(place.dir, 'csi.d')],
      ['--volume-class-dir', join(place.dir, 'volumes.d')],
      ['--cgroup-parent', place.cgroupParent],
      ['--log-level', 'debug'],
      flags,
    ].flat();
    this.api = new ApiClient(this.socketPath);
    this.scope = {
      dirs: [place.root, place.run],
      cgroupParent: place.cgroupParent,
      bridges: place.networks.map((network) => network.bridge),
      networks: place.networks.map((network) => network.name),
      subnets: [place.subnet],
      leaseDirs: [place.leaseDir],
      ids: this.#ids,
      ignoreFiles: (path) => path.startsWith(join(place.root, 'images')) || isDriverState(path),
      restartable: (line) => /\bnode\b/.test(line.split(' ')[0] ?? ''),
    };
  }

  /** Pid of the current run. */
  get pid(): number {
    return this.#running().pid;
  }

  get alive(): boolean {
    return this.#process?.alive === true;
  }

  /** Starts the daemon and waits until it listens and its driver answers. Its place must not be in use by an earlier run. */
  async start(): Promise<void> {
    const started = new DaemonProcess(this.#flags, this.lines, (line) => {
      const id = line['containerId'];
      if (typeof id === 'string' && CONTAINER_ID.test(id)) this.#ids.add(id);
    });
    this.#process = started;
    const listening = started.line((line) => line.msg === 'listening', START_TIMEOUT_MS);
    // The embedded driver comes up beside the daemon; what it makes must not look like a leak of a test.
    const ready = this.#flags.includes('--no-csi-local-driver')
      ? undefined
      : started.line(isDriverReady, START_TIMEOUT_MS);
    await Promise.all([listening, ready]);
  }

  /** Ends the daemon and waits for its exit. Returns its exit code, undefined when a signal ended it. */
  kill(signalName: NodeJS.Signals = 'SIGKILL'): Promise<number | undefined> {
    return this.#running().end(signalName);
  }

  /** Ends the daemon and starts it again on the same place. */
  async restart(signalName: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (this.alive) await this.kill(signalName);
    await this.start();
  }

  /** The next line of the log that matches. */
  line(matches: LineMatch, timeoutMs = 30_000): Promise<LogLine> {
    return this.#running().line(matches, timeoutMs);
  }

  /**
   * Kills the daemon the moment it logs a matching line; ask before what makes it log:
   * `const dead = daemon.killAt((line) => line.msg === 'launch step' && line['step'] === 'isolated')`.
   */
  killAt(matches: LineMatch, timeoutMs = 30_000): Promise<LogLine> {
    return this.#running().killAt(matches, timeoutMs);
  }

  /**
   * Runs `berth` with these arguments to its end: `run` as a process, whose streams, exit code and signals are those of
   * the container, everything else in this process ({@link runBerth}).
   */
  cli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
    return args[0] === 'run' ? this.#spawned(args, options) : this.#inside(args, options);
  }

  /** As `cli`, for commands that must end with 0. Returns stdout without the last line feed. */
  async ok(args: readonly string[], options: CliOptions = {}): Promise<string> {
    const { code, stdout, stderr } = await this.cli(args, options);
    if (code === 0) return stdout.replace(/\n$/, '');
    const log = formatLog(this.lines, 20);
    throw new Error(`berth ${args.join(' ')} exited with ${code}: ${stderr}${stdout}\n${log}`);
  }

  async #spawned(args: readonly string[], options: CliOptions): Promise<CliResult> {
    const child = this.spawnCli(args);
    const timeoutMs = options.timeoutMs ?? CLI_TIMEOUT_MS;
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, timeoutMs);
    child.stdin?.on('error', () => undefined).end(options.stdin ?? '');
    const closed = exitCodeOf(child);
    const [stdout, stderr, code] = await Promise.all([output(child.stdout), output(child.stderr), closed]);
    clearTimeout(timer);
    if (late) {
      const log = formatLog(this.lines, 20);
      throw new Error(`berth ${args.join(' ')} did not end within ${timeoutMs} ms: ${stdout}${stderr}\n${log}`);
    }
    return { code, stdout, stderr };
  }

  async #inside(args: readonly string[], { timeoutMs = CLI_TIMEOUT_MS }: CliOptions): Promise<CliResult> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new Error(`berth ${args.join(' ')} did not end within ${timeoutMs} ms\n${formatLog(this.lines, 20)}`));
    }, timeoutMs);
    try {
      return await Promise.race([runBerth(args, this.#cliEnv()), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #cliEnv(): NodeJS.ProcessEnv {
    return { ...process.env, BERTH_HOST: `unix://${this.socketPath}` };
  }

  /** Starts `berth` with these arguments; it is killed when the test ends. */
  spawnCli(args: readonly string[]): ChildProcess {
    const [file, ...before] = program('berth');
    const child = spawn(file, [...before, ...args], {
      stdio: 'pipe',
      env: this.#cliEnv(),
    });
    this.#clis.add(child);
    child.once('close', () => this.#clis.delete(child));
    return child;
  }

  /** Imports a busybox image and returns its reference. */
  async importBusybox(reference = 'busybox:1'): Promise<string> {
    await this.api.images.call('Import', { sourcePath: await busyboxTar(), reference });
    return reference;
  }

  /** What is there now; compare later by {@link Oracle.assertClean}. Images count as nobody's. */
  oracle(): Oracle {
    return new Oracle(this.scope);
  }

  /** Ends everything. @throws when a live daemon could not give everything back; that is swept away first */
  async dispose(t: TestScope): Promise<void> {
    for (const child of this.#clis) child.kill('SIGKILL');
    const failures: unknown[] = [];
    const wasAlive = this.alive;
    if (wasAlive) failures.push(...(await this.#removeAll()));
    const code = await this.#process?.end('SIGTERM');
    this.api.close();
    if (wasAlive && code !== 0) failures.push(new Error(`berthd exited with ${code ?? 'a signal'} after SIGTERM`));
    try {
      if (wasAlive) await assertClean(this.scope, { allowRecords: isImage, ignore: ['file'] });
    } catch (error) {
      failures.push(error);
    }
    await sweep(this.scope);
    if (failures.length > 0 || hasFailed(t)) report(t, this.lines);
    if (failures.length > 0)
      throw new AggregateError(failures, `berthd left something: ${failures.map(String).join('; ')}`);
  }

  /** Removes containers and volumes through the API; returns what failed. */
  async #removeAll(): Promise<unknown[]> {
    const { containers, volumes } = this.api;
    const options = { timeoutMs: 30_000 };
    try {
      const listed = await containers.call('List', { all: true }, options);
      const removed = await Promise.allSettled(
        listed.containers.map(({ id }) => containers.call('Remove', { ref: id, force: true }, options)),
      );
      const rest = await volumes.call('List', {}, options);
      const deleted = await Promise.allSettled(
        rest.volumes.map(({ name }) => volumes.call('Remove', { name }, options)),
      );
      return [...removed, ...deleted].flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    } catch (error) {
      return [error];
    }
  }

  #running(): DaemonProcess {
    if (this.#process === undefined) throw new Error('berthd was not started');
    return this.#process;
  }
}

/** What was there when it was made, to compare with. */
export class Oracle {
  readonly scope: Scope;
  readonly before: Snapshot;

  constructor(scope: Scope) {
    this.scope = scope;
    this.before = snapshot(scope);
  }

  /** @throws naming everything that is there now and was not before */
  assertClean(options: Omit<CleanOptions, 'before'> = {}): Promise<void> {
    return assertClean(this.scope, { allowRecords: isImage, ...options, before: this.before });
  }
}

/** What the driver keeps beside a volume as long as the volume is there. */
function isDriverState(path: string): boolean {
  return /\/local\.csi\.berth\/volumes\/[^/]+\/(lock|node\.json)$/.test(path);
}

function isDriverReady(line: LogLine): boolean {
  return line.msg === 'plugin state changed' && line['plugin'] === 'local.csi.berth' && line['to'] === 'ready';
}

function isImage(record: string): boolean {
  return record.startsWith('image');
}

function output(stream: ChildProcess['stdout']): Promise<string> {
  return stream === null ? Promise.resolve('') : text(stream);
}

async function exitCodeOf(child: ChildProcess): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.once('error', reject);
  child.once('close', (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
  return promise;
}

function hasFailed(t: TestScope): boolean {
  return 'passed' in t && t.passed === false;
}

/** The end of the log, where a reader of a failed test looks for it. */
function report(t: TestScope, lines: readonly LogLine[]): void {
  if ('diagnostic' in t && typeof t.diagnostic === 'function')
    t.diagnostic(`end of berthd's log:\n${formatLog(lines, 40)}`);
}
