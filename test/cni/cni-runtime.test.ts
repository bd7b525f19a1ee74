import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Attachment } from '../../src/cni/attachment.ts';
import { CniRuntime } from '../../src/cni/cni-runtime.ts';
import type { ResolvedNetwork } from '../../src/cni/network.ts';
import { statusOf } from '../../src/cni/network-status.ts';
import { PluginPath } from '../../src/cni/plugin-path.ts';
import { CniError } from '../../src/cni/protocol.ts';
import { RuntimeError } from '../../src/errors.ts';
import { HOST_ENV } from '../../src/host-command.ts';
import { identify } from '../../src/process-identity.ts';
import type { TestScope } from '../support/cleanup.ts';
import { RecordingPlugins } from '../support/recording-plugin.ts';
import { silent, soon } from './cni-fixture.ts';

const ID = '0123456789abcdef0123456789abcdef';

function network(change: Partial<ResolvedNetwork> = {}): ResolvedNetwork {
  return {
    name: 'net',
    cniVersion: '1.0.0',
    disableCheck: false,
    disableGC: false,
    owned: false,
    plugins: [
      { type: 'first', keep: { any: 'thing' }, 'cni.dev/x': 1, ipam: { type: 'addresses' } },
      { type: 'second', capabilities: { portMappings: true, mac: false } },
      { type: 'third' },
    ],
    ...change,
  };
}

function attachment(change: Partial<Attachment> = {}): Attachment {
  return {
    containerId: ID,
    netnsPath: '/run/netns/box',
    interfaceName: 'eth0',
    network: network(),
    args: [
      ['IgnoreUnknown', '1'],
      ['WHO', 'berth'],
    ],
    capabilityArgs: {
      portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }],
      mac: '02:00:00:00:00:01',
    },
    ...change,
  };
}

async function setUp(t: TestScope, deadlineMs?: number): Promise<{ plugins: RecordingPlugins; cni: CniRuntime }> {
  const plugins = await RecordingPlugins.create(t, 'first', 'second', 'third', 'addresses');
  const deadlinesMs = deadlineMs === undefined ? {} : { ADD: deadlineMs, DEL: deadlineMs };
  const cni = new CniRuntime({ plugins: new PluginPath([plugins.binDir]), log: silent, deadlinesMs });
  return { plugins, cni };
}

function ignore(): undefined {
  return undefined;
}

const PORTS = '{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}';

/** What `second` answers: `third` is to be given exactly this. */
const RESULT = {
  cniVersion: '1.0.0',
  interfaces: [{ name: 'eth0', sandbox: '/run/netns/box', odd: true }],
  ips: [{ address: '10.87.10.2/24', interface: 0 }],
};

describe('CniRuntime.add', () => {
  test('runs the chain in order and hands each result to the next, byte for byte', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.answers('second', 'ADD', RESULT);
    plugins.answers('third', 'ADD', { ...RESULT, dns: { nameservers: ['10.87.10.1'] } });
    const result = await cni.add(attachment(), ignore, soon());
    assert.deepEqual(result, { ...RESULT, dns: { nameservers: ['10.87.10.1'] } });
    const first = '{"cniVersion":"1.0.0","ips":[{"address":"10.87.10.2/24"}]}';
    assert.deepEqual(plugins.calls(), ['first ADD', 'second ADD', 'third ADD']);
    const got = plugins.runs().map(({ stdin }) => JSON.parse(stdin));
    assert.deepEqual(got, [
      { type: 'first', keep: { any: 'thing' }, ipam: { type: 'addresses' }, cniVersion: '1.0.0', name: 'net' },
      {
        type: 'second',
        cniVersion: '1.0.0',
        name: 'net',
        runtimeConfig: JSON.parse(PORTS),
        prevResult: JSON.parse(first),
      },
      { type: 'third', cniVersion: '1.0.0', name: 'net', prevResult: RESULT },
    ]);
    assert.equal(
      plugins.runs()[1]?.stdin,
      `{"type":"second","cniVersion":"1.0.0","name":"net","runtimeConfig":${PORTS},"prevResult":${first}}`,
    );
  });

  test('gives every plugin the same variables and no other part of the environment', async (t) => {
    process.env['BERTH_TEST_SECRET'] = 'not for plugins';
    t.after(() => delete process.env['BERTH_TEST_SECRET']);
    const { plugins, cni } = await setUp(t);
    await cni.add(attachment(), ignore, soon());
    for (const { env } of plugins.runs()) {
      assert.deepEqual(env, {
        ...HOST_ENV,
        CNI_COMMAND: 'ADD',
        CNI_CONTAINERID: ID,
        CNI_NETNS: '/run/netns/box',
        CNI_IFNAME: 'eth0',
        CNI_ARGS: 'IgnoreUnknown=1;WHO=berth',
        CNI_PATH: plugins.binDir,
      });
    }
  });

  test('leaves a static runtimeConfig as it stands where nothing is offered', async (t) => {
    const { plugins, cni } = await setUp(t);
    const own = { runtimeConfig: { mac: '02:00:00:00:00:09' } };
    const chain = [
      { type: 'first', ...own },
      { type: 'second', ...own, capabilities: { mac: true } },
    ];
    await cni.add(attachment({ network: network({ plugins: chain }) }), ignore, soon());
    const given = plugins.runs().map(({ stdin }) => JSON.parse(stdin).runtimeConfig);
    assert.deepEqual(given, [{ mac: '02:00:00:00:00:09' }, { mac: '02:00:00:00:00:01' }]);
  });

  test('stops at the first plugin that fails and says which, why and with which code', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.answers('second', 'ADD', { code: 11, msg: 'pool is\nbusy', details: 'come back' }, 1);
    await assert.rejects(cni.add(attachment(), ignore, soon()), (error) => {
      assert.ok(error instanceof CniError);
      assert.deepEqual([error.plugin, error.command, error.cniCode, error.code], ['second', 'ADD', 11, 'UNAVAILABLE']);
      assert.equal(error.message, 'CNI plugin second failed ADD (code 11): pool is busy; come back');
      return true;
    });
    assert.deepEqual(plugins.calls(), ['first ADD', 'second ADD']);
  });

  test('runs nothing when a plugin of the chain, or a delegate, is missing', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.uninstall('addresses');
    await assert.rejects(cni.add(attachment(), ignore, soon()), { code: 'NOT_FOUND', message: /CNI plugin addresses/ });
    assert.deepEqual(plugins.calls(), []);
  });

  test('runs nothing outside the plugin directories, whatever name leads there (K17)', async (t) => {
    const { plugins, cni } = await setUp(t);
    const canary = join(plugins.base, 'canary');
    writeFileSync(canary, `#!/bin/sh\n: > '${plugins.base}/executed'\n`, { mode: 0o755 });
    symlinkSync('../canary', join(plugins.binDir, 'link'));
    symlinkSync(canary, join(plugins.binDir, 'far'));
    for (const type of ['../canary', canary, './../canary', 'link', 'far', '../bin/../canary', 'first/../../canary']) {
      for (const chain of [
        [{ type }],
        [{ type: 'first', ipam: { type } }],
        [{ type: 'first', IPAM: { Type: type } }],
      ]) {
        const text = JSON.stringify(chain);
        const hostile = attachment({ network: network({ plugins: chain }) });
        await assert.rejects(cni.add(hostile, ignore, soon()), { message: /CNI plugin|plugin type/ }, text);
      }
      // What is recorded is not believed either.
      const recorded = attachment({ network: network({ plugins: [{ type }] }) });
      await assert.rejects(cni.del(recorded, undefined, soon()), { message: /CNI plugin|plugin type/ }, type);
    }
    assert.equal(existsSync(join(plugins.base, 'executed')), false);
    assert.deepEqual(plugins.calls(), []);
  });

  test('refuses a result that is none', async (t) => {
    const { plugins, cni } = await setUp(t);
    const twice = '{"cniVersion":"1.0.0"}{"cniVersion":"1.0.0"}';
    const unknown = ['{"cniVersion":"9.9.9"}', '{"cniVersion":"x"}', '{"cniVersion":1}'];
    const bad = ['', '{', '"text"', '[]', 'null', '{"ips":[{"address":"10.0.0.1"}]}', '{"ips":7}', twice, ...unknown];
    for (const answer of bad) {
      plugins.does('first', 'ADD', `printf '%s' '${answer}'`);
      await assert.rejects(cni.add(attachment(), ignore, soon()), { code: 'INTERNAL', message: /first/ }, answer);
    }
  });

  test('says what is wrong with a result', async (t) => {
    const { plugins, cni } = await setUp(t);
    const reasons = {
      '{"ips":[{"address":"10.0.0.1"}]}': /ips\.0\.address: /,
      '{"cniVersion":"9.9"}': /"9\.9" is unknown/,
    };
    for (const [answer, message] of Object.entries(reasons)) {
      plugins.does('first', 'ADD', `printf '%s' '${answer}'`);
      await assert.rejects(cni.add(attachment(), ignore, soon()), { message });
    }
  });

  test('takes a result with 10,000 routes, and hands all of them on', async (t) => {
    const { plugins, cni } = await setUp(t);
    const routes = Array.from({ length: 10_000 }, (_, index) => ({
      dst: `10.${index >> 8}.${index & 255}.0/24`,
      gw: '10.87.10.1',
    }));
    plugins.answers('first', 'ADD', { ...RESULT, routes });
    plugins.does('third', 'ADD', 'cat "$run/stdin" | sed \'s/.*"prevResult"://; s/}$//\'');
    plugins.does('second', 'ADD', 'cat "$run/stdin" | sed \'s/.*"prevResult"://; s/}$//\'');
    const result = await cni.add(attachment(), ignore, soon());
    assert.deepEqual(result.routes, routes);
    await cni.del(attachment(), result, soon());
    assert.deepEqual(JSON.parse(plugins.runs().at(-1)?.stdin ?? '').prevResult.routes, routes);
  });

  test('keeps names of interfaces in a result as data, whatever they are', async (t) => {
    const { plugins, cni } = await setUp(t);
    const interfaces = [{ name: '../../etc/passwd', sandbox: '/run/netns/box' }, { name: 'a/b\n' }];
    plugins.answers('third', 'ADD', { ...RESULT, interfaces });
    const result = await cni.add(attachment(), ignore, soon());
    assert.deepEqual(result.interfaces, interfaces);
    const entry = { ...attachment(), state: 'added', result } as const;
    const [status] = statusOf({ mode: 'networks', bootId: '', netnsPath: '/run/netns/box', attachments: [entry] });
    assert.deepEqual([status?.interfaceName, status?.addresses], ['eth0', []], 'none of them is the one asked for');
  });

  test('reports a script without an interpreter', async (t) => {
    const { plugins, cni } = await setUp(t);
    writeFileSync(join(plugins.binDir, 'first'), '#!/nowhere/interpreter\n');
    await assert.rejects(cni.add(attachment(), ignore, soon()), {
      name: 'RuntimeError',
      message: /bin\/first cannot be run/,
    });
  });

  test('reports a plugin that fails without saying why', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.does('first', 'ADD', 'echo "no such device" >&2; exit 3');
    await assert.rejects(cni.add(attachment(), ignore, soon()), {
      code: 'UNKNOWN',
      message: /first failed ADD \(code 0\): exit code 3; no such device/,
    });
  });

  test('converts results for plugins of an older version', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.answers('first', 'ADD', RESULT);
    await cni.add(attachment({ network: network({ cniVersion: '0.4.0' }) }), ignore, soon());
    const previous = JSON.parse(plugins.runs()[1]?.stdin ?? '').prevResult;
    assert.equal(previous.cniVersion, '0.4.0');
    assert.equal(previous.ips[0].version, '4');
  });
});

describe('CniRuntime.del', () => {
  test('runs the chain in reverse and gives every plugin the final result and the arguments of ADD', async (t) => {
    const { plugins, cni } = await setUp(t);
    await cni.del(attachment(), RESULT, soon());
    assert.deepEqual(plugins.calls(), ['third DEL', 'second DEL', 'first DEL']);
    for (const { stdin, env } of plugins.runs()) {
      assert.deepEqual(JSON.parse(stdin).prevResult, RESULT);
      assert.equal(env['CNI_ARGS'], 'IgnoreUnknown=1;WHO=berth');
    }
    assert.deepEqual(JSON.parse(plugins.runs()[1]?.stdin ?? '').runtimeConfig, JSON.parse(PORTS));
  });

  test('goes without result and namespace when there are none', async (t) => {
    const { plugins, cni } = await setUp(t);
    await cni.del(attachment({ netnsPath: '' }), undefined, soon());
    assert.equal(plugins.runs().length, 3);
    for (const { stdin, env } of plugins.runs()) {
      assert.equal(Object.hasOwn(JSON.parse(stdin), 'prevResult'), false);
      assert.equal(env['CNI_NETNS'], '');
    }
  });

  test('gives no result to versions before 0.4.0', async (t) => {
    const { plugins, cni } = await setUp(t);
    await cni.del(attachment({ network: network({ cniVersion: '0.3.1' }) }), RESULT, soon());
    assert.equal(Object.hasOwn(JSON.parse(plugins.runs()[0]?.stdin ?? ''), 'prevResult'), false);
  });

  test('takes an unknown container (code 3) for success', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.answers('third', 'DEL', { code: 3, msg: 'never heard of it' }, 1);
    await cni.del(attachment(), RESULT, soon());
    assert.equal(plugins.calls().length, 3);
  });

  test('stops at the first failure, to be repeated', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.answers('second', 'DEL', { code: 100, msg: 'no' }, 1);
    await assert.rejects(cni.del(attachment(), RESULT, soon()), { code: 'UNKNOWN' });
    assert.deepEqual(plugins.calls(), ['third DEL', 'second DEL']);
  });
});

describe('CniRuntime.check, status, gc, version', () => {
  test('CHECK gives every plugin the final result, in order', async (t) => {
    const { plugins, cni } = await setUp(t);
    await cni.check(attachment(), RESULT, soon());
    assert.deepEqual(plugins.calls(), ['first CHECK', 'second CHECK', 'third CHECK']);
    assert.deepEqual(JSON.parse(plugins.runs()[0]?.stdin ?? '').prevResult, RESULT);
  });

  test('CHECK is not run where the network forbids it and refused below 0.4.0', async (t) => {
    const { plugins, cni } = await setUp(t);
    await cni.check(attachment({ network: network({ disableCheck: true }) }), RESULT, soon());
    await assert.rejects(cni.check(attachment({ network: network({ cniVersion: '0.3.1' }) }), RESULT, soon()), {
      code: 'UNIMPLEMENTED',
    });
    assert.deepEqual(plugins.calls(), []);
  });

  test('STATUS and GC are for networks of version 1.1.0', async (t) => {
    const { plugins, cni } = await setUp(t);
    await cni.status(network(), soon());
    await cni.gc(network(), () => [], soon());
    await cni.gc(network({ cniVersion: '1.1.0', disableGC: true }), () => [], soon());
    assert.deepEqual(plugins.calls(), []);
    plugins.answers('second', 'STATUS', { code: 50, msg: 'no link' }, 1);
    await assert.rejects(cni.status(network({ cniVersion: '1.1.0' }), soon()), { code: 'UNAVAILABLE' });
    assert.deepEqual(plugins.calls(), ['first STATUS', 'second STATUS']);
  });

  test('GC asks every plugin, goes on after a failure and lists what is wanted under both keys', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.answers('first', 'GC', { code: 100, msg: 'jammed' }, 1);
    const valid = [{ containerId: ID, interfaceName: 'eth0' }];
    await assert.rejects(
      cni.gc(network({ cniVersion: '1.1.0' }), () => valid, soon()),
      { message: /jammed/ },
    );
    assert.deepEqual(plugins.calls(), ['first GC', 'second GC', 'third GC']);
    const request = JSON.parse(plugins.runs()[2]?.stdin ?? '');
    assert.deepEqual(request['cni.dev/valid-attachments'], [{ containerID: ID, ifname: 'eth0' }]);
    assert.deepEqual(request['cni.dev/attachments'], request['cni.dev/valid-attachments']);
    assert.equal(plugins.runs()[2]?.env['CNI_CONTAINERID'], undefined);
  });

  test('VERSION tells what a plugin speaks', async (t) => {
    const { plugins, cni } = await setUp(t);
    assert.deepEqual(await cni.version('first', soon()), ['0.4.0', '1.0.0', '1.1.0']);
    plugins.does('first', 'VERSION', 'echo {}');
    assert.deepEqual(await cni.version('first', soon()), ['0.1.0', '0.2.0']);
  });
});

describe('a plugin that does not end', () => {
  test('is killed with its group at the deadline, while others go on', async (t) => {
    const { plugins, cni } = await setUp(t, 2000);
    plugins.does('first', 'ADD', 'sleep 30 & echo $! >"$run/child"; wait');
    plugins.install('healthy');
    const healthy = network({ name: 'other', plugins: [{ type: 'healthy' }] });
    const hung = assert.rejects(cni.add(attachment(), ignore, soon()), { code: 'DEADLINE_EXCEEDED', message: /first/ });
    await cni.add(attachment({ network: healthy }), ignore, soon());
    await hung;
    const run = plugins.runs().findIndex(({ plugin }) => plugin === 'first') + 1;
    const child = Number(readFileSync(`${plugins.base}/runs/${String(run).padStart(3, '0')}/child`, 'utf8'));
    const signal = AbortSignal.timeout(5000);
    while (identify(child) !== undefined) await sleep(5, undefined, { signal });
    assert.equal(plugins.calls().includes('second ADD'), false);
  });

  test('is killed when the caller gives up', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.does('first', 'ADD', 'exec sleep 30');
    const caller = new AbortController();
    const adding = cni.add(attachment(), ignore, caller.signal);
    caller.abort(new RuntimeError('CANCELLED', 'stopped by a test'));
    await assert.rejects(adding, { code: 'CANCELLED' });
  });

  test('has ended when it exits, though a process it left behind holds its stdout', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.does('first', 'ADD', `sleep 20 & echo $! >"$run/child"; printf '{"cniVersion":"1.0.0"}'`);
    const startedMs = performance.now();
    await cni.add(attachment({ network: network({ plugins: [{ type: 'first' }] }) }), ignore, soon());
    assert.ok(performance.now() - startedMs < 5000);
    process.kill(Number(readFileSync(`${plugins.base}/runs/001/child`, 'utf8')), 'SIGKILL');
  });

  test('may leave a daemon behind, which goes on', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.does('first', 'ADD', `setsid sleep 20 & echo $! >"$run/child"; printf '{"cniVersion":"1.0.0"}'`);
    await cni.add(attachment({ network: network({ plugins: [{ type: 'first' }] }) }), ignore, soon());
    const child = Number(readFileSync(`${plugins.base}/runs/001/child`, 'utf8'));
    assert.notEqual(identify(child), undefined);
    process.kill(child, 'SIGKILL');
  });

  test('may say much on stderr without being kept for it', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.does('first', 'ADD', 'head -c 9000000 /dev/zero | tr "\\0" x >&2; echo oops >&2; exit 1');
    await assert.rejects(cni.add(attachment(), ignore, soon()), (error) => {
      assert.ok(error instanceof CniError);
      assert.ok(error.message.length < 2000 && error.details.length <= 4 * 1024 * 1024, `${error.details.length}`);
      return true;
    });
  });

  test('is run as soon as nobody writes its file any more', async (t) => {
    const { plugins, cni } = await setUp(t);
    const fd = openSync(join(plugins.binDir, 'first'), 'r+');
    const adding = cni.add(attachment({ network: network({ plugins: [{ type: 'first' }] }) }), ignore, soon());
    setTimeout(() => closeSync(fd), 20);
    await adding;
    assert.deepEqual(plugins.calls(), ['first ADD']);
  });

  test('is killed when it writes without end', async (t) => {
    const { plugins, cni } = await setUp(t);
    plugins.does('first', 'ADD', 'exec cat /dev/zero');
    await assert.rejects(cni.add(attachment(), ignore, soon()), { code: 'INTERNAL', message: /wrote more than/ });
  });
});

describe('what ADD refuses before anything runs (K18, K19)', () => {
  test('arguments that would be read as more than one', async (t) => {
    const { plugins, cni } = await setUp(t);
    for (const value of ['x;IP=10.0.0.1', 'a=b', 'a\nb', '\0']) {
      await assert.rejects(cni.add(attachment({ args: [['KEY', value]] }), ignore, soon()), {
        code: 'INVALID_ARGUMENT',
        message: /^CNI argument: /,
      });
      await assert.rejects(cni.add(attachment({ args: [[value, 'x']] }), ignore, soon()), { code: 'INVALID_ARGUMENT' });
      const capabilityArgs = { portMappings: [{ hostPort: 80, containerPort: 80, protocol: 'tcp', hostIP: value }] };
      await assert.rejects(cni.add(attachment({ capabilityArgs }), ignore, soon()), {
        code: 'INVALID_ARGUMENT',
        message: /^capability argument: /,
      });
    }
    assert.deepEqual(plugins.calls(), []);
  });

  test('names that are no names', async (t) => {
    const { plugins, cni } = await setUp(t);
    for (const bad of ['../x', 'a/b', 'a\nb', 'a\0', 'x'.repeat(300), '-v', '.', '..', '']) {
      await assert.rejects(
        cni.add(attachment({ containerId: bad }), ignore, soon()),
        { code: 'INVALID_ARGUMENT' },
        bad,
      );
      await assert.rejects(cni.add(attachment({ network: network({ name: bad }) }), ignore, soon()), {
        code: 'INVALID_ARGUMENT',
      });
    }
    for (const bad of ['', '.', '..', 'a/b', 'a:b', 'a b', 'eth0\n', 'x'.repeat(16), 'ü'.repeat(8)]) {
      await assert.rejects(
        cni.add(attachment({ interfaceName: bad }), ignore, soon()),
        { code: 'INVALID_ARGUMENT' },
        bad,
      );
    }
    for (const bad of ['', 'run/x', '/run/x\n']) {
      await assert.rejects(cni.add(attachment({ netnsPath: bad }), ignore, soon()), { code: 'INVALID_ARGUMENT' }, bad);
    }
    assert.deepEqual(plugins.calls(), []);
  });
});
