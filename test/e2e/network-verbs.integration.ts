/** What is done to networks beside launches: check, gc, status (docs/cni.md), through the real command line. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostCommand } from '../../src/host-command.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { CNI_BIN_DIRS, needs } from '../support/needs.ts';
import { RecordingPlugins } from '../support/recording-plugin.ts';

const IMAGE = 'busybox:1';

function needsNetworks(t: TestContext): boolean {
  return needs(t, 'root', 'conmon', 'cni', 'iptables', 'ip', 'nsenter', 'busybox', 'overlayfs');
}

/** A program in the container's network namespace, seen from the host. */
async function inside(daemon: Daemon, ref: string, ...command: readonly string[]): Promise<string> {
  const [container] = JSON.parse(await daemon.ok(['inspect', ref]));
  return hostCommand('nsenter', ['-t', String(container.pid), '-n', ...command], AbortSignal.timeout(10_000));
}

function binFlags(...dirs: readonly string[]): string[] {
  return [...dirs, ...CNI_BIN_DIRS].flatMap((dir) => ['--cni-bin-dir', dir]);
}

test('network check', async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, { volumes: false });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const [first, second] = daemon.networks;
  const networks = ['--network', first.name, '--network', second.name];
  await daemon.ok(['run', '-d', '--name', 'box', ...networks, IMAGE, '--', 'sleep', '1000']);

  await t.test('says that all is as it was made', async () => {
    const checks = JSON.parse(await daemon.ok(['network', 'check', 'box', '--format', 'json']));
    assert.deepEqual(checks, [
      { network: first.name, interface: 'eth0', check: 'passed', reason: '' },
      { network: second.name, interface: 'eth1', check: 'passed', reason: '' },
    ]);
  });

  await t.test('says what is not, and leaves it so', async () => {
    const [container] = JSON.parse(await daemon.ok(['inspect', 'box']));
    const address: string = container.networks[1].addresses[0];
    await inside(daemon, 'box', 'ip', 'addr', 'del', address, 'dev', 'eth1');
    const { code, stdout } = await daemon.cli(['network', 'check', 'box', '--format', 'json']);
    assert.equal(code, 1);
    const checks: { check: string; reason: string }[] = JSON.parse(stdout);
    assert.deepEqual(
      checks.map(({ check }) => check),
      ['passed', 'failed'],
    );
    assert.match(checks[1]?.reason ?? '', /CNI plugin bridge failed CHECK/);
    assert.equal(await inside(daemon, 'box', 'ip', '-4', '-o', 'addr', 'show', 'eth1'), '');
    // Without it the bridge plugin does not know which rules of the host are the container's.
    await inside(daemon, 'box', 'ip', 'addr', 'add', address, 'dev', 'eth1');
    const one = await daemon.ok(['network', 'check', 'box', first.name]);
    assert.match(one, new RegExp(`^${first.name}\\s+eth0\\s+passed$`, 'm'));
  });

  await t.test('refuses what it cannot check, and names that are none (K19)', async () => {
    await daemon.ok(['create', '--name', 'idle', IMAGE, '--', 'true']);
    assert.match((await daemon.cli(['network', 'check', 'idle'])).stderr, /idle is created, not running/);
    assert.match((await daemon.cli(['network', 'check', 'box', 'other'])).stderr, /not attached to network other/);
    for (const bad of ['../x', 'a/b', 'a\nb', '', 'x'.repeat(300), '.', '..']) {
      const named = await daemon.cli(['network', 'check', '--', bad]);
      assert.deepEqual([named.code, /container: /.test(named.stderr)], [1, true], JSON.stringify(bad));
      if (bad === '') continue;
      const network = await daemon.cli(['network', 'check', '--', 'box', bad]);
      assert.deepEqual([network.code, /network: /.test(network.stderr)], [1, true], JSON.stringify(bad));
    }
  });

  await daemon.ok(['rm', '-f', 'box', 'idle']);
  await before.assertClean();
});

test('network checks from time to time', { timeout: 60_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const daemon = await startDaemon(t, { volumes: false, flags: ['--cni-check-interval', '1'] });
  await daemon.importBusybox(IMAGE);
  const [, second] = daemon.networks;
  const id = await daemon.ok(['run', '-d', '--name', 'box', '--network', second.name, IMAGE, '--', 'sleep', '1000']);
  await daemon.ok(['run', '-d', '--name', 'bare', '--network', 'host', IMAGE, '--', 'sleep', '1000']);
  const [container] = JSON.parse(await daemon.ok(['inspect', 'box']));
  const address: string = container.networks[0].addresses[0];
  const failed = daemon.line((line) => line.msg === 'network check failed');
  await inside(daemon, 'box', 'ip', 'addr', 'del', address, 'dev', 'eth0');
  const told = await failed;
  assert.deepEqual([told['containerId'], told['network'], told['interfaceName']], [id, second.name, 'eth0']);
  const passes = daemon.line((line) => line.msg === 'network check passes again');
  await inside(daemon, 'box', 'ip', 'addr', 'add', address, 'dev', 'eth0');
  await inside(daemon, 'box', 'ip', 'route', 'replace', 'default', 'via', second.gateway);
  await passes;
  assert.equal(daemon.lines.filter((line) => line.msg === 'networks not checked').length, 0);
});

test('the status of networks', async (t) => {
  if (!needsNetworks(t)) return;
  const plugins = await RecordingPlugins.create(t, 'modern', 'ancient');
  const list = (name: string, cniVersion: string, type: string): object => ({ cniVersion, name, plugins: [{ type }] });
  const daemon = await startDaemon(t, {
    volumes: false,
    flags: binFlags(plugins.binDir),
    confFiles: {
      '50-modern.conflist': list('modern', '1.1.0', 'modern'),
      '60-ancient.conflist': list('ancient', '1.0.0', 'ancient'),
    },
  });
  await daemon.importBusybox(IMAGE);
  const statusOf = async (name: string): Promise<[status: string | null, reason: string]> => {
    const listed: { name: string; status: string | null; statusReason: string }[] = JSON.parse(
      await daemon.ok(['network', 'ls', '--format', 'json']),
    );
    const network = listed.find((entry) => entry.name === name);
    return [network?.status ?? null, network?.statusReason ?? ''];
  };

  await t.test('is what the plugins say, and not asked below version 1.1.0', async () => {
    assert.deepEqual(await statusOf('modern'), ['available', '']);
    assert.deepEqual(await statusOf('ancient'), [null, '']);
    const asked = plugins.calls().filter((call) => call.includes('STATUS'));
    assert.deepEqual([...new Set(asked)], ['modern STATUS']);
  });

  await t.test('50 and 51 are shown with the reason, and keep neither ADD nor DEL from being tried', async () => {
    await daemon.ok(['run', '-d', '--name', 'box', '--network', 'modern', IMAGE, '--', 'sleep', '1000']);
    for (const [code, status] of [
      [50, 'unavailable'],
      [51, 'limited'],
      [999, 'unknown'],
    ] as const) {
      plugins.answers('modern', 'STATUS', { cniVersion: '1.1.0', code, msg: 'pool is dry' }, 1);
      const [shown, reason] = await statusOf('modern');
      assert.equal(shown, status);
      assert.match(reason, /pool is dry/);
    }
    const [inspected] = JSON.parse(await daemon.ok(['network', 'inspect', 'modern']));
    assert.equal(inspected.status, 'unknown');
    assert.match(await daemon.ok(['network', 'ls']), /modern .*unknown.*pool is dry/);
    await daemon.ok(['run', '--rm', '--network', 'modern', IMAGE, '--', 'true']);
    await daemon.ok(['rm', '-f', 'box']);
    assert.equal(plugins.calls().filter((call) => call === 'modern DEL').length, 2);
  });

  await t.test('is unknown when a plugin does not answer in time', async () => {
    await daemon.kill('SIGTERM');
    plugins.does('modern', 'STATUS', 'exec sleep 1000');
    const impatient = await startDaemon(t, {
      volumes: false,
      flags: [...binFlags(plugins.binDir), '--cni-timeout', 'STATUS=1'],
      confFiles: { '50-modern.conflist': list('modern', '1.1.0', 'modern') },
    });
    const listed = JSON.parse(await impatient.ok(['network', 'inspect', 'modern']));
    assert.equal(listed[0].status, 'unknown');
    assert.match(listed[0].statusReason, /stopped during STATUS/);
  });
});

test('network gc', { timeout: 120_000 }, async (t) => {
  if (!needsNetworks(t)) return;
  const plugins = await RecordingPlugins.create(t, 'modern', 'shy');
  const owned = { 'io.berth/owned': true };
  const list = (name: string, more: object, type = 'modern'): object => {
    return { cniVersion: '1.1.0', name, ...more, plugins: [{ type }] };
  };
  const daemon = await startDaemon(t, {
    volumes: false,
    flags: binFlags(plugins.binDir),
    confFiles: {
      '50-own.conflist': list('own', owned),
      '60-foreign.conflist': list('foreign', {}),
      '70-shy.conflist': list('shy', { ...owned, disableGC: true }, 'shy'),
    },
  });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  const run = async (name: string): Promise<string> => {
    return daemon.ok(['run', '-d', '--name', name, '--network', 'own', IMAGE, '--', 'sleep', '1000']);
  };
  const gcRuns = () => plugins.runs().filter(({ command }) => command === 'GC');

  await t.test('gives the attachments that are wanted, under both keys, and nothing of a container', async () => {
    const ids = [await run('one'), await run('two')];
    const collected = JSON.parse(await daemon.ok(['network', 'gc', 'own', '--format', 'json']));
    assert.deepEqual(collected, [{ network: 'own', released: [], gc: true, error: '' }]);
    const [gc, ...more] = gcRuns();
    assert.equal(more.length, 0);
    assert.ok(gc !== undefined);
    const request = JSON.parse(gc.stdin);
    const keyOf = (entry: { containerID: string; ifname: string }): string => `${entry.containerID} ${entry.ifname}`;
    const wanted = ids.map((id) => `${id} eth0`).sort();
    assert.deepEqual(request['cni.dev/valid-attachments'].map(keyOf).sort(), wanted);
    assert.deepEqual(request['cni.dev/attachments'], request['cni.dev/valid-attachments']);
    assert.equal(request.prevResult, undefined);
    for (const name of ['CNI_CONTAINERID', 'CNI_IFNAME', 'CNI_NETNS', 'CNI_ARGS'])
      assert.equal(gc.env[name], undefined);
  });

  await t.test('refuses a network that is not Berth\u2019s own, and passes over one that forbids GC', async () => {
    const refused = await daemon.cli(['network', 'gc', 'foreign']);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /foreign is not marked as Berth's own/);
    const all: { network: string; gc: boolean }[] = JSON.parse(await daemon.ok(['network', 'gc', '--format', 'json']));
    assert.deepEqual(
      all.map(({ network, gc }) => [network, gc]),
      [
        ['own', true],
        ['shy', false],
      ],
    );
    assert.deepEqual([...new Set(gcRuns().map(({ plugin }) => plugin))], ['modern']);
    assert.equal((await daemon.cli(['network', 'gc', 'nosuch'])).code, 1);
    for (const name of ['../x', 'a/b', '.', '-v', 'x'.repeat(300)]) {
      assert.match((await daemon.cli(['network', 'gc', '--', name])).stderr, /name: /, name);
    }
  });

  await t.test('first ends what an earlier run left', async () => {
    plugins.answers('modern', 'DEL', { cniVersion: '1.1.0', code: 100, msg: 'not now' }, 1);
    const id = JSON.parse(await daemon.ok(['inspect', 'two']))[0].id;
    // By then the engine pauses for seconds before it tries the DEL itself.
    const patient = daemon.line((line) => line['containerId'] === id && line['attempt'] === 3);
    assert.equal((await daemon.cli(['rm', '-f', 'two'])).code, 1);
    await patient;
    plugins.does('modern', 'DEL', undefined);
    const calls = plugins.calls().length;
    const [collected] = JSON.parse(await daemon.ok(['network', 'gc', 'own', '--format', 'json']));
    assert.deepEqual(collected.released, [id]);
    assert.deepEqual(plugins.calls().slice(calls), ['modern DEL', 'modern GC']);
    const request = JSON.parse(gcRuns().at(-1)?.stdin ?? '{}');
    assert.equal(request['cni.dev/valid-attachments'].length, 1, 'what is gone is not on the list');
  });

  await t.test('keeps ADD and DEL away while it runs', async () => {
    const begun = `${plugins.base}/collects`;
    plugins.does('modern', 'GC', `: >'${begun}'; until [ -e '${plugins.base}/go' ]; do sleep 0.05; done`);
    const collecting = daemon.ok(['network', 'gc', 'own']);
    const patience = AbortSignal.timeout(10_000);
    while (!existsSync(begun)) await sleep(10, undefined, { signal: patience });
    const calls = plugins.calls().length;
    const launching = run('late');
    const other = await daemon.ok(['run', '--rm', IMAGE, '--', 'echo', 'elsewhere']);
    assert.equal(other, 'elsewhere', 'other networks do not wait');
    assert.deepEqual(plugins.calls().slice(calls), [], 'ADD waits');
    await hostCommand('touch', [`${plugins.base}/go`], AbortSignal.timeout(5000));
    await Promise.all([collecting, launching]);
    assert.deepEqual(plugins.calls().slice(calls), ['modern ADD']);
  });

  await t.test('waits for an ADD that runs, and then counts what that made', async () => {
    const go = `${plugins.base}/added`;
    const answer = `echo '{"cniVersion":"1.1.0"}'`;
    plugins.does('modern', 'ADD', `: >'${plugins.base}/began'; until [ -e '${go}' ]; do sleep 0.05; done; ${answer}`);
    plugins.does('modern', 'GC', undefined);
    const calls = plugins.calls().length;
    const launching = run('slow');
    const began = AbortSignal.timeout(10_000);
    while (!existsSync(`${plugins.base}/began`)) await sleep(10, undefined, { signal: began });
    const before = gcRuns().length;
    const collecting = daemon.ok(['network', 'gc', 'own']);
    // Long enough for GC to have begun if nothing held it back.
    await daemon.ok(['run', '--rm', IMAGE, '--', 'true']);
    assert.equal(gcRuns().length, before, 'GC waits');
    await hostCommand('touch', [go], AbortSignal.timeout(5000));
    const [id] = await Promise.all([launching, collecting]);
    assert.deepEqual(plugins.calls().slice(calls), ['modern ADD', 'modern GC']);
    const request = JSON.parse(gcRuns().at(-1)?.stdin ?? '{}');
    const listed: { containerID: string }[] = request['cni.dev/valid-attachments'];
    assert.ok(listed.some(({ containerID }) => containerID === id));
  });

  await daemon.ok(['rm', '-f', 'one', 'late', 'slow']);
  await before.assertClean();
});

test('the cap on chains side by side', async (t) => {
  if (!needsNetworks(t)) return;
  const plugins = await RecordingPlugins.create(t, 'narrow');
  const inside = `${plugins.base}/inside`;
  const width = `ls ${inside} | wc -l`;
  // Each waits for a second one, at most 10 s: the last one may stay alone.
  const wait = `n=0; while [ $(${width}) -lt 2 ] && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done`;
  const count = `mkdir -p ${inside}; : > ${inside}/$$; ${wait}; sleep 0.2; ${width} >> ${plugins.base}/widths; rm ${inside}/$$`;
  plugins.does('narrow', 'ADD', `${count}; echo '{"cniVersion":"1.0.0"}'`);
  const daemon = await startDaemon(t, {
    volumes: false,
    flags: [...binFlags(plugins.binDir), '--cni-concurrency', '1', '--cni-concurrency', 'narrow=2'],
    confFiles: { '50-narrow.conflist': { cniVersion: '1.0.0', name: 'narrow', plugins: [{ type: 'narrow' }] } },
  });
  await daemon.importBusybox(IMAGE);
  const names = ['a', 'b', 'c', 'd', 'e', 'f'];
  await Promise.all(
    names.map((name) => daemon.ok(['run', '-d', '--name', name, '--network', 'narrow', IMAGE, '--', 'sleep', '1000'])),
  );
  const widths = await hostCommand('cat', [`${plugins.base}/widths`], AbortSignal.timeout(5000));
  assert.equal(widths.split('\n').length, names.length);
  assert.equal(Math.max(...widths.split('\n').map(Number)), 2);
});
