/** The host's rules after something flushed them (docs/cni.md), through the real command line, daemon and plugins. */
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { hostCommand } from '../../src/host-command.ts';
import { Oracle, startDaemon } from '../support/daemon.ts';
import { removeRules } from '../support/daemon-sweep.ts';
import { needs } from '../support/needs.ts';
import { snapshot } from '../support/oracle.ts';
import { claimNetworks } from '../support/test-network.ts';

const IMAGE = 'busybox:1';

function needsNetworks(t: TestContext): boolean {
  return needs(t, 'root', 'conmon', 'cni', 'iptables', 'ip', 'nsenter', 'busybox', 'overlayfs', 'curl');
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  assert.ok(typeof address === 'object' && address !== null);
  return address.port;
}

test('network reload', { timeout: 120_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const { subnet } = await claimNetworks(t);
  const daemon = await startDaemon(t, { volumes: false, flags: ['--network-pool', subnet] });
  await daemon.importBusybox(IMAGE);
  const scope = { ...daemon.scope, subnets: [...daemon.scope.subnets, subnet] };
  const before = new Oracle(scope);
  const [first, second] = daemon.networks;
  const port = await freePort();
  const serve = 'mkdir /www && echo hello > /www/index.html && exec httpd -f -p 8000 -h /www';
  const flags = ['-d', '--name', 'web', '-p', `${port}:8000`, '--network', first.name, '--network', second.name];
  const id = await daemon.ok(['run', ...flags, IMAGE, '--', 'sh', '-c', serve]);
  const url = `http://127.0.0.1:${port}/`;
  const fetched = (): Promise<string> =>
    hostCommand(
      'curl',
      ['-sS', '--retry', '10', '--retry-connrefused', '--retry-delay', '0', '-m', '5', url],
      AbortSignal.timeout(20_000),
    );
  const rules = (): readonly string[] => snapshot(scope)['firewall rule'];
  const [shown] = JSON.parse(await daemon.ok(['inspect', 'web']));

  await t.test('brings back, rule for rule, what was flushed, and keeps addresses', async () => {
    assert.equal(await fetched(), 'hello');
    const made = rules();
    assert.ok(made.length > 10, made.join('\n'));
    removeRules(made);
    assert.deepEqual(rules(), []);
    const reloaded = JSON.parse(await daemon.ok(['network', 'reload', '--format', 'json']));
    assert.deepEqual(reloaded, [
      {
        container: id,
        network: first.name,
        interface: 'eth0',
        rules: ['masquerade', 'portmap', 'firewall'],
        error: '',
      },
      {
        container: id,
        network: second.name,
        interface: 'eth1',
        rules: ['masquerade', 'portmap', 'firewall'],
        error: '',
      },
    ]);
    assert.deepEqual(rules(), made);
    assert.equal(await fetched(), 'hello');
    assert.deepEqual(JSON.parse(await daemon.ok(['inspect', 'web']))[0].networks, shown.networks);
  });

  await t.test('changes nothing where nothing is missing', async () => {
    const made = rules();
    await daemon.ok(['network', 'reload', first.name]);
    await daemon.ok(['network', 'reload']);
    assert.deepEqual(rules(), made);
  });

  await t.test('makes a chain whole that lost one of its rules', async () => {
    const made = rules();
    const lost = made.filter((rule) => /-j (ACCEPT|MASQUERADE)$/.test(rule) && rule.includes(id)).slice(0, 1);
    assert.equal(lost.length, 1);
    removeRules(lost);
    assert.equal(rules().length, made.length - 1);
    await daemon.ok(['network', 'reload', first.name]);
    await daemon.ok(['network', 'reload', second.name]);
    assert.deepEqual(rules(), made);
  });

  await t.test('knows both families', async () => {
    await daemon.ok(['network', 'create', 'dual', '--ipv6']);
    await daemon.ok(['network', 'connect', 'dual', 'web']);
    const [dual] = JSON.parse(await daemon.ok(['network', 'inspect', 'dual']));
    assert.equal(dual.containers[0].addresses.length, 2);
    const made = rules();
    assert.ok(made.some((rule) => rule.startsWith('ip6 nat -A POSTROUTING')));
    removeRules(made);
    await daemon.ok(['network', 'reload']);
    assert.deepEqual(rules(), made);
    await daemon.ok(['network', 'disconnect', 'dual', 'web']);
    await daemon.ok(['network', 'rm', 'dual']);
  });

  await t.test('refuses what it does not know, and names that are none (K19)', async () => {
    assert.match((await daemon.cli(['network', 'reload', 'nosuch'])).stderr, /"nosuch" is unknown/);
    for (const name of ['../x', 'a/b', '.', 'x'.repeat(300)]) {
      assert.match((await daemon.cli(['network', 'reload', '--', name])).stderr, /name: /, name);
    }
  });

  await daemon.ok(['rm', '-f', 'web']);
  await before.assertClean({ ignore: ['file'] });
});
