/** Plants one thing of every kind and asks the oracle for it: a kind it cannot see would let every leak of that kind pass. */
import assert from 'node:assert/strict';
import { execFileSync, type SpawnOptions, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, rmdirSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test, { describe, type TestContext } from 'node:test';
import { Database } from '../../src/store.ts';
import { hasCgroupV1 } from './cgroup-fixture.ts';
import { cleanup } from './cleanup.ts';
import { missing } from './needs.ts';
import { assertClean, diff, type Kind, type Scope, snapshot } from './oracle.ts';
import { tempDir } from './temp-dir.ts';

const SUBNET = '10.87.199.0/24';

async function scopeOf(t: TestContext): Promise<Scope & { readonly dir: string; readonly bridge: string }> {
  const dir = await tempDir(t);
  const unique = randomBytes(3).toString('hex');
  const bridge = `brt-${unique}`;
  return {
    dir,
    bridge,
    dirs: [dir],
    cgroupParent: `berth-oracle-${unique}`,
    bridges: [bridge],
    networks: [`net-${unique}`],
    subnets: [SUBNET],
    leaseDirs: [join(dir, 'leases')],
    ids: new Set([randomBytes(16).toString('hex')]),
  };
}

function run(file: string, ...args: readonly string[]): string {
  return execFileSync(file, args, { encoding: 'utf8' });
}

/** A process that the test ends; its parent is this one. */
function start(t: TestContext, file: string, args: readonly string[], options: SpawnOptions = {}) {
  const child = spawn(file, args, { stdio: 'ignore', ...options });
  cleanup(t, async () => {
    const gone = once(child, 'exit');
    if (child.kill('SIGKILL')) await gone;
  });
  return once(child, 'spawn').then(() => child);
}

/** Asserts that the oracle sees something of this kind that matches, and nothing of that kind before. */
async function finds(scope: Scope, kind: Kind, name: RegExp, plant: () => unknown): Promise<void> {
  const before = snapshot(scope);
  assert.deepEqual(before[kind], []);
  await plant();
  const found = diff(before, snapshot(scope))
    .filter((leak) => leak.kind === kind)
    .map((leak) => leak.name);
  assert.equal(found.length > 0, true, `no ${kind} was found`);
  assert.match(found.join('\n'), name);
  await assert.rejects(assertClean(scope, { settleMs: 0 }), new RegExp(`left over:[^]*${kind}: `));
}

describe('oracle', { skip: missing('root', 'ip', 'iptables', 'mount', 'losetup', 'loop', 'tmpfs', 'unshare') }, () => {
  test('finds a named network namespace', async (t) => {
    const scope = await scopeOf(t);
    const file = join(scope.dir, 'netns', 'box');
    mkdirSync(join(scope.dir, 'netns'));
    cleanup(t, () => run('umount', file));
    await finds(scope, 'netns file', /netns\/box$/, () => {
      writeFileSync(file, '');
      run('unshare', `--net=${file}`, 'true');
    });
  });

  test('finds a namespace that only a process holds', async (t) => {
    const scope = await scopeOf(t);
    await finds(scope, 'network namespace', /^net:\[\d+\]$/, async () => {
      const holder = await start(
        t,
        'unshare',
        ['--net', 'sh', '-c', 'echo ready; exec tail -f "$1" /dev/null', 'sh', scope.dir],
        {
          stdio: ['ignore', 'pipe', 'ignore'],
        },
      );
      await once(holder.stdout ?? assert.fail(), 'data');
    });
  });

  test('finds a veth on a bridge of ours', async (t) => {
    const scope = await scopeOf(t);
    cleanup(t, () => run('ip', 'link', 'delete', scope.bridge));
    run('ip', 'link', 'add', scope.bridge, 'type', 'bridge');
    const [host, peer] = [`${scope.bridge}a`, `${scope.bridge}b`];
    cleanup(t, () => run('ip', 'link', 'delete', host));
    await finds(scope, 'interface', new RegExp(`^${host} on ${scope.bridge}$`), () => {
      run('ip', 'link', 'add', host, 'type', 'veth', 'peer', 'name', peer);
      run('ip', 'link', 'set', host, 'master', scope.bridge);
    });
  });

  test('finds a firewall rule by subnet and a chain by id', async (t) => {
    const scope = await scopeOf(t);
    const rule = ['POSTROUTING', '-s', '10.87.199.7/32', '-j', 'ACCEPT'];
    const chain = `CNI-${[...scope.ids].join('').slice(0, 20)}`;
    cleanup(t, () => run('iptables', '-w', '-t', 'nat', '-D', ...rule));
    await finds(scope, 'firewall rule', /ip nat -A POSTROUTING -s 10\.87\.199\.7/, () => {
      run('iptables', '-w', '-t', 'nat', '-A', ...rule);
    });
    cleanup(t, () => run('iptables', '-w', '-t', 'filter', '-X', chain));
    run('iptables', '-w', '-t', 'filter', '-N', chain);
    const withChain = { ...scope, subnets: [], ids: new Set([chain]) };
    assert.match(snapshot(withChain)['firewall rule'].join('\n'), new RegExp(`ip filter :${chain}`));
  });

  test('finds a lease, but not the lock beside it', async (t) => {
    const scope = await scopeOf(t);
    const dir = join(scope.dir, 'leases', 'net');
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, 'lock'), '');
    writeFileSync(join(dir, 'last_reserved_ip.0'), '10.87.199.2');
    await finds(scope, 'lease', /10\.87\.199\.2 of abc eth0$/, () => {
      writeFileSync(join(dir, '10.87.199.2'), 'abc\r\neth0');
    });
    assert.equal(snapshot(scope).lease.length, 1);
  });

  test('finds a mount', async (t) => {
    const scope = await scopeOf(t);
    const target = join(scope.dir, 'volume');
    mkdirSync(target);
    cleanup(t, () => run('umount', target));
    await finds(scope, 'mount', /volume \(tmpfs from none\)$/, () => run('mount', '-t', 'tmpfs', 'none', target));
  });

  test('finds a loop device, also when its file is deleted', async (t) => {
    const scope = await scopeOf(t);
    const file = join(scope.dir, 'image');
    writeFileSync(file, '');
    truncateSync(file, 1024 * 1024);
    let device = '';
    cleanup(t, () => run('losetup', '--detach', device));
    await finds(scope, 'loop device', /^\/dev\/loop\d+ on .*\/image$/, () => {
      device = run('losetup', '--find', '--show', file).trim();
    });
    run('rm', file);
    assert.match(snapshot(scope)['loop device'].join(), /image \(deleted\)$/);
  });

  test('finds a cgroup below our parent and one named by an id', async (t) => {
    const scope = await scopeOf(t);
    const hierarchy = hasCgroupV1() ? '/sys/fs/cgroup/memory' : '/sys/fs/cgroup';
    const [parent, elsewhere] = [join(hierarchy, scope.cgroupParent), join(hierarchy, `x-${[...scope.ids].join('')}`)];
    mkdirSync(parent);
    cleanup(t, () => rmdirSync(parent));
    cleanup(t, () => rmdirSync(join(parent, 'box')));
    await finds(scope, 'cgroup', /box$/, () => mkdirSync(join(parent, 'box')));
    cleanup(t, () => rmdirSync(elsewhere));
    mkdirSync(elsewhere);
    assert.ok(snapshot(scope).cgroup.includes(elsewhere));
  });

  test('finds a process by its arguments, not one of a directory with a longer name', async (t) => {
    const scope = await scopeOf(t);
    await start(t, 'tail', ['-f', `${scope.dir}-other`, '/dev/null']);
    await finds(scope, 'process', /^tail \d+: tail -f \S+\/log \/dev\/null$/, () =>
      start(t, 'tail', ['-f', join(scope.dir, 'log'), '/dev/null']),
    );
    assert.equal(snapshot(scope).process.length, 1);
    const restarted = { ...scope, restartable: () => true };
    assert.match(snapshot(restarted).process.join('\n'), /^tail: tail -f \S+\/log \/dev\/null$/);
    await start(t, 'tail', ['-f', join(scope.dir, 'log'), '/dev/null']);
    assert.match(snapshot(restarted).process.join('\n'), /^tail \(2\): /m);
  });

  test('finds a zombie', async (t) => {
    const scope = await scopeOf(t);
    await finds(scope, 'zombie', /^sh \d+, child of \d+$/, async () => {
      const script = '(exit 0) & exec tail -f "$1" /dev/null >/dev/null';
      const parent = await start(t, 'sh', ['-c', script, 'sh', scope.dir], { stdio: ['ignore', 'pipe', 'ignore'] });
      // The pipe ends when the child has closed its files, a moment before it is a zombie.
      parent.stdout?.resume();
      await once(parent.stdout ?? assert.fail(), 'end');
      for (let turn = 0; turn < 1000 && snapshot(scope).zombie.length === 0; turn += 1) {
        await new Promise((resolve) => setImmediate(resolve));
      }
    });
  });

  test('finds a file and a directory, but none that is ignored', async (t) => {
    const scope = await scopeOf(t);
    // A name in letters alone, high up, is part of a daemon's shape; what lies in it counts.
    mkdirSync(join(scope.dir, 'containers'));
    await finds(scope, 'file', /containers\/b0c5\/$/, () => mkdirSync(join(scope.dir, 'containers/b0c5')));
    writeFileSync(join(scope.dir, 'containers/b0c5/config.json'), '');
    assert.match(snapshot(scope).file.join('\n'), /b0c5\/config\.json/);
    assert.deepEqual(snapshot({ ...scope, ignoreFiles: (path) => path.endsWith('/b0c5') }).file, []);
  });

  test('finds a live socket', async (t) => {
    const scope = await scopeOf(t);
    const server = createServer();
    cleanup(t, () => new Promise((resolve) => server.close(resolve)));
    await finds(scope, 'socket', /attach$/, () => {
      server.listen(join(scope.dir, 'attach'));
      return once(server, 'listening');
    });
  });

  test('finds a socket that nobody listens on any more', async (t) => {
    const scope = await scopeOf(t);
    const path = join(scope.dir, 'stale');
    const script = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 9))`;
    await finds(scope, 'socket', /stale$/, () => spawnSync(process.execPath, ['-e', script]));
  });

  test('finds a record in a database that is open', async (t) => {
    const scope = await scopeOf(t);
    const database = new Database(join(scope.dir, 'berth.db'));
    cleanup(t, () => database.close());
    const store = database.store('container', (value) => value);
    await finds(scope, 'record', /^container\/0123$/, () => store.write('0123', {}));
    await assertClean(scope, { settleMs: 0, allowRecords: (name) => name.startsWith('container/') });
  });

  test('waits for what is being taken away', async (t) => {
    const scope = await scopeOf(t);
    const child = await start(t, 'tail', ['-f', scope.dir, '/dev/null']);
    const clean = assertClean(scope, { settleMs: 5000 });
    child.kill('SIGKILL');
    await clean;
  });
});
