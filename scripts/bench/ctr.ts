/**
 * `ctr run --rm --cni` on a containerd of the bench's own. ctr takes networks from /etc/cni/net.d and plugins from
 * /opt/cni/bin only: the bench runs in a mount namespace of its own, where both show what belongs to the bench.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, openSync, rmdirSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CNI_BIN_DIRS, findProgram } from '../../test/support/needs.ts';
import { command, versionOf } from './command.ts';
import type { Absent, Contestant } from './contestant.ts';
import { CGROUP, IMAGE, type Place } from './place.ts';

/** Where shims put their sockets, whatever containerd is configured with. */
const SHIM_SOCKETS = '/run/containerd';
const NAME = 'ctr run --rm --cni';

export async function ctr(place: Place, runtime: string): Promise<Contestant | Absent> {
  const containerd = findProgram('containerd');
  const version = await versionOf('ctr');
  if (version === undefined || containerd === undefined) return { name: NAME, reason: 'containerd is not installed' };
  const [dir, network] = [await place.directory('ctr'), await place.network(3)];
  await showNetwork(dir, network.confDir);
  const hadSockets = existsSync(SHIM_SOCKETS);
  await mkdir(SHIM_SOCKETS, { recursive: true });
  await command('mount', ['-t', 'tmpfs', 'tmpfs', SHIM_SOCKETS]);
  const daemon = await startContainerd(containerd, dir, await place.runDirectory('ctr'));
  const options = ['--address', join(dir, 'c.sock'), '--namespace', 'berth-bench'];
  await command('ctr', [...options, 'images', 'import', '--snapshotter', 'overlayfs', place.imageTar]);
  const runtimePath = findProgram(runtime) ?? runtime;
  return {
    name: NAME,
    versions: { ctr: version },
    async run(argv) {
      const id = `bench${randomBytes(6).toString('hex')}`;
      const flags = ['--rm', '--cni', '--runc-binary', runtimePath, '--cgroup', `/${CGROUP}/${id}`];
      const begunMs = performance.now();
      const output = await command('ctr', [...options, 'run', ...flags, IMAGE, id, ...argv]);
      return { totalMs: performance.now() - begunMs, output };
    },
    async close() {
      const ended = once(daemon, 'exit');
      if (daemon.kill('SIGTERM')) await ended;
      await command('umount', ['--lazy', SHIM_SOCKETS]).catch(() => undefined);
      if (!hadSockets) rmdirSync(SHIM_SOCKETS);
    },
  };
}

/** Mounts that only this mount namespace sees: the host's /etc and /opt stay as they are. */
async function showNetwork(dir: string, confDir: string): Promise<void> {
  for (const name of ['upper', 'work']) await mkdir(join(dir, `etc-${name}`));
  const layers = `lowerdir=/etc,upperdir=${join(dir, 'etc-upper')},workdir=${join(dir, 'etc-work')}`;
  await command('mount', ['-t', 'overlay', '-o', layers, 'overlay', '/etc']);
  await mkdir('/etc/cni/net.d', { recursive: true });
  await command('mount', ['--bind', confDir, '/etc/cni/net.d']);
  const plugins = CNI_BIN_DIRS.find((path) => existsSync(join(path, 'bridge')));
  if (plugins === undefined || plugins === '/opt/cni/bin') return;
  await command('mount', ['-t', 'tmpfs', 'tmpfs', '/opt']);
  await mkdir('/opt/cni/bin', { recursive: true });
  await command('mount', ['--bind', plugins, '/opt/cni/bin']);
}

async function startContainerd(containerd: string, dir: string, runDir: string): Promise<ChildProcess> {
  const config = `version = 2
root = "${dir}/root"
state = "${runDir}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "${dir}/c.sock"
[ttrpc]
  address = "${dir}/t.sock"
`;
  await writeFile(join(dir, 'config.toml'), config);
  const log = openSync(join(dir, 'containerd.log'), 'a');
  const daemon = spawn(containerd, ['--config', join(dir, 'config.toml')], { stdio: ['ignore', log, log] });
  const ended = once(daemon, 'exit').then(() => {
    throw new Error(`containerd ended at once, see ${join(dir, 'containerd.log')}`);
  });
  const deadlineMs = Date.now() + 20_000;
  const ready = async (): Promise<void> => {
    for (;;) {
      const up = await command('ctr', ['--address', join(dir, 'c.sock'), 'version']).then(
        () => true,
        () => false,
      );
      if (up) return;
      if (Date.now() > deadlineMs) throw new Error('containerd does not answer');
    }
  };
  await Promise.race([ready(), ended]);
  ended.catch(() => undefined);
  return daemon;
}
