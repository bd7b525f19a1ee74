/**
 * A launcher on its own directories and cgroup parent, with one busybox root file system shared by a test file. Leaves
 * nothing: containers are destroyed, the cgroup parent and the directories go.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import pino from 'pino';
import type { RunProgram } from '../../../src/run-program.ts';
import { readCgroupLayout } from '../../../src/runtime/cgroup-layout.ts';
import type { ContainerId } from '../../../src/runtime/container.ts';
import type { Contribution, ProcessContribution } from '../../../src/runtime/isolator.ts';
import { CapabilitiesIsolator } from '../../../src/runtime/isolators/capabilities.ts';
import { OciLauncher } from '../../../src/runtime/launcher/oci-launcher.ts';
import type { OutputChunk } from '../../../src/runtime/launcher.ts';
import { busyboxRootfs } from '../../support/busybox-rootfs.ts';
import { cleanup, type TestScope } from '../../support/cleanup.ts';
import { findProgram } from '../../support/needs.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** Each fixture has a parent of its own: test files run side by side, and recovery looks at all of a parent. */
export const CGROUP_PREFIX = 'berth-lch-test-';
export const silent: pino.Logger = pino({ level: process.env['BERTH_TEST_LOG'] ?? 'silent' });

export type RuntimeName = 'crun' | 'runc';

/** What one run gave out. */
export interface Output {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

export class LauncherFixture {
  readonly dir: string;
  readonly rootfs: string;
  readonly runtime: RuntimeName;
  readonly cgroupParent: string = `${CGROUP_PREFIX}${randomBytes(4).toString('hex')}`;
  readonly launcher: OciLauncher;

  private constructor(dir: string, rootfs: string, runtime: RuntimeName) {
    this.dir = dir;
    this.rootfs = rootfs;
    this.runtime = runtime;
    this.launcher = this.another();
  }

  static async make(t: TestScope, runtime: RuntimeName): Promise<LauncherFixture> {
    const dir = await tempDir(t);
    const fixture = new LauncherFixture(dir, await busyboxRootfs(join(dir, 'rootfs')), runtime);
    cleanup(t, () => removeCgroupParent(fixture.cgroupParent));
    cleanup(t, () => fixture.launcher.close());
    return fixture;
  }

  /** A second launcher on the same directories: the daemon after a restart. */
  another(run?: RunProgram): OciLauncher {
    return new OciLauncher({
      runtime: findProgram(this.runtime) ?? this.runtime,
      conmonPath: findProgram('conmon') ?? 'conmon',
      rootDir: join(this.dir, 'root'),
      runDir: join(this.dir, 'run'),
      cgroupParent: this.cgroupParent,
      log: silent,
      ...(run === undefined ? {} : { run }),
    });
  }

  /** An id whose container is destroyed when the test ends. */
  id(t: TestScope): ContainerId {
    const id = randomBytes(16).toString('hex');
    cleanup(t, async () => {
      await this.launcher.destroy(id, within());
      await this.launcher.remove(id);
    });
    return id;
  }

  /** Defaults as the isolators give them, for a command. */
  async contribution(
    id: ContainerId,
    args: readonly string[],
    change: Contribution & { readonly process?: ProcessContribution } = {},
  ): Promise<Contribution> {
    const { capabilities } = await defaultCapabilities();
    return {
      rootfs: this.rootfs,
      cgroupsPath: `/${this.cgroupParent}/${id}`,
      namespaces: [{ type: 'network' }],
      ...(capabilities === undefined ? {} : { capabilities }),
      ...change,
      process: { args, env: ['PATH=/bin'], cwd: '/', ...change.process },
    };
  }

  /** Creates and starts. */
  async start(id: ContainerId, args: readonly string[], change: Contribution = {}): Promise<void> {
    await this.launcher.create(id, await this.contribution(id, args, change), within());
    await this.launcher.start(id, within());
  }

  /** Runs to the end. */
  async run(
    t: TestScope,
    args: readonly string[],
    change: Contribution = {},
  ): Promise<Output & { readonly id: ContainerId; readonly code: number; readonly oomKilled: boolean }> {
    const id = this.id(t);
    await this.launcher.create(id, await this.contribution(id, args, change), within());
    const logs = await this.launcher.openLogs(id, { follow: true }, within());
    await this.launcher.start(id, within());
    const [output, exit] = await Promise.all([collected(logs), this.launcher.wait(id, within())]);
    return { id, ...output, ...exit };
  }

  shell(t: TestScope, script: string, change: Contribution = {}): ReturnType<LauncherFixture['run']> {
    return this.run(t, ['/bin/sh', '-c', script], change);
  }
}

/** A bound for one step of a test. */
export function within(ms = 20_000): AbortSignal {
  return AbortSignal.timeout(ms);
}

/** Everything of both streams. */
export async function collected(chunks: AsyncIterable<OutputChunk>): Promise<Output> {
  const parts: { stdout: Uint8Array[]; stderr: Uint8Array[] } = { stdout: [], stderr: [] };
  for await (const { stream, data } of chunks) parts[stream].push(data);
  return { stdout: Buffer.concat(parts.stdout), stderr: Buffer.concat(parts.stderr) };
}

async function defaultCapabilities(): Promise<Contribution> {
  const { containerSpec } = await import('../../support/container-spec.ts');
  return new CapabilitiesIsolator().prepare({
    id: '',
    spec: containerSpec(),
    createdAt: '',
    provisional: false,
    cleanupFailures: [],
  });
}

/** Cgroup directories of one container, in any hierarchy. */
export function cgroupsOf(id: ContainerId): string[] {
  return readCgroupLayout().hierarchies.flatMap(({ mountPoint }) =>
    readdirSync(mountPoint)
      .filter((name) => name.startsWith(CGROUP_PREFIX))
      .map((name) => join(mountPoint, name, id))
      .filter((path) => existsSync(path)),
  );
}

/** Live processes that name the container in their command line, and those in its cgroups. */
export function processesOf(id: ContainerId): string[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .flatMap((name) => {
      const line = text(`/proc/${name}/cmdline`).replaceAll('\0', ' ');
      const isOurs = line.includes(id) || text(`/proc/${name}/cgroup`).includes(id);
      const isZombie = / Z /.test(text(`/proc/${name}/stat`).replace(/^.*\)/, ''));
      return isOurs && !isZombie ? [`${name}: ${line}`] : [];
    });
}

/** No process, no cgroup, no runtime state, bundle or exit file is left. */
export function assertGone(fixture: LauncherFixture, id: ContainerId): void {
  assert.deepEqual(processesOf(id), []);
  assert.deepEqual(cgroupsOf(id), []);
  for (const place of ['bundles', 'oci', 'exits']) {
    assert.equal(existsSync(join(fixture.dir, 'run', place, id)), false, `${place} is left`);
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Removes an empty parent from every hierarchy. */
export function removeCgroupParent(name: string): void {
  for (const { mountPoint } of readCgroupLayout().hierarchies) {
    const path = join(mountPoint, name);
    if (existsSync(path)) rmdirSync(path);
  }
}
