/** Records beside kernel and disk (docs/cni.md), through the real command line, daemon and plugins. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { hostCommand } from '../../src/host-command.ts';
import { cleanup } from '../support/cleanup.ts';
import { type Daemon, Oracle, startDaemon } from '../support/daemon.ts';
import { removeRules } from '../support/daemon-sweep.ts';
import { CNI_BIN_DIRS, needs } from '../support/needs.ts';
import { snapshot } from '../support/oracle.ts';
import { claimNetworks } from '../support/test-network.ts';

const IMAGE = 'busybox:1';

function needsNetworks(t: TestContext): boolean {
  return needs(t, 'root', 'conmon', 'cni', 'iptables', 'ip', 'nsenter', 'busybox', 'overlayfs');
}

interface Finding {
  readonly kind: string;
  readonly name: string;
  readonly network: string;
  readonly container: string;
  readonly missing: boolean;
  readonly repaired: boolean;
  readonly detail: string;
}

async function audit(daemon: Daemon, ...flags: readonly string[]): Promise<{ code: number; findings: Finding[] }> {
  const { code, stdout, stderr } = await daemon.cli(['network', 'audit', '--format', 'json', ...flags]);
  assert.match(stdout, /^\[/, stderr);
  return { code, findings: JSON.parse(stdout) };
}

function told(findings: readonly Finding[]): string[] {
  return findings
    .map(({ kind, name, missing, repaired }) => [kind, name, missing ? 'missing' : 'extra', repaired].join(' '))
    .sort();
}

async function ip(...args: readonly string[]): Promise<string> {
  return hostCommand('ip', args, AbortSignal.timeout(10_000));
}

/** Fails unless a process's network answers from this address. */
async function reaches(pid: number, address: string): Promise<void> {
  const ping = ['busybox', 'ping', '-c', '1', '-W', '5', address];
  await hostCommand('nsenter', ['-t', String(pid), '-n', ...ping], AbortSignal.timeout(20_000));
}

/** A container of nobody, attached by a plugin that is run as another runtime would. */
async function strangerOn(t: TestContext, file: string, id: string): Promise<string> {
  const name = `berth-test-${id.slice(0, 8)}`;
  await ip('netns', 'add', name);
  cleanup(t, () => ip('netns', 'delete', name).catch(() => undefined));
  const list: { name: string; plugins: { type: string }[] } = JSON.parse(readFileSync(file, 'utf8'));
  let prevResult: unknown;
  for (const plugin of list.plugins) {
    const path = CNI_BIN_DIRS.map((dir) => join(dir, plugin.type)).find((candidate) => existsSync(candidate)) ?? '';
    const stdin = {
      ...plugin,
      cniVersion: '1.0.0',
      name: list.name,
      ...(prevResult === undefined ? {} : { prevResult }),
    };
    const env = {
      CNI_COMMAND: 'ADD',
      CNI_CONTAINERID: id,
      CNI_NETNS: `/run/netns/${name}`,
      CNI_IFNAME: 'eth0',
      CNI_PATH: CNI_BIN_DIRS.join(':'),
    };
    const answer = await hostCommand(path, [], AbortSignal.timeout(10_000), { input: JSON.stringify(stdin), env });
    prevResult = JSON.parse(answer);
  }
  return name;
}

test('network audit', { timeout: 180_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const { subnet: pool } = await claimNetworks(t);
  const daemon = await startDaemon(t, { volumes: false, flags: ['--network-pool', pool] });
  await daemon.importBusybox(IMAGE);
  const scope = { ...daemon.scope, subnets: [...daemon.scope.subnets, pool] };
  const before = new Oracle(scope);
  await daemon.ok(['network', 'create', 'own']);
  const [own] = JSON.parse(await daemon.ok(['network', 'inspect', 'own']));
  const bridge: string = own.config.plugins[0].bridge;
  const leases = join(daemon.root, 'leases', 'own');
  const id = await daemon.ok([
    'run',
    '-d',
    '--name',
    'box',
    '--network',
    'own',
    '-p',
    '18765:80',
    IMAGE,
    '--',
    'sleep',
    '1000',
  ]);
  const [box] = JSON.parse(await daemon.ok(['inspect', 'box']));
  const address: string = box.networks[0].addresses[0].split('/')[0];
  const [gateway]: string[] = box.networks[0].gateways;
  assert.ok(gateway !== undefined);
  const ports = (): string[] => readdirSync(`/sys/class/net/${bridge}/brif`);
  const rulesOf = (text: string): readonly string[] =>
    snapshot(scope)['firewall rule'].filter((rule) => rule.includes(text));

  await t.test('finds nothing where all is in order', async () => {
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await t.test('finds and removes what has no owner, and nothing of a container that runs', async () => {
    const stranger = randomBytes(16).toString('hex');
    const name = await strangerOn(t, own.file, stranger);
    // Its namespace goes by another name than its id: nothing says that it is alive.
    const kept = ports();
    assert.equal(kept.length, 2);
    mkdirSync(join(daemon.run, 'files', stranger));
    writeFileSync(join(daemon.run, 'netns', stranger), '');
    await hostCommand(
      'mount',
      ['--bind', `/run/netns/${name}`, join(daemon.run, 'netns', stranger)],
      AbortSignal.timeout(5000),
    );
    await ip('netns', 'delete', name);
    const { code, findings } = await audit(daemon);
    assert.equal(code, 1);
    assert.deepEqual(
      findings.map(({ kind }) => kind).sort(),
      ['files', 'interface', 'lease', 'namespace', 'rule', 'rule'],
      JSON.stringify(findings, null, 1),
    );
    assert.ok(findings.every(({ missing, repaired }) => !missing && !repaired));
    assert.deepEqual(ports(), kept, 'looking changes nothing');
    const repaired = await audit(daemon, '--repair');
    assert.equal(repaired.code, 0, JSON.stringify(repaired.findings));
    assert.ok(repaired.findings.every((finding) => finding.repaired));
    assert.equal(ports().length, 1);
    assert.equal(readFileSync(join(leases, address), 'utf8'), `${id}\r\neth0`);
    assert.deepEqual(
      readdirSync(leases).filter((file) => /^\d/.test(file)),
      [address],
    );
    assert.equal(existsSync(join(daemon.run, 'netns', stranger)), false);
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await t.test('finds what a container lacks, and brings back rules and lease', async () => {
    rmSync(join(leases, address));
    const made = snapshot(scope)['firewall rule'].filter((rule) => rule.includes(id) || rule.includes(address));
    removeRules(made);
    const { code, findings } = await audit(daemon);
    assert.equal(code, 1);
    assert.deepEqual(told(findings), [
      `lease ${address} missing false`,
      'rule firewall missing false',
      'rule masquerade missing false',
      'rule portmap missing false',
    ]);
    const repaired = await audit(daemon, '--repair');
    assert.equal(repaired.code, 0, JSON.stringify(repaired.findings));
    assert.ok(repaired.findings.every((finding) => finding.repaired));
    assert.equal(readFileSync(join(leases, address), 'utf8'), `${id}\r\neth0`);
    assert.deepEqual([...rulesOf(id)].sort(), made.filter((rule) => rule.includes(id)).sort());
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await t.test('makes a port of a container one again, and only tells of one that is not a plugin\u2019s', async () => {
    const [port = ''] = ports();
    const hairpin = (): string => readFileSync(`/sys/class/net/${port}/brport/hairpin_mode`, 'utf8').trim();
    assert.equal(hairpin(), '1');
    const suffix = pool.split('.')[2];
    await ip('link', 'set', port, 'nomaster');
    await ip('link', 'add', `ext${suffix}`, 'type', 'veth', 'peer', 'name', `ext${suffix}p`);
    cleanup(t, () => ip('link', 'delete', `ext${suffix}`).catch(() => undefined));
    await ip('link', 'set', `ext${suffix}`, 'master', bridge);
    const extra = `interface ext${suffix} extra false`;
    assert.deepEqual(told((await audit(daemon)).findings), [extra, `interface ${port} missing false`].sort());
    assert.deepEqual(ports(), [`ext${suffix}`], 'looking changes nothing');
    const { code, findings } = await audit(daemon, '--repair');
    assert.equal(code, 1);
    assert.deepEqual(told(findings), [extra, `interface ${port} missing true`].sort());
    assert.deepEqual(ports().sort(), [`ext${suffix}`, port].sort());
    assert.equal(hairpin(), '1', 'as the bridge plugin made it');
    await reaches(box.pid, gateway);
    await ip('link', 'delete', `ext${suffix}`);
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await t.test('takes no other interface for the port of a container, whatever its name', async () => {
    const [port = ''] = ports();
    const suffix = pool.split('.')[2];
    await ip('link', 'set', port, 'nomaster');
    await ip('link', 'set', port, 'down');
    await ip('link', 'set', port, 'name', `old${suffix}`);
    await ip('link', 'add', port, 'type', 'veth', 'peer', 'name', `ext${suffix}p`);
    cleanup(t, () => ip('link', 'delete', `ext${suffix}p`).catch(() => undefined));
    const { code, findings } = await audit(daemon, '--repair');
    assert.equal(code, 1);
    assert.deepEqual(told(findings), [`interface ${port} missing false`]);
    assert.match(findings[0]?.detail ?? '', /is not the other end of eth0/);
    assert.deepEqual(ports(), []);
    await ip('link', 'delete', port);
    await ip('link', 'set', `old${suffix}`, 'name', port);
    await ip('link', 'set', port, 'up', 'master', bridge);
    await ip('link', 'set', port, 'type', 'bridge_slave', 'hairpin', 'on');
  });

  await t.test('leaves alone what belongs to a namespace that lives elsewhere', async () => {
    const other = `berth-test-${randomBytes(4).toString('hex')}`;
    await ip('netns', 'add', other);
    cleanup(t, () => ip('netns', 'delete', other).catch(() => undefined));
    const lease = join(leases, address.replace(/\d+$/, '77'));
    writeFileSync(lease, `${other}\r\neth0`);
    const { findings } = await audit(daemon, '--repair');
    assert.deepEqual(told(findings), [`lease ${address.replace(/\d+$/, '77')} extra false`]);
    assert.match(findings[0]?.detail ?? '', /another one uses the network/);
    assert.ok(existsSync(lease));
    rmSync(lease);
  });

  await t.test('looks into no network that is not Berth\u2019s own', async () => {
    const [first] = daemon.networks;
    const foreign = join(daemon.dir, 'leases', first.name);
    mkdirSync(foreign, { recursive: true });
    const lease = join(foreign, first.gateway.replace(/\.1$/, '.99'));
    writeFileSync(lease, `${randomBytes(16).toString('hex')}\r\neth0`);
    assert.deepEqual((await audit(daemon, '--repair')).findings, []);
    assert.ok(existsSync(lease));
    rmSync(lease);
  });

  await t.test('has leases of nobody given back when the daemon starts', async () => {
    const lease = join(leases, address.replace(/\d+$/, '88'));
    writeFileSync(lease, `${randomBytes(16).toString('hex')}\r\neth0`);
    await daemon.restart();
    assert.equal(existsSync(lease), false);
    assert.ok(existsSync(join(leases, address)), 'those of containers that run stay');
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await daemon.ok(['rm', '-f', 'box']);
  await daemon.ok(['network', 'rm', 'own']);
  await before.assertClean({ ignore: ['file'] });
});

test('network audit of pairs', { timeout: 180_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const { subnet: pool } = await claimNetworks(t);
  const daemon = await startDaemon(t, { volumes: false, flags: ['--network-pool', pool] });
  await daemon.importBusybox(IMAGE);
  const before = new Oracle({ ...daemon.scope, subnets: [...daemon.scope.subnets, pool] });
  await daemon.ok(['network', 'create', '--driver', 'ptp', 'pairs']);
  const [pairs] = JSON.parse(await daemon.ok(['network', 'inspect', 'pairs']));
  await daemon.ok(['run', '-d', '--name', 'box', '--network', 'pairs', IMAGE, '--', 'sleep', '1000']);
  const [box] = JSON.parse(await daemon.ok(['inspect', 'box']));
  const address: string = box.networks[0].addresses[0].split('/')[0];
  const [gateway]: string[] = box.networks[0].gateways;
  assert.ok(gateway !== undefined);
  /** "10.87.117.2 dev veth0a1b2c3d" for every address of the network that is routed. */
  const routes = async (): Promise<string[]> => {
    const lines = (await ip('-4', 'route', 'show', 'root', pool)).split('\n');
    return lines.flatMap((line) => /^[0-9.]+ dev veth[0-9a-f]{8}/.exec(line.trim())?.[0] ?? []);
  };
  const own = await routes();
  assert.equal(own.length, 1);
  const link = own[0]?.split(' ')[2] ?? '';
  /** Masquerading rules that name a container. */
  const masquerading = async (id: string): Promise<string> => {
    const text = await hostCommand('iptables-save', ['-t', 'nat'], AbortSignal.timeout(10_000));
    return text
      .split('\n')
      .filter((line) => line.includes(id))
      .join('\n');
  };

  await t.test('finds nothing where all is in order', async () => {
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await t.test('finds and removes the pair of nobody with its route, and no other', async () => {
    await strangerOn(t, pairs.file, randomBytes(16).toString('hex'));
    const all = await routes();
    assert.equal(all.length, 2);
    const stray = all.find((route) => !own.includes(route))?.split(' ')[2] ?? '';
    const { code, findings } = await audit(daemon);
    assert.equal(code, 1);
    assert.ok(told(findings).includes(`interface ${stray} extra false`), JSON.stringify(findings, null, 1));
    assert.deepEqual(await routes(), all, 'looking changes nothing');
    const repaired = await audit(daemon, '--repair');
    assert.equal(repaired.code, 0, JSON.stringify(repaired.findings, null, 1));
    assert.deepEqual(await routes(), own);
    assert.equal(existsSync(`/sys/class/net/${stray}`), false);
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await t.test('finds a route to nobody over the pair of a container, and removes the route alone', async () => {
    const nobody = address.replace(/\d+$/, '99');
    await ip('route', 'add', nobody, 'dev', link, 'scope', 'host');
    assert.deepEqual(told((await audit(daemon)).findings), [`route ${nobody} extra false`]);
    assert.equal((await audit(daemon, '--repair')).code, 0);
    assert.deepEqual(await routes(), own);
  });

  await t.test('makes the way to a container again', async () => {
    await ip('route', 'delete', address, 'dev', link);
    await ip('addr', 'flush', 'dev', link);
    assert.deepEqual(told((await audit(daemon)).findings), [`route ${address} missing false`]);
    const { code, findings } = await audit(daemon, '--repair');
    assert.equal(code, 0, JSON.stringify(findings));
    assert.deepEqual(told(findings), [`route ${address} missing true`]);
    assert.deepEqual(await routes(), own);
    await reaches(box.pid, gateway);
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await t.test('tells of a pair that is gone', async () => {
    await ip('link', 'delete', link);
    const { code, findings } = await audit(daemon, '--repair');
    assert.equal(code, 1);
    assert.ok(told(findings).includes(`interface ${link} missing false`), JSON.stringify(findings, null, 1));
  });

  await t.test('has no masquerading to find after a DEL that found no pair', async () => {
    assert.match(await masquerading(box.id), /MASQUERADE/);
    await daemon.ok(['rm', '-f', 'box']);
    assert.equal(await masquerading(box.id), '');
    assert.deepEqual(await audit(daemon), { code: 0, findings: [] });
  });

  await daemon.ok(['network', 'rm', 'pairs']);
  await before.assertClean({ ignore: ['file'] });
});
