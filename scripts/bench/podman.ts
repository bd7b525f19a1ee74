/** `podman run --rm` on a bridge network, with storage, state and network configuration of the bench's own. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CNI_BIN_DIRS } from '../../test/support/needs.ts';
import { command, versionOf } from './command.ts';
import type { Absent, Contestant } from './contestant.ts';
import { CGROUP, type Place } from './place.ts';

const NAME = 'podman run --rm';
const LOCK = '/dev/shm/libpod_lock';
// Below what any host has: podman's own wishes take a right to raise limits that some hosts lack.
const LIMITS = ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024'] as const;

export async function podman(place: Place, runtime: string): Promise<Contestant | Absent> {
  const version = await versionOf('podman');
  if (version === undefined) return { name: NAME, reason: 'podman is not installed' };
  const [dir, network] = [await place.directory('podman'), await place.network(2)];
  const runDir = await place.runDirectory('podman');
  const hadLock = existsSync(LOCK);
  const options = [
    ['--root', join(dir, 'root')],
    ['--runroot', join(runDir, 'run')],
    ['--tmpdir', join(runDir, 'tmp')],
    ['--network-config-dir', network.confDir],
    ['--runtime', runtime],
    ['--cgroup-manager', 'cgroupfs'],
    ['--events-backend', 'none'],
    ['--log-level', 'error'],
  ].flat();
  const backend = (await command('podman', [...options, 'info', '--format', '{{.Host.NetworkBackend}}'])).trim();
  if (backend !== 'cni') {
    // netavark has configurations of its own: the same network by its means.
    const flags = ['--driver', 'bridge', '--subnet', network.subnet, '--interface-name', network.bridge];
    await command('podman', [...options, 'network', 'create', ...flags, network.name]);
  }
  await command('podman', [...options, 'import', '--quiet', place.rootfsTar, 'busybox:bench']);
  const args = ['run', '--rm', '--network', network.name, '--cgroup-parent', `/${CGROUP}`, ...LIMITS, 'busybox:bench'];
  return {
    name: NAME,
    versions: { podman: version, networkBackend: backend },
    async run(argv) {
      const begunMs = performance.now();
      const output = await command('podman', [...options, ...args, ...argv], {
        env: { CNI_PATH: CNI_BIN_DIRS.join(':') },
      });
      return { totalMs: performance.now() - begunMs, output };
    },
    async close() {
      await command('podman', [...options, 'system', 'reset', '--force']).catch(() => undefined);
      await command('umount', ['--recursive', join(dir, 'root/overlay')]).catch(() => undefined);
      if (!hadLock) await rm(LOCK, { force: true });
    },
  };
}
