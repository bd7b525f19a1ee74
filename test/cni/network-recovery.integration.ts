import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { type ExecPlugin, execPlugin } from '../../src/cni/exec.ts';
import { NetworkNamespaces } from '../../src/cni/netns.ts';
import type { NetworkRecord } from '../../src/cni/network-record.ts';
import { mountAt } from '../../src/mountinfo.ts';
import type { ContainerRecord } from '../../src/runtime/container.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';
import { assertClean, snapshot } from '../support/oracle.ts';
import { RecordingPlugins } from '../support/recording-plugin.ts';
import { addressesIn, CniFixture, type FixtureOptions, soon } from './cni-fixture.ts';

const lacks = missing('root', 'ip', 'nsenter', 'unshare');
const lacksPlugins = missing('root', 'cni', 'iptables', 'ip', 'nsenter', 'unshare');
const NOBODY: ReadonlySet<string> = new Set();

interface Setup {
  readonly fixture: CniFixture;
  readonly plugins: RecordingPlugins;
  readonly container: ContainerRecord;
}

/** Two networks of two recording plugins each. */
async function setUp(t: TestScope, options: FixtureOptions = {}): Promise<Setup> {
  const plugins = await RecordingPlugins.create(t, 'one', 'two', 'three', 'four');
  const fixture = await CniFixture.create(t, { ...options, binDirs: [plugins.binDir] });
  const list = (name: string, ...types: readonly string[]) =>
    fixture.write(`${name}.conflist`, { cniVersion: '1.0.0', name, plugins: types.map((type) => ({ type })) });
  list('a', 'one', 'two');
  list('b', 'three', 'four');
  return { fixture, plugins, container: fixture.container({ network: ['a', 'b'] }) };
}

/** What the next start finds of a daemon that was killed: a record of the given states, and the namespace. */
function amend(fixture: CniFixture, id: string, change: (record: NetworkRecord) => NetworkRecord): void {
  const record = fixture.store.read(id);
  assert.ok(record);
  fixture.store.write(id, change(record));
}

describe('NetworkIsolator when plugins fail', { skip: lacks }, () => {
  test('attaches in order and detaches in reverse, with the namespace alive until the last DEL', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    const path = fixture.netnsPath(container);
    for (const name of ['one', 'two', 'three', 'four']) plugins.does(name, 'DEL', `stat -f -c %T '${path}' >"$run/fs"`);
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    await isolator.cleanup(container.id, soon());
    const adds = ['one ADD', 'two ADD', 'three ADD', 'four ADD'];
    assert.deepEqual(plugins.calls(), [...adds, 'four DEL', 'three DEL', 'two DEL', 'one DEL']);
    for (const { env, command } of plugins.runs()) {
      assert.equal(env['CNI_NETNS'], path);
      assert.equal(env['CNI_IFNAME'], ['a', 'b'].includes(command) ? '' : env['CNI_IFNAME']);
    }
    const names = plugins.runs().map(({ env }) => env['CNI_IFNAME']);
    assert.deepEqual(names, ['eth0', 'eth0', 'eth1', 'eth1', 'eth1', 'eth1', 'eth0', 'eth0']);
    for (const number of ['005', '006', '007', '008']) {
      const found = spawnSync('cat', [join(plugins.base, 'runs', number, 'fs')], { encoding: 'utf8' });
      assert.equal(found.stdout, 'nsfs\n');
    }
    await assertClean(fixture.scope);
  });

  test('a DEL that fails three times keeps record and namespace, then ends clean (K29)', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    plugins.answers('three', 'DEL', { code: 100, msg: 'jammed' }, 1);
    for (let attempt = 0; attempt < 3; attempt += 1) {
      await assert.rejects(isolator.cleanup(container.id, soon()), { message: /three failed DEL .*jammed/ });
      assert.deepEqual([...isolator.pending()], [container.id]);
      assert.equal(mountAt(fixture.netnsPath(container))?.fsType, 'nsfs');
      const states = fixture.store
        .read(container.id)
        ?.attachments.map(({ interfaceName, state }) => [interfaceName, state]);
      assert.deepEqual(states, [['eth1', 'deleting']], 'the other network is given back all the same');
    }
    plugins.does('three', 'DEL', undefined);
    await isolator.cleanup(container.id, soon());
    const dels = plugins.runs().filter(({ command, plugin }) => command === 'DEL' && plugin === 'three');
    assert.equal(dels.length, 4);
    assert.equal(new Set(dels.map(({ stdin }) => stdin)).size, 1, 'each with the same request');
    assert.deepEqual([...isolator.pending()], []);
    await assertClean(fixture.scope);
  });

  test('a DEL uses the configuration of the ADD, whatever the disk says by then', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    fixture.write('a.conflist', 'gone');
    fixture.write('b.conflist', { cniVersion: '0.4.0', name: 'b', plugins: [{ type: 'one' }] });
    await fixture.isolator().recover(NOBODY, NOBODY, soon());
    assert.deepEqual(plugins.calls().slice(4), ['four DEL', 'three DEL', 'two DEL', 'one DEL']);
    await assertClean(fixture.scope);
  });

  test('a plugin that is missing at DEL keeps the record until it is back', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    plugins.uninstall('one');
    await assert.rejects(isolator.cleanup(container.id, soon()), { code: 'NOT_FOUND', message: /CNI plugin one/ });
    plugins.install('one');
    await isolator.cleanup(container.id, soon());
    await assertClean(fixture.scope);
  });

  test('an ADD that fails half-way is followed by a DEL for what was begun, and for nothing else', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    plugins.answers('two', 'ADD', { code: 100, msg: 'no' }, 1);
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await assert.rejects(isolator.isolate(container, soon()), { code: 'UNKNOWN' });
    await isolator.cleanup(container.id, soon());
    assert.deepEqual(plugins.calls(), ['one ADD', 'two ADD', 'two DEL', 'one DEL']);
    // DEL gets what ADD came to: plugins find there what to undo.
    for (const { stdin } of plugins.runs().slice(2)) assert.equal(JSON.parse(stdin).prevResult.ips.length, 1);
    await assertClean(fixture.scope);
  });

  test('an ADD that hangs is killed at the deadline, while other containers are served', async (t) => {
    // Long enough for two plugins on a busy machine, since only what was begun gets a DEL.
    const { fixture, plugins, container } = await setUp(t, { deadlinesMs: { ADD: 2500 } });
    plugins.does('three', 'ADD', 'exec sleep 30');
    const other = fixture.container({ network: ['a'] });
    const isolator = fixture.isolator();
    for (const box of [container, other]) await isolator.prepare(box, soon());
    const hung = assert.rejects(isolator.isolate(container, soon()), { code: 'DEADLINE_EXCEEDED' });
    await isolator.isolate(other, soon());
    await isolator.cleanup(other.id, soon());
    await hung;
    await isolator.cleanup(container.id, soon());
    assert.deepEqual(plugins.calls().slice(-4), ['four DEL', 'three DEL', 'two DEL', 'one DEL']);
    await assertClean(fixture.scope);
  });

  test('a plugin that asks for patience gets a DEL and another ADD', async (t) => {
    const { fixture, plugins } = await setUp(t);
    const answer = `[ -e '${plugins.base}/asked' ] || { : >'${plugins.base}/asked'; echo '{"code":11,"msg":"later"}'; exit 1; }
      printf '{"cniVersion":"1.0.0"}'`;
    plugins.does('two', 'ADD', answer);
    const container = fixture.container({ network: ['a'] });
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    assert.deepEqual(plugins.calls(), ['one ADD', 'two ADD', 'two DEL', 'one DEL', 'one ADD', 'two ADD']);
    await isolator.cleanup(container.id, soon());
    await assertClean(fixture.scope);
  });

  test('resolver settings that are none make the launch fail, and no line of them is written (K20)', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    plugins.answers('four', 'ADD', { cniVersion: '1.0.0', dns: { nameservers: ['1.1.1.1\nnameserver 6.6.6.6'] } });
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await assert.rejects(isolator.isolate(container, soon()), { code: 'INVALID_ARGUMENT', message: /nameserver/ });
    assert.doesNotMatch(fixture.file(container, 'resolv.conf'), /6\.6\.6\.6/);
    await isolator.cleanup(container.id, soon());
    await assertClean(fixture.scope);
  });
});

describe('what is refused before anything is done', { skip: lacks }, () => {
  test('unknown networks, missing plugins, names twice, ports that no plugin serves', async (t) => {
    const { fixture, plugins } = await setUp(t);
    fixture.write('c.conflist', { cniVersion: '1.0.0', name: 'c', plugins: [{ type: 'absent' }] });
    const isolator = fixture.isolator();
    const ports = [{ hostPort: 18_799, containerPort: 80, protocol: 'tcp' }] as const;
    const cases = [
      [{ network: ['nowhere'] }, 'NOT_FOUND', /^network: "nowhere" is unknown; known are: a, b/],
      [{ network: ['c'] }, 'FAILED_PRECONDITION', /^network: c .*CNI plugin absent/],
      [{ network: ['a', 'a'] }, 'INVALID_ARGUMENT', /^network: "a" is named twice/],
      [{ network: ['a', 'b'], ports }, 'INVALID_ARGUMENT', /^publish: .*a, b declares the capability portMappings/],
      [{ network: 'none', ports }, 'INVALID_ARGUMENT', /^publish: /],
    ] as const;
    for (const [change, code, message] of cases) {
      const container = fixture.container(change);
      assert.throws(() => isolator.validate(container), { code, message });
      await assert.rejects(isolator.prepare(container, soon()), { code, message });
    }
    assert.deepEqual(plugins.calls(), []);
    assert.deepEqual([...fixture.store.entries()], []);
    await assertClean(fixture.scope);
  });
});

describe('NetworkIsolator.recover', { skip: lacks }, () => {
  test('releases what a daemon that was killed had begun, whatever the state (K30)', async (t) => {
    for (const state of ['planned', 'adding', 'added', 'deleting'] as const) {
      const { fixture, plugins, container } = await setUp(t);
      const killed = fixture.isolator();
      await killed.prepare(container, soon());
      const record = fixture.store.read(container.id);
      assert.ok(record);
      // A plugin that is killed before it has written its run down would be no run at all.
      await killed.isolate(container, soon());
      await killed.cleanup(container.id, soon());
      const before = plugins.calls().length;
      const attachments = record.attachments.map((entry) => ({ ...entry, state }));
      fixture.store.create(container.id, { ...record, attachments });
      await new NetworkNamespaces(join(fixture.runDir, 'netns')).create(container.id, soon());
      const next = fixture.isolator();
      assert.deepEqual([...next.pending()], [container.id]);
      await next.recover(NOBODY, new Set([container.id]), soon());
      const due = state === 'planned' ? [] : ['four DEL', 'three DEL', 'two DEL', 'one DEL'];
      assert.deepEqual(plugins.calls().slice(before), due, state);
      assert.deepEqual([...next.pending()], []);
      assert.deepEqual([...fixture.store.entries()], []);
      await assertClean(fixture.scope);
    }
  });

  test('takes away namespaces and files without a record, mounted or not', async (t) => {
    const { fixture, container } = await setUp(t);
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    fixture.store.remove(container.id);
    writeFileSync(join(fixture.runDir, 'netns', 'f'.repeat(32)), '');
    mkdirSync(join(fixture.runDir, 'files', 'e'.repeat(32)));
    await fixture.isolator().recover(NOBODY, NOBODY, soon());
    await assertClean(fixture.scope);
  });

  test('leaves running containers as they are, and can still release them', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    const first = fixture.isolator();
    await first.prepare(container, soon());
    await first.isolate(container, soon());
    const calls = plugins.calls();
    const next = fixture.isolator();
    await next.recover(new Set([container.id]), new Set([container.id]), soon());
    assert.deepEqual(plugins.calls(), calls);
    assert.deepEqual([...next.pending()], []);
    assert.equal(next.status(container.id).networks?.length, 2);
    assert.equal(mountAt(fixture.netnsPath(container))?.fsType, 'nsfs');
    await next.cleanup(container.id, soon());
    assert.deepEqual(plugins.calls().slice(4), ['four DEL', 'three DEL', 'two DEL', 'one DEL']);
    await assertClean(fixture.scope);
  });

  test('after a reboot sends DEL without a namespace, with the result of ADD', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    spawnSync('umount', [fixture.netnsPath(container)]);
    spawnSync('rm', ['-r', fixture.runDir]);
    amend(fixture, container.id, (record) => ({ ...record, bootId: 'another-boot' }));
    await fixture.isolator().recover(NOBODY, new Set([container.id]), soon());
    const dels = plugins.runs().filter(({ command }) => command === 'DEL');
    assert.equal(dels.length, 4);
    for (const { env, stdin } of dels) {
      assert.equal(env['CNI_NETNS'], '');
      assert.ok(JSON.parse(stdin).prevResult);
    }
    assert.deepEqual([...fixture.store.entries()], []);
    await assertClean(fixture.scope);
  });

  test('a run after a kill or a reboot has the DEL of the one before in front of its ADD', async (t) => {
    for (const bootId of [undefined, 'another-boot']) {
      const { fixture, plugins } = await setUp(t);
      const container = fixture.container({ network: ['a'] });
      const killed = fixture.isolator();
      await killed.prepare(container, soon());
      await killed.isolate(container, soon());
      if (bootId !== undefined) amend(fixture, container.id, (record) => ({ ...record, bootId }));
      const next = fixture.isolator();
      await assert.rejects(next.prepare(container, soon()), { code: 'ALREADY_EXISTS' });
      assert.deepEqual(plugins.calls(), ['one ADD', 'two ADD'], 'no second ADD while the first has no DEL');
      await next.recover(NOBODY, new Set([container.id]), soon());
      plugins.answers('two', 'ADD', { cniVersion: '1.0.0', ips: [{ address: '10.87.80.9/24' }] });
      await next.prepare(container, soon());
      await next.isolate(container, soon());
      assert.deepEqual(plugins.calls(), ['one ADD', 'two ADD', 'two DEL', 'one DEL', 'one ADD', 'two ADD']);
      assert.deepEqual(
        next.status(container.id).networks?.[0]?.addresses,
        ['10.87.80.9/24'],
        'the new address is told',
      );
      await next.cleanup(container.id, soon());
      await assertClean(fixture.scope);
    }
  });

  test('a namespace that is none any more is not given to DEL', async (t) => {
    const { fixture, plugins } = await setUp(t);
    for (const remains of ['nothing', 'a plain file']) {
      const container = fixture.container({ network: ['a'] });
      const isolator = fixture.isolator();
      await isolator.prepare(container, soon());
      await isolator.isolate(container, soon());
      spawnSync('umount', ['-l', fixture.netnsPath(container)]);
      if (remains === 'nothing') spawnSync('rm', [fixture.netnsPath(container)]);
      await isolator.cleanup(container.id, soon());
      const dels = plugins
        .runs()
        .filter(({ env }) => env['CNI_CONTAINERID'] === container.id)
        .slice(2);
      assert.deepEqual(
        dels.map(({ command, env }) => [command, env['CNI_NETNS']]),
        [
          ['DEL', ''],
          ['DEL', ''],
        ],
        remains,
      );
      assert.equal(existsSync(fixture.netnsPath(container)), false);
    }
    await assertClean(fixture.scope);
  });

  test('a record that was cut short is told, keeps what it names, and does not keep the others', async (t) => {
    const { fixture, plugins } = await setUp(t);
    const broken = fixture.container({ network: ['a'] });
    const easy = fixture.container({ network: ['b'] });
    const isolator = fixture.isolator();
    for (const container of [broken, easy]) {
      await isolator.prepare(container, soon());
      await isolator.isolate(container, soon());
    }
    const good = fixture.store.read(broken.id);
    assert.ok(good);
    fixture.damage(broken.id);
    const calls = plugins.calls().length;
    const lines: string[] = [];
    const next = fixture.isolator(undefined, pino({}, { write: (line: string) => void lines.push(line) }));
    await next.recover(NOBODY, NOBODY, soon());
    assert.deepEqual(plugins.calls().slice(calls), ['four DEL', 'three DEL'], 'nobody guesses what the other has');
    assert.ok(lines.some((line) => line.includes(broken.id) && line.includes('does not decode')));
    assert.ok(fixture.store.damaged().has(broken.id), 'it is not counted as done');
    assert.equal(mountAt(fixture.netnsPath(broken))?.fsType, 'nsfs');
    fixture.store.write(broken.id, good);
    await fixture.isolator().recover(NOBODY, NOBODY, soon());
    assert.deepEqual(plugins.calls().slice(calls + 2), ['two DEL', 'one DEL']);
    await assertClean(fixture.scope);
  });

  test('a container that runs without its namespace is told, and can still be released', async (t) => {
    const { fixture, plugins, container } = await setUp(t);
    const isolator = fixture.isolator();
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    spawnSync('umount', ['-l', fixture.netnsPath(container)]);
    const lines: string[] = [];
    const next = fixture.isolator(undefined, pino({}, { write: (line: string) => void lines.push(line) }));
    await next.recover(new Set([container.id]), new Set([container.id]), soon());
    assert.ok(
      lines.some((line) => line.includes(container.id) && line.includes('network namespace')),
      lines.join(''),
    );
    assert.equal(plugins.calls().filter((call) => call.endsWith('DEL')).length, 0, 'it runs: nothing is taken from it');
    await next.cleanup(container.id, soon());
    assert.equal(plugins.calls().filter((call) => call.endsWith('DEL')).length, 4);
    await assertClean(fixture.scope);
  });

  test('one container that resists does not keep the others', async (t) => {
    const { fixture, plugins } = await setUp(t);
    const stuck = fixture.container({ network: ['a'] });
    const easy = fixture.container({ network: ['b'] });
    const isolator = fixture.isolator();
    for (const container of [stuck, easy]) {
      await isolator.prepare(container, soon());
      await isolator.isolate(container, soon());
    }
    plugins.answers('one', 'DEL', { code: 100, msg: 'jammed' }, 1);
    const next = fixture.isolator();
    await assert.rejects(next.recover(NOBODY, NOBODY, soon()), { message: /jammed/ });
    assert.deepEqual([...next.pending()], [stuck.id]);
    assert.equal(existsSync(fixture.netnsPath(easy)), false);
    plugins.does('one', 'DEL', undefined);
    await next.cleanup(stuck.id, soon());
    await assertClean(fixture.scope);
  });
});

/** Plugins that run as ever until the daemon dies, at the moment the `count`-th of them has ended. */
function dyingAfter(count: number): ExecPlugin {
  let runs = 0;
  return async (call, signal) => {
    if (runs === count) throw new Error('the daemon is dead');
    runs += 1;
    const answer = await execPlugin(call, signal);
    if (runs === count) throw new Error('the daemon dies here');
    return answer;
  };
}

describe('NetworkIsolator.recover with the reference plugins', { skip: lacksPlugins }, () => {
  for (const [count, moment] of ['no plugin', 'bridge', 'portmap', 'firewall'].entries()) {
    test(`leaves nothing of an ADD that ended with the daemon after ${moment} (K30)`, async (t) => {
      const fixture = await CniFixture.create(t);
      fixture.bridgeNetwork(t, 'crash', 14);
      const ports = [{ hostPort: 18_714, containerPort: 80, protocol: 'tcp' }] as const;
      const container = fixture.container({ network: ['crash'], ports });
      const before = snapshot(fixture.scope);
      const dying = fixture.isolator(dyingAfter(count));
      cleanup(t, () => fixture.isolator().cleanup(container.id, soon()));
      await dying.prepare(container, soon());
      await assert.rejects(dying.isolate(container, soon()));
      const next = fixture.isolator();
      await next.recover(NOBODY, NOBODY, soon());
      assert.deepEqual([...next.pending()], []);
      await assertClean(fixture.scope, { before });
    });
  }

  for (const [count, moment] of ['no plugin', 'firewall', 'portmap', 'bridge'].entries()) {
    test(`leaves nothing of a DEL that ended with the daemon after ${moment} (K30)`, async (t) => {
      const fixture = await CniFixture.create(t);
      fixture.bridgeNetwork(t, 'crash', 14);
      const ports = [{ hostPort: 18_714, containerPort: 80, protocol: 'tcp' }] as const;
      const container = fixture.container({ network: ['crash'], ports });
      const before = snapshot(fixture.scope);
      cleanup(t, () => fixture.isolator().cleanup(container.id, soon()));
      const isolator = fixture.isolator();
      await isolator.prepare(container, soon());
      await isolator.isolate(container, soon());
      assert.equal(addressesIn(fixture.netnsPath(container))['eth0']?.length, 1);
      const dying = fixture.isolator(dyingAfter(count));
      await assert.rejects(dying.cleanup(container.id, soon()));
      await fixture.isolator().recover(NOBODY, NOBODY, soon());
      await assertClean(fixture.scope, { before });
    });
  }

  test('leaves no lease after a reboot', async (t) => {
    const fixture = await CniFixture.create(t);
    fixture.bridgeNetwork(t, 'reboot', 15);
    const container = fixture.container({ network: ['reboot'] });
    const isolator = fixture.isolator();
    cleanup(t, () => dropMasquerading(container.id));
    await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    assert.equal(snapshot(fixture.scope).lease.length, 1);
    amend(fixture, container.id, (record) => ({ ...record, bootId: 'another-boot' }));
    await fixture.isolator().recover(NOBODY, NOBODY, soon());
    // A reboot takes the rules of the host; this one was none.
    dropMasquerading(container.id);
    await assertClean(fixture.scope);
  });
});

/** What bridge leaves when it is not given a namespace. */
function dropMasquerading(id: string): void {
  const { stdout } = spawnSync('iptables-save', ['-t', 'nat'], { encoding: 'utf8' });
  const rules = stdout.split('\n').filter((line) => line.startsWith('-A POSTROUTING') && line.includes(id));
  const undo = rules.flatMap((rule) => {
    const chain = rule.split(' ').at(-1) ?? '';
    return [rule.replace('-A', '-D'), `-F ${chain}`, `-X ${chain}`];
  });
  if (undo.length > 0)
    spawnSync('iptables-restore', ['--noflush'], { input: ['*nat', ...undo, 'COMMIT', ''].join('\n') });
}
