import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { mountAt } from '../../src/mountinfo.ts';
import type { NetworkStatus } from '../../src/runtime/isolator.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';
import { assertClean, snapshot } from '../support/oracle.ts';
import { addressesIn, CniFixture, soon } from './cni-fixture.ts';

const lacks = missing('root', 'cni', 'iptables', 'ip', 'nsenter', 'unshare', 'busybox', 'curl');

/** Where the host is to be reached from outside. */
function hostAddress(): string | undefined {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return addresses.find(
    ({ family, internal, address }) => family === 'IPv4' && !internal && !address.startsWith('10.8'),
  )?.address;
}

/** A web server inside a namespace that says who it is. Listens when the promise resolves. */
async function webServer(t: TestScope, dir: string, netnsPath: string, port: number): Promise<void> {
  writeFileSync(join(dir, 'index.html'), 'served from inside\n');
  const args = [`--net=${netnsPath}`, 'busybox', 'httpd', '-f', '-p', String(port), '-h', dir];
  const child = spawn('nsenter', args, { stdio: 'ignore' });
  cleanup(t, async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  });
  const probe = `until busybox nc -w 1 127.0.0.1 ${port} </dev/null; do busybox usleep 20000; done`;
  spawnSync('nsenter', [`--net=${netnsPath}`, 'busybox', 'timeout', '5', 'busybox', 'sh', '-c', probe]);
}

function withoutNetwork(status: NetworkStatus | undefined): Partial<NetworkStatus> {
  const { network: _, ...rest } = status ?? {};
  return rest;
}

describe('NetworkIsolator with the reference plugins', { skip: lacks }, () => {
  test('gives a container two networks and takes everything back', async (t) => {
    const fixture = await CniFixture.create(t);
    fixture.bridgeNetwork(t, 'front', 10);
    fixture.bridgeNetwork(t, 'back', 11);
    const isolator = fixture.isolator();
    const container = fixture.container({ network: ['front', 'back'], hostname: 'box.example', name: 'boxer' });
    const before = snapshot(fixture.scope);
    cleanup(t, () => isolator.cleanup(container.id, soon()));

    const contribution = await isolator.prepare(container, soon());
    const path = fixture.netnsPath(container);
    assert.deepEqual(contribution.namespaces, [{ type: 'network', path }]);
    assert.equal(mountAt(path)?.fsType, 'nsfs');
    assert.deepEqual(addressesIn(path), { lo: ['127.0.0.1/8'] }, 'loopback is up before any plugin runs');

    await isolator.isolate(container, soon());
    const addresses = addressesIn(path);
    assert.deepEqual(Object.keys(addresses), ['lo', 'eth0', 'eth1']);
    assert.match(addresses['eth0']?.[0] ?? '', /^10\.87\.10\.\d+\/24$/);
    assert.match(addresses['eth1']?.[0] ?? '', /^10\.87\.11\.\d+\/24$/);

    const status = isolator.status(container.id).networks ?? [];
    assert.deepEqual(
      status.map(({ network, interfaceName, addresses: own, gateways }) => ({ network, interfaceName, own, gateways })),
      [
        { network: 'front', interfaceName: 'eth0', own: addresses['eth0'], gateways: ['10.87.10.1'] },
        { network: 'back', interfaceName: 'eth1', own: addresses['eth1'], gateways: ['10.87.11.1'] },
      ],
    );
    assert.match(status[0]?.mac ?? '', /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
    const [attached] = isolator.attachments('back');
    assert.partialDeepStrictEqual(attached, {
      containerId: container.id,
      state: 'added',
      ...withoutNetwork(status[1]),
    });

    const [front = ''] = addresses['eth0']?.[0]?.split('/') ?? [];
    assert.match(fixture.file(container, 'hosts'), new RegExp(`^${front}\tbox\\.example boxer$`, 'm'));
    assert.equal(fixture.file(container, 'hostname'), 'box.example\n');
    assert.equal(statSync(join(fixture.runDir, 'files', container.id, 'hosts')).mode & 0o777, 0o644);

    const rules = snapshot(fixture.scope)['firewall rule'];
    assert.ok(
      rules.some((rule) => rule.startsWith('ip filter') && rule.includes(front)),
      'firewall lets it through',
    );
    assert.ok(
      rules.some((rule) => rule.startsWith('ip nat') && rule.includes('MASQUERADE')),
      'bridge masquerades it',
    );

    await isolator.cleanup(container.id, soon());
    await assertClean(fixture.scope, { before });
    assert.equal(existsSync(path), false);
    assert.equal(fixture.store.read(container.id), undefined);
    await isolator.cleanup(container.id, soon());
  });

  test('leads a port of the host into the container, until it is cleaned up', async (t) => {
    const address = hostAddress();
    if (address === undefined) return t.skip('the host has no address of its own');
    const fixture = await CniFixture.create(t);
    fixture.bridgeNetwork(t, 'ports', 12);
    const isolator = fixture.isolator();
    const ports = [{ hostPort: 18_712, containerPort: 8080, protocol: 'tcp' }] as const;
    const container = fixture.container({ network: ['ports'], ports });
    const before = snapshot(fixture.scope);
    cleanup(t, () => isolator.cleanup(container.id, soon()));
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    await webServer(t, fixture.dir, fixture.netnsPath(container), 8080);

    const url = `http://${address}:18712/`;
    const reached = spawnSync('curl', ['-sS', '--noproxy', '*', '-m', '5', url], { encoding: 'utf8' });
    assert.equal(reached.stdout, 'served from inside\n', reached.stderr);

    const rival = fixture.container({ network: ['ports'], ports });
    await assert.rejects(isolator.prepare(rival, soon()), { code: 'FAILED_PRECONDITION', message: /18712\/tcp/ });
    await isolator.cleanup(rival.id, soon());

    await isolator.cleanup(container.id, soon());
    const refused = spawnSync('curl', ['-sS', '--noproxy', '*', '-m', '5', url], { encoding: 'utf8' });
    assert.notEqual(refused.status, 0);
    await assertClean(fixture.scope, { before });
  });

  test('a container without network has loopback only, one with the host network no namespace', async (t) => {
    const fixture = await CniFixture.create(t);
    const isolator = fixture.isolator();
    const alone = fixture.container({ network: 'none', hostname: 'hermit' });
    const open = fixture.container({ network: 'host' });
    for (const { id } of [alone, open]) cleanup(t, () => isolator.cleanup(id, soon()));
    await isolator.prepare(alone, soon());
    await isolator.isolate(alone, soon());
    assert.deepEqual(addressesIn(fixture.netnsPath(alone)), { lo: ['127.0.0.1/8'] });
    assert.match(fixture.file(alone, 'hosts'), /^127\.0\.1\.1\thermit box$/m);

    const contribution = await isolator.prepare(open, soon());
    await isolator.isolate(open, soon());
    assert.equal(contribution.namespaces, undefined);
    assert.equal(existsSync(fixture.netnsPath(open)), false);
    assert.match(fixture.file(open, 'hosts'), /localhost/);
    for (const { id } of [alone, open]) await isolator.cleanup(id, soon());
    await assertClean(fixture.scope);
  });

  test('serves many containers at once', async (t) => {
    const fixture = await CniFixture.create(t);
    fixture.bridgeNetwork(t, 'crowd', 13);
    const isolator = fixture.isolator();
    const containers = Array.from({ length: 6 }, (_, index) =>
      fixture.container({
        network: ['crowd'],
        ports: [{ hostPort: 18_720 + index, containerPort: 80, protocol: 'tcp' }],
      }),
    );
    for (const { id } of containers) cleanup(t, () => isolator.cleanup(id, soon()));
    await Promise.all(
      containers.map(async (container) => {
        await isolator.prepare(container, soon());
        await isolator.isolate(container, soon());
      }),
    );
    const seen = new Set(containers.flatMap((container) => addressesIn(fixture.netnsPath(container))['eth0'] ?? []));
    assert.equal(seen.size, containers.length);
    await Promise.all(containers.map(({ id }) => isolator.cleanup(id, soon())));
    await assertClean(fixture.scope);
  });
});
