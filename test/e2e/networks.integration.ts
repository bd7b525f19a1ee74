/** Networks through the real command line, daemon and reference plugins (docs/cni.md). */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { hostCommand } from '../../src/host-command.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { CNI_BIN_DIRS, needs } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';

const IMAGE = 'busybox:1';

interface Inspected {
  readonly id: string;
  readonly pid: number;
  readonly networks: readonly { readonly network: string; readonly interface: string; readonly addresses: string[] }[];
}

async function inspect(daemon: Daemon, ref: string): Promise<Inspected> {
  const [container] = JSON.parse(await daemon.ok(['inspect', ref]));
  return container;
}

/** Addresses of an interface as the kernel has them. */
async function addressesOf(pid: number, device: string): Promise<string[]> {
  const args = ['-t', String(pid), '-n', 'ip', '-j', '-4', 'addr', 'show', device];
  const [link] = JSON.parse(await hostCommand('nsenter', args, AbortSignal.timeout(10_000)));
  const found: { local: string; prefixlen: number }[] = link?.addr_info ?? [];
  return found.map(({ local, prefixlen }) => `${local}/${prefixlen}`);
}

/** A port that is free right now. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  assert.ok(typeof address === 'object' && address !== null);
  return address.port;
}

function needsNetworks(t: TestContext): boolean {
  return needs(t, 'root', 'conmon', 'cni', 'iptables', 'ip', 'nsenter', 'busybox', 'overlayfs');
}

test('networks of a container', async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, { volumes: false });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const [first, second] = daemon.networks;

  await t.test('are eth0, eth1 in the order asked for, with the addresses the daemon tells', async () => {
    const flags = ['--network', second.name, '--network', first.name, '--name', 'two', '--hostname', 'twohost'];
    await daemon.ok(['run', '-d', ...flags, IMAGE, '--', 'sleep', '1000']);
    const { pid, networks } = await inspect(daemon, 'two');
    assert.deepEqual(
      networks.map((entry) => [entry.network, entry.interface]),
      [
        [second.name, 'eth0'],
        [first.name, 'eth1'],
      ],
    );
    for (const entry of networks) assert.deepEqual(await addressesOf(pid, entry.interface), entry.addresses);
    const [loopback] = await addressesOf(pid, 'lo');
    assert.equal(loopback, '127.0.0.1/8');
    const listed = JSON.parse(await daemon.ok(['ps', '--format', 'json']));
    assert.deepEqual(listed[0].networks, networks);
    const shown = await daemon.ok(['network', 'inspect', first.name]);
    assert.ok(shown.includes(networks[1]?.addresses[0] ?? '?'), shown);
    await daemon.ok(['rm', '-f', 'two']);
  });

  await t.test('are the default network unless named, and reach their gateway', async () => {
    const script = `ip -4 addr show eth0 | grep -o 'inet [0-9.]*' && ping -c 1 -W 2 ${first.gateway} >/dev/null && echo pong`;
    const raw = ['--cap-add', 'NET_RAW'];
    const shown = await daemon.ok(['run', '--rm', ...raw, IMAGE, '--', 'sh', '-c', script]);
    assert.match(shown, /^inet 10\.87\.\d+\.\d+\npong$/);
    // Without the capability no raw socket: a container could pretend to be its neighbours' router.
    const { code, stderr } = await daemon.cli([
      'run',
      '--rm',
      IMAGE,
      '--',
      'ping',
      '-c',
      '1',
      '-W',
      '2',
      first.gateway,
    ]);
    assert.equal(code, 1);
    assert.match(stderr, /permission denied|not permitted/i);
  });

  await t.test('let two containers talk', async () => {
    await daemon.ok(['run', '-d', '--name', 'peer', IMAGE, '--', 'sleep', '1000']);
    const [address = ''] = (await inspect(daemon, 'peer')).networks[0]?.addresses ?? [];
    const ping = ['ping', '-c', '1', '-W', '2', address.split('/')[0] ?? ''];
    await daemon.ok(['run', '--rm', '--cap-add', 'NET_RAW', IMAGE, '--', ...ping]);
    await daemon.ok(['rm', '-f', 'peer']);
  });

  await t.test('publish ports by the plugins that can', async () => {
    const port = await freePort();
    const serve = 'mkdir /www && echo hello from inside > /www/index.html && exec httpd -f -p 8000 -h /www';
    const flags = ['-d', '--name', 'web', '-p', `127.0.0.1:${port}:8000/tcp`];
    await daemon.ok(['run', ...flags, IMAGE, '--', 'sh', '-c', serve]);
    const url = `http://127.0.0.1:${port}/`;
    const shown = await hostCommand(
      'curl',
      ['-sS', '--retry', '20', '--retry-connrefused', '--retry-delay', '0', '-m', '10', url],
      AbortSignal.timeout(20_000),
    );
    assert.equal(shown, 'hello from inside');
    const nat = await hostCommand('iptables-save', ['-t', 'nat'], AbortSignal.timeout(10_000));
    const own = nat
      .split('\n')
      .filter((line) => line.includes(`--dport ${port} `) || line.includes(`--dports ${port} `));
    assert.ok(own.length > 0, nat);
    assert.deepEqual(
      own.filter((line) => !line.includes('-p tcp')),
      [],
      'tcp was named, and nothing else is open',
    );
    await daemon.ok(['rm', '-f', 'web']);
    const refused = await hostCommand('curl', ['-sS', '-m', '5', url], AbortSignal.timeout(10_000)).then(
      () => false,
      () => true,
    );
    assert.ok(refused, 'the port is closed again');
  });

  await t.test('come with hosts, hostname and resolv.conf', async () => {
    const script = 'hostname; cat /etc/hostname; cat /etc/hosts; echo --; cat /etc/resolv.conf';
    const flags = ['--rm', '--hostname', 'known'];
    const shown = await daemon.ok(['run', ...flags, IMAGE, '--', 'sh', '-c', script]);
    const [hostname, file, ...rest] = shown.split('\n');
    assert.equal(hostname, 'known');
    assert.equal(file, 'known');
    assert.match(rest.join('\n'), /^127\.0\.0\.1\s+localhost/m);
    assert.match(rest.join('\n'), /^10\.87\.\d+\.\d+\s+known/m);
  });

  await t.test('give the resolver settings of their results to the container', async () => {
    const list: { name: string; plugins: object[] } = JSON.parse(
      readFileSync(join(daemon.confDir, `10-${first.name}.conflist`), 'utf8'),
    );
    const dns = { nameservers: ['192.0.2.53'], search: ['own.example'] };
    const [bridge, ...rest] = list.plugins;
    const file = join(daemon.confDir, '80-named.conflist');
    writeFileSync(file, JSON.stringify({ ...list, name: 'named', plugins: [{ ...bridge, dns }, ...rest] }));
    const shown = await daemon.ok(['run', '--rm', '--network', 'named', IMAGE, '--', 'cat', '/etc/resolv.conf']);
    assert.match(shown, /^nameserver 192\.0\.2\.53$/m);
    assert.match(shown, /^search own\.example$/m);
    rmSync(file);
  });

  await t.test('are absent with none and shared with host', async () => {
    const none = await daemon.ok(['run', '--rm', '--network', 'none', IMAGE, '--', 'ip', '-o', 'link']);
    assert.equal(none.split('\n').length, 1, none);
    assert.match(none, /lo:.*UP/);
    const host = await daemon.ok(['run', '--rm', '--network', 'host', IMAGE, '--', 'readlink', '/proc/self/ns/net']);
    const own = await hostCommand('readlink', ['/proc/self/ns/net'], AbortSignal.timeout(5000));
    assert.equal(host, own);
  });

  await before.assertClean();
});

test('network configurations', async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, {
    volumes: false,
    confFiles: {
      '50-broken.conflist': '{ "name": "broken", ',
      '60-lost.conflist': { cniVersion: '1.0.0', name: 'lost', plugins: [{ type: 'nosuchplugin' }] },
      '70-evil.conflist': { cniVersion: '1.0.0', name: 'evil', plugins: [{ type: '../../../bin/sh' }] },
    },
  });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const [first] = daemon.networks;
  const run = ['run', '--rm', '--network'];

  await t.test('are all listed, the broken ones with file and reason', async () => {
    const listed: { name: string; state: string; reason: string; file: string }[] = JSON.parse(
      await daemon.ok(['network', 'ls', '--format', 'json']),
    );
    const byFile = new Map(listed.map((entry) => [entry.file.split('/').at(-1), entry]));
    assert.equal(byFile.get('10-e2e.conflist')?.state, 'ready');
    assert.equal(byFile.get('50-broken.conflist')?.state, 'invalid');
    assert.equal(byFile.get('60-lost.conflist')?.state, 'missing-plugin');
    assert.match(byFile.get('60-lost.conflist')?.reason ?? '', /nosuchplugin/);
    assert.match(byFile.get('70-evil.conflist')?.reason ?? '', /plain name|type/);
  });

  await t.test('are told by doctor, the broken ones as failures with what mends them', async () => {
    const doctor = await daemon.cli(['doctor', '--format', 'json']);
    assert.equal(doctor.code, 1);
    const checks: { name: string; state: string; detail: string; remedy: string }[] = JSON.parse(doctor.stdout);
    for (const file of ['50-broken', '60-lost', '70-evil']) {
      const check = checks.find(({ detail }) => detail.includes(file));
      assert.deepEqual([check?.state, check?.remedy !== ''], ['fail', true], `${file}: ${JSON.stringify(check)}`);
    }
    const own = checks.find(({ detail }) => detail.includes('10-e2e.conflist'));
    assert.equal(own?.state, 'ok');
    const { stdout } = await daemon.cli(['doctor']);
    assert.match(stdout, /fail .*50-broken.*\n\s+mend it: /);
  });

  await t.test('refuse a launch before any effect, with the network named', async () => {
    for (const name of ['nosuch', 'broken', 'lost', 'evil', '../x', 'a/b', '']) {
      const { code, stderr } = await daemon.cli([...run, name, IMAGE, '--', 'true']);
      assert.equal(code, 125, `${name}: ${stderr}`);
      assert.match(stderr, /network/);
    }
    await before.assertClean();
  });

  await t.test('are read anew at each launch; removal works without them', async () => {
    await daemon.ok(['run', '-d', '--name', 'orphaned', '--network', first.name, IMAGE, '--', 'sleep', '1000']);
    const file = join(daemon.confDir, `10-${first.name}.conflist`);
    renameSync(file, join(daemon.dir, 'saved'));
    assert.equal((await daemon.cli([...run, first.name, IMAGE, '--', 'true'])).code, 125);
    await daemon.ok(['rm', '-f', 'orphaned']);
    await before.assertClean();
    renameSync(join(daemon.dir, 'saved'), file);
    await daemon.ok([...run, first.name, IMAGE, '--', 'true']);
  });
});

test('the default network', async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, { volumes: false });
  rmSync(daemon.confDir, { recursive: true });
  mkdirSync(daemon.confDir);
  const listed: { name: string }[] = JSON.parse(await daemon.ok(['network', 'ls', '--format', 'json']));
  assert.deepEqual(
    listed.map((entry) => entry.name),
    ['berth'],
    'the bundled configuration is used when the directory holds none',
  );
});

test('a plugin whose DEL fails three times (K29)', { timeout: 120_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const bin = await tempDir(t);
  const tries = join(bin, 'tries');
  const stubborn = `#!/bin/sh
if [ "$CNI_COMMAND" = DEL ] && [ "$(cat ${tries} 2>/dev/null | wc -l)" -lt 3 ]; then
  echo x >> ${tries}
  echo '{"cniVersion":"1.0.0","code":100,"msg":"not now"}'
  exit 1
fi
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0"}'
`;
  writeFileSync(join(bin, 'stubborn'), stubborn, { mode: 0o755 });
  const binDirs = [bin, ...CNI_BIN_DIRS].flatMap((dir) => ['--cni-bin-dir', dir]);
  const daemon = await startDaemon(t, {
    volumes: false,
    flags: binDirs,
    confFiles: { '50-stubborn.conflist': { cniVersion: '1.0.0', name: 'stubborn', plugins: [{ type: 'stubborn' }] } },
  });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const id = await daemon.ok(['run', '-d', '--name', 'kept', '--network', 'stubborn', IMAGE, '--', 'sleep', '1000']);
  const gone = daemon.line((line) => line['containerId'] === id && line['to'] === 'gone', 60_000);
  const removal = await daemon.cli(['rm', '-f', 'kept']);
  assert.equal(removal.code, 1);
  assert.match(removal.stderr, /not now/);
  const [shown] = JSON.parse(await daemon.ok(['ps', '-a', '--format', 'json']));
  assert.equal(shown.name, 'kept', 'the record stays until the plugin has done its part');
  await daemon.ok(['run', '--rm', IMAGE, '--', 'true']);
  await gone;
  await before.assertClean();
});
