/**
 * Fake CSI plugins in a process of their own, as a test sees them: told faults, killed, started again with nothing but
 * their volumes in memory. Their sockets, volumes and log lie in one directory.
 *
 *   const plugins = await startRemoteCsi(t, { dir, names: ['one.csi.test'], controller, node });
 *   plugins.next('one.csi.test', 'NodeStageVolume', { kind: 'crash', done: true });
 */
import { type ChildProcess, fork } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { appendFileSync, mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { hostCommand } from '../../src/host-command.ts';
import { mountsBelow } from '../../src/mountinfo.ts';
import { cleanup, type TestScope } from './cleanup.ts';
import type { FakeCsiOptions } from './fake-csi.ts';
import type { Fault, Release } from './fake-csi-faults.ts';
import { type JournalEntry, readJournal } from './fake-csi-ledger.ts';
import type { Command, Orders, Report, Tables } from './fake-csi-process.ts';
import { loopDevices } from './oracle/files.ts';

const PROGRAM = fileURLToPath(new URL('fake-csi-process.ts', import.meta.url));
const PATIENCE_MS = 60_000;

/** All plugins of one process offer the same. */
export interface RemoteCsiOptions
  extends Pick<FakeCsiOptions, 'controller' | 'node' | 'publishContext' | 'volumeContext' | 'expansion'> {
  /** Of the test's own; sockets are `DIR/NAME.sock`. */
  readonly dir: string;
  readonly names: readonly string[];
  /** Where the sockets lie; `dir` unless given. */
  readonly socketDir?: string;
  /** Every call may meet a fault; see fake-csi-chaos.ts. */
  readonly seed?: number;
  /** Started again as soon as it has died. */
  readonly supervised?: boolean;
}

/** Starts the process; it ends with the test, and so does all that it mounted in `dir`. */
export async function startRemoteCsi(t: TestScope, options: RemoteCsiOptions): Promise<RemoteCsi> {
  const plugins = new RemoteCsi(options);
  cleanup(t, () => plugins.dispose());
  await plugins.start();
  return plugins;
}

/** Fake plugins in another process; see the module's head. */
export class RemoteCsi {
  readonly options: RemoteCsiOptions;
  /** How often the process died. */
  deaths = 0;
  readonly #reports = new EventEmitter<{ report: [Report] }>();
  readonly #past: Report[] = [];
  #child: ChildProcess | undefined;
  readonly #over = new AbortController();

  constructor(options: RemoteCsiOptions) {
    this.options = options;
    // One for each call that is waited for.
    this.#reports.setMaxListeners(0);
    mkdirSync(`${options.dir}/state`, { recursive: true });
  }

  socketOf(name: string): string {
    return `${this.options.socketDir ?? this.options.dir}/${name}.sock`;
  }

  /** Starts the process and waits until all plugins listen. */
  async start(): Promise<void> {
    const { dir, names, supervised, seed, ...offers } = this.options;
    const { controller, node, publishContext, volumeContext, expansion } = offers;
    const child = fork(PROGRAM, [], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#child = child;
    child.on('message', (report: Report) => {
      this.#past.push(report);
      this.#reports.emit('report', report);
    });
    child.once('exit', () => {
      this.#mark('plugin');
      this.deaths += 1;
      if (supervised === true && !this.#over.signal.aborted) this.#revive();
    });
    const plugins = names.map((name) => ({
      name,
      socketPath: this.socketOf(name),
      backingDir: `${dir}/volumes-${name}`,
      stateFile: `${dir}/state/${name}.json`,
      abortsWhenBusy: true,
      ...(controller === undefined ? {} : { controller }),
      ...(node === undefined ? {} : { node }),
      ...(publishContext === undefined ? {} : { publishContext }),
      ...(volumeContext === undefined ? {} : { volumeContext }),
      ...(expansion === undefined ? {} : { expansion }),
    }));
    const ready = this.#wait(({ kind }) => kind === 'ready');
    const orders: Orders = { plugins, journalFile: this.#journalFile, seed };
    child.send(orders);
    await ready;
  }

  #revive(): void {
    this.start().catch((error: unknown) => {
      if (!this.#over.signal.aborted) throw error;
    });
  }

  /** Kills the process and waits for its end. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }

  /** The next calls of `rpc` to a plugin behave like this. */
  next(plugin: string, rpc: string, ...faults: readonly Fault[]): void {
    this.#tell({ kind: 'next', plugin, rpc, faults });
  }

  /** Forgets what is scripted. */
  heal(): void {
    this.#tell({ kind: 'heal' });
  }

  /** Waits until a call to a plugin is held. */
  async held(plugin: string): Promise<void> {
    const is = (report: Report): boolean => report.kind === 'held' && report.plugin === plugin;
    if (!this.#past.some(is)) await this.#wait(is);
  }

  /** Waits until a plugin has turned down a call since another one is under way. */
  async aborted(plugin: string): Promise<void> {
    const is = (report: Report): boolean => report.kind === 'aborted' && report.plugin === plugin;
    if (!this.#past.some(is)) await this.#wait(is);
  }

  release(plugin: string, how: Release): void {
    this.#tell({ kind: 'release', plugin, how });
  }

  /** What the plugins have now. */
  async tables(): Promise<Readonly<Record<string, Tables>>> {
    const answer = this.#wait((report) => report.kind === 'tables');
    this.#tell({ kind: 'look' });
    const report = await answer;
    return report.kind === 'tables' ? report.plugins : {};
  }

  /** Says in the log that somebody was killed: what was answered before may not have been heard. */
  callerKilled(): void {
    this.#mark('caller');
  }

  /** The log of all calls about volumes, over all lives of the process. */
  journal(): JournalEntry[] {
    return readJournal(this.#journalFile);
  }

  /** Ends the process and takes away what it left in its directory. */
  async dispose(): Promise<void> {
    this.#over.abort(new Error('the test is over'));
    await this.kill();
    const { dir } = this.options;
    const signal = AbortSignal.timeout(30_000);
    for (const { mountPoint } of mountsBelow(dir)) await hostCommand('umount', ['-l', mountPoint], signal);
    const scope = { dirs: [dir] };
    for (const found of loopDevices(scope)) {
      await hostCommand('losetup', ['-d', found.split(' ')[0] ?? ''], signal);
    }
  }

  get #journalFile(): string {
    return `${this.options.dir}/calls.log`;
  }

  #mark(who: string): void {
    const entry: JournalEntry = { at: 'killed', who };
    appendFileSync(this.#journalFile, `${JSON.stringify(entry)}\n`);
  }

  #tell(command: Command): void {
    if (this.#child?.connected === true) this.#child.send(command);
  }

  #wait(is: (report: Report) => boolean): Promise<Report> {
    const { promise, resolve, reject } = Promise.withResolvers<Report>();
    const stop = AbortSignal.any([this.#over.signal, AbortSignal.timeout(PATIENCE_MS)]);
    const late = (): void => {
      this.#reports.off('report', look);
      reject(new Error(`not said: ${String(stop.reason)}; the last was ${JSON.stringify(this.#past.at(-1))}`));
    };
    const look = (report: Report): void => {
      if (!is(report)) return;
      stop.removeEventListener('abort', late);
      this.#reports.off('report', look);
      resolve(report);
    };
    stop.addEventListener('abort', late, { once: true });
    this.#reports.on('report', look);
    return promise;
  }
}
