/** Names on networks and libcni's cache, through the real command line, daemon and reference plugins (docs/cni.md). */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { hostCommand } from '../../src/host-command.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { needs } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';

const IMAGE = 'busybox:1';

function needsNetworks(t: TestContext): boolean {
  return needs(t, 'root', 'conmon', 'cni', 'iptables', 'ip', 'nsenter', 'busybox', 'overlayfs');
}

/** A file as a container that runs has it now. */
async function fileIn(daemon: Daemon, name: string, path: string): Promise<string> {
  const [{ pid }] = JSON.parse(await daemon.ok(['inspect', name]));
  return hostCommand('nsenter', ['-t', String(pid), '-m', 'busybox', 'cat', path], AbortSignal.timeout(10_000));
}

async function addressOf(daemon: Daemon, name: string): Promise<string> {
  const [{ networks }] = JSON.parse(await daemon.ok(['inspect', name]));
  return networks[0].addresses[0].split('/')[0];
}

/** Addresses under which a container that runs finds a name. */
async function found(daemon: Daemon, by: string, name: string): Promise<readonly string[]> {
  const lines = (await fileIn(daemon, by, '/etc/hosts')).split('\n').map((line) => line.split(/\s+/));
  return lines.flatMap(([address = '', ...names]) => (names.includes(name) ? [address] : []));
}

test('containers on one network', { timeout: 120_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, { volumes: false });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const [first, second] = daemon.networks;
  const start = (name: string, ...flags: string[]) =>
    daemon.ok(['run', '-d', '--name', name, ...flags, IMAGE, '--', 'sleep', '1000']);

  await t.test('reach each other by name and alias', async () => {
    const serve = 'mkdir /www && echo hello by name > /www/index.html && exec httpd -f -p 8000 -h /www';
    await daemon.ok(['run', '-d', '--name', 'web', '--network-alias', 'www', IMAGE, '--', 'sh', '-c', serve]);
    for (const name of ['web', 'www']) {
      const fetch = `until wget -q -O - http://${name}:8000/; do usleep 20000; done`;
      const shown = await daemon.ok(['run', '--rm', IMAGE, '--', 'timeout', '10', 'sh', '-c', fetch]);
      assert.equal(shown, 'hello by name');
    }
  });

  await t.test('are told who comes and who goes, in the file they hold', async () => {
    await start('late', '--network-alias', 'later', '--network', first.name, '--network', second.name);
    const address = await addressOf(daemon, 'late');
    assert.deepEqual(await found(daemon, 'web', 'late'), [address], 'only the address they share');
    assert.deepEqual(await found(daemon, 'web', 'later'), [address]);
    assert.deepEqual(await found(daemon, 'late', 'web'), [await addressOf(daemon, 'web')]);
    await start('apart', '--network', second.name);
    assert.deepEqual(await found(daemon, 'apart', 'web'), []);
    assert.equal((await found(daemon, 'apart', 'late')).length, 1);
    await daemon.ok(['rm', '-f', 'late', 'apart']);
    assert.deepEqual(await found(daemon, 'web', 'late'), []);
  });

  await t.test('are told when one is connected or disconnected while it runs', async () => {
    await start('guest', '--network', second.name);
    await daemon.ok(['network', 'connect', '--alias', 'visitor', first.name, 'guest']);
    assert.equal((await found(daemon, 'web', 'guest')).length, 1);
    assert.equal((await found(daemon, 'web', 'visitor')).length, 1);
    assert.equal((await found(daemon, 'guest', 'web')).length, 1);
    await daemon.ok(['network', 'disconnect', first.name, 'guest']);
    assert.deepEqual(await found(daemon, 'web', 'guest'), []);
    assert.deepEqual(await found(daemon, 'guest', 'web'), []);
    await daemon.ok(['rm', '-f', 'guest']);
  });

  await t.test('keep their names over a kill of the daemon, and lose those that ended meanwhile', async () => {
    await start('stays');
    await start('ends');
    assert.equal((await found(daemon, 'stays', 'ends')).length, 1);
    const [{ pid }] = JSON.parse(await daemon.ok(['inspect', 'ends']));
    await daemon.kill();
    process.kill(pid, 'SIGKILL');
    await daemon.start();
    await daemon.ok(['rm', '-f', 'ends']);
    assert.deepEqual(await found(daemon, 'stays', 'ends'), []);
    assert.equal((await found(daemon, 'stays', 'web')).length, 1);
    await start('fresh');
    assert.equal((await found(daemon, 'stays', 'fresh')).length, 1);
    await daemon.ok(['rm', '-f', 'stays', 'fresh', 'web']);
  });

  await before.assertClean();
});

test('what a container is told about names', { timeout: 120_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, { volumes: false });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const [first] = daemon.networks;
  const shows = (file: string, ...flags: string[]) => daemon.ok(['run', '--rm', ...flags, IMAGE, '--', 'cat', file]);

  await t.test('by --dns, --dns-search and --dns-option comes before all else', async () => {
    const flags = [
      '--dns',
      '192.0.2.53',
      '--dns',
      '2001:db8::53',
      '--dns-search',
      'own.example',
      '--dns-option',
      'ndots:3',
    ];
    const expected = 'nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch own.example\noptions ndots:3';
    for (const network of [first.name, 'none', 'host']) {
      assert.equal(await shows('/etc/resolv.conf', '--network', network, ...flags), expected, network);
    }
    assert.doesNotMatch(await shows('/etc/resolv.conf', '--dns-search', '.'), /^search/m);
  });

  await t.test('by --add-host stands in its hosts file, the gateway by its own word', async () => {
    const flags = [
      '--add-host',
      'registry:192.0.2.7',
      '--add-host',
      'six:[2001:db8::7]',
      '--add-host',
      'up:host-gateway',
    ];
    const shown = await shows('/etc/hosts', ...flags);
    for (const line of ['192.0.2.7\tregistry', '2001:db8::7\tsix', `${first.gateway}\tup`]) {
      assert.ok(shown.split('\n').includes(line), `${line}\n${shown}`);
    }
    assert.match(
      await shows('/etc/hosts', '--network', 'host', '--add-host', 'up:host-gateway'),
      /^127\.0\.0\.1\tup$/m,
    );
    assert.match(await shows('/etc/hosts', '--network', 'none', '--add-host', 'x:192.0.2.7'), /^192\.0\.2\.7\tx$/m);
  });

  await t.test('is shown by inspect', async () => {
    const flags = [
      '--network-alias',
      'db',
      '--dns',
      '192.0.2.1',
      '--dns-option',
      'rotate',
      '--add-host',
      'a:192.0.2.2',
    ];
    await daemon.ok(['create', '--name', 'told', ...flags, IMAGE, '--', 'true']);
    const [{ spec }] = JSON.parse(await daemon.ok(['inspect', 'told']));
    assert.deepEqual(
      [spec.networkAliases, spec.dnsServers, spec.dnsSearch, spec.dnsOptions, spec.extraHosts],
      [['db'], ['192.0.2.1'], [], ['rotate'], [{ name: 'a', address: '192.0.2.2' }]],
    );
    await daemon.ok(['rm', 'told']);
  });

  await t.test('is refused where it would be more than one word, with nothing done (K20)', async () => {
    const bad: readonly (readonly string[])[] = [
      ['--dns', '192.0.2.1\nnameserver 192.0.2.2'],
      ['--dns', 'example.org'],
      ['--dns-search', 'a b'],
      ['--dns-search', 'a\nnameserver 192.0.2.2'],
      ['--dns-option', 'ndots:1 rotate'],
      ['--network-alias', 'a b'],
      ['--network-alias', 'localhost'],
      ['--network-alias', 'db', '--network', 'host'],
      ['--add-host', 'a b:192.0.2.1'],
      ['--add-host', 'a\n192.0.2.2 b:192.0.2.1'],
      ['--add-host', 'a:example.org'],
      ['--add-host', 'a:host-gateway', '--network', 'none'],
    ];
    for (const flags of bad) {
      const { code, stderr } = await daemon.cli(['run', '--rm', ...flags, IMAGE, '--', 'true']);
      assert.equal(code, 125, `${flags.join(' ')}: ${stderr}`);
      assert.ok(stderr.includes(flags[0]?.slice(2) ?? '?'), stderr);
    }
  });

  await before.assertClean();
});

test("libcni's cache has what is attached, for as long as it is", { timeout: 60_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const cache = join(await tempDir(t), 'cache');
  const daemon = await startDaemon(t, { volumes: false, flags: ['--cni-cache-dir', cache] });
  await daemon.importBusybox(IMAGE);
  const [first, second] = daemon.networks;
  const id = await daemon.ok(['run', '-d', '--name', 'seen', '--network', first.name, IMAGE, '--', 'sleep', '1000']);
  const file = (network: string, name: string) => join(cache, 'results', `${network}-${id}-${name}`);
  const entry = JSON.parse(readFileSync(file(first.name, 'eth0'), 'utf8'));
  assert.deepEqual([entry.kind, entry.containerId, entry.ifName], ['cniCacheV1', id, 'eth0']);
  assert.equal(entry.result.ips[0].address.split('/')[0], await addressOf(daemon, 'seen'));
  assert.equal(JSON.parse(Buffer.from(entry.config, 'base64').toString()).name, first.name);
  await daemon.ok(['network', 'connect', second.name, 'seen']);
  assert.ok(existsSync(file(second.name, 'eth1')));
  await daemon.ok(['rm', '-f', 'seen']);
  assert.deepEqual(readdirSync(join(cache, 'results')), []);
});
