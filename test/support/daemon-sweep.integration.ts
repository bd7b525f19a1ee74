import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { describe } from 'node:test';
import { hasCgroupV1 } from './cgroup-fixture.ts';
import { cleanup } from './cleanup.ts';
import { sweep } from './daemon-sweep.ts';
import { missing } from './needs.ts';
import { assertClean, type Scope, snapshot } from './oracle.ts';
import { tempDir } from './temp-dir.ts';
import { claimNetworks } from './test-network.ts';

function run(file: string, ...args: readonly string[]): void {
  execFileSync(file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
}

describe('sweep', { skip: missing('root', 'ip', 'iptables', 'mount', 'losetup', 'loop', 'tmpfs', 'unshare') }, () => {
  test('takes away one of everything, and nothing outside the scope', async (t) => {
    const { subnet, networks } = await claimNetworks(t);
    const dir = await tempDir(t);
    const outside = await tempDir(t);
    const cgroupParent = `berth-e2e-${randomBytes(4).toString('hex')}`;
    const [{ bridge }] = networks;
    const scope: Scope = {
      dirs: [dir],
      cgroupParent,
      bridges: [bridge],
      networks: ['e2e'],
      subnets: [subnet],
      leaseDirs: [],
      ids: new Set(),
    };
    cleanup(t, () => sweep(scope));

    const stranger = spawn('tail', ['-f', join(outside, 'log'), '/dev/null'], { stdio: 'ignore' });
    cleanup(t, () => stranger.kill('SIGKILL'));
    for (const name of ['netns', 'volume']) mkdirSync(join(dir, name));
    writeFileSync(join(dir, 'netns/box'), '');
    run('unshare', `--net=${join(dir, 'netns/box')}`, 'true');
    run('mount', '-t', 'tmpfs', 'none', join(dir, 'volume'));
    // Busy until its process has ended.
    const busy = spawn('tail', ['-f', join(dir, 'volume/log'), '/dev/null'], {
      stdio: 'ignore',
      cwd: join(dir, 'volume'),
    });
    const ended = once(busy, 'exit');
    writeFileSync(join(dir, 'image'), '');
    truncateSync(join(dir, 'image'), 1024 * 1024);
    run('losetup', '--find', join(dir, 'image'));
    run('ip', 'link', 'add', bridge, 'type', 'bridge');
    run('ip', 'link', 'add', `${bridge}v`, 'type', 'veth', 'peer', 'name', `${bridge}w`);
    run('ip', 'link', 'set', `${bridge}v`, 'master', bridge);
    run('iptables', '-w', '-t', 'nat', '-A', 'POSTROUTING', '-s', subnet, '-j', 'ACCEPT');
    const hierarchy = hasCgroupV1() ? '/sys/fs/cgroup/memory' : '/sys/fs/cgroup';
    mkdirSync(join(hierarchy, cgroupParent, 'box'), { recursive: true });

    const found = snapshot(scope);
    const planted = ['netns file', 'mount', 'loop device', 'interface', 'firewall rule', 'cgroup', 'process'] as const;
    for (const kind of planted) assert.equal(found[kind].length, 1, kind);

    await sweep(scope);
    await ended;
    await assertClean(scope, { ignore: ['file'] });
    assert.equal(existsSync(join(hierarchy, cgroupParent)), false);
    assert.equal(stranger.exitCode ?? stranger.signalCode, null);
  });
});

describe('claimNetworks', () => {
  test('gives no subnet to two at once', async (t) => {
    const claims = await Promise.all(Array.from({ length: 8 }, () => claimNetworks(t)));
    assert.equal(new Set(claims.map(({ subnet }) => subnet)).size, 8);
  });
});
