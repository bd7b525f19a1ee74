import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { readConfig } from '../src/config.ts';
import { MAX_ROOT_BYTES } from '../src/config-values.ts';
import { RuntimeError } from '../src/errors.ts';
import type { TestScope } from './support/cleanup.ts';
import { tempDir } from './support/temp-dir.ts';

/** A configuration file of its own, so that one of the host is never read. */
async function fileWith(t: TestScope, text: string, dropIns: Readonly<Record<string, string>> = {}): Promise<string> {
  const file = join(await tempDir(t), 'berthd.toml');
  writeFileSync(file, text);
  mkdirSync(`${file}.d`);
  for (const [name, content] of Object.entries(dropIns)) writeFileSync(join(`${file}.d`, name), content);
  return file;
}

function refused(argv: readonly string[]): RuntimeError {
  try {
    readConfig(argv, '1.0.0');
  } catch (error) {
    assert.ok(error instanceof RuntimeError, String(error));
    return error;
  }
  assert.fail(`accepted ${argv.join(' ')}`);
}

describe('readConfig', () => {
  test('has the documented defaults', async (t) => {
    const config = readConfig(['--config', await fileWith(t, '')], '1.0.0');
    assert.deepEqual(config, {
      root: '/var/lib/berth',
      run: '/run/berth',
      socketPath: '/run/berth/berthd.sock',
      cniConfDirs: ['/etc/cni/net.d', '/etc/cni'],
      cniBinDirs: ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'],
      cniTimeoutsMs: {},
      cniConcurrency: { everywhere: 0, networks: new Map() },
      cniCheckIntervalMs: 0,
      networkPools: ['10.64.0.0/12'],
      csiPluginDir: '/run/berth/csi',
      csiConfDir: '/etc/berth/csi.d',
      csiRegistrationDir: '/run/berth/csi-registry',
      csiLocalDriver: true,
      csiLocalAttach: false,
      csiLocalMaxVolumes: 0,
      volumeClassDir: '/etc/berth/volumes.d',
      csiControllerCalls: 1,
      csiConditionIntervalMs: 60_000,
      runtime: 'auto',
      cgroupParent: 'berth',
      logLevel: 'info',
    });
  });

  test('writes no cache for others unless told where', async (t) => {
    const file = await fileWith(t, '');
    assert.equal(
      readConfig(['--config', file, '--cni-cache-dir', '/var/lib/cni/'], '1.0.0').cniCacheDir,
      '/var/lib/cni',
    );
    assert.match(refused(['--config', file, '--cni-cache-dir', 'cni']).message, /^cni-cache-dir: /);
  });

  test('takes flags over drop-in files over the file', async (t) => {
    const file = await fileWith(t, 'root = "/a"\nrun = "/b"\nruntime = "runc"\nlog-level = "warn"\n', {
      '20-late.toml': 'run = "/late"\n',
      '10-early.toml': 'run = "/early"\nruntime = "crun"\n',
    });
    const config = readConfig(['--config', file, '--log-level', 'debug'], '1.0.0');
    assert.equal(config.root, '/a');
    assert.equal(config.run, '/late');
    assert.equal(config.runtime, 'crun');
    assert.equal(config.logLevel, 'debug');
  });

  test('takes limits of CNI commands and refuses what is none', async (t) => {
    const file = await fileWith(t, 'cni-timeout = ["ADD=90"]\ncni-concurrency = 4\ncni-check-interval = 60\n');
    const config = readConfig(['--config', file, '--cni-timeout', 'DEL=5', '--cni-timeout', 'GC=7'], '1.0.0');
    assert.deepEqual(config.cniTimeoutsMs, { DEL: 5000, GC: 7000 });
    assert.deepEqual(config.cniConcurrency, { everywhere: 4, networks: new Map() });
    assert.equal(config.cniCheckIntervalMs, 60_000);
    assert.deepEqual(readConfig(['--config', file], '1.0.0').cniTimeoutsMs, { ADD: 90_000 });
    for (const bad of ['ADD', 'ADD=', 'ADD=0', 'ADD=9999', 'add=5', 'RUN=5', 'ADD=5=6', 'ADD=-1', '__proto__=5']) {
      assert.match(refused(['--config', file, '--cni-timeout', bad]).message, /^cni-timeout/);
    }
    const flags = ['8', 'front=2', 'back.two=0', 'front=3'].map((value) => `--cni-concurrency=${value}`);
    const networks = new Map([
      ['front', 3],
      ['back.two', 0],
    ]);
    assert.deepEqual(readConfig(['--config', file, ...flags], '1.0.0').cniConcurrency, { everywhere: 8, networks });
    const listed = await fileWith(t, 'cni-concurrency = [5, "front=1"]\n');
    assert.deepEqual(readConfig(['--config', listed], '1.0.0').cniConcurrency, {
      everywhere: 5,
      networks: new Map([['front', 1]]),
    });
    for (const bad of ['x', '-1', '1.5', '', 'front=', '=2', 'front=-1', '../x=2', 'front=2=3', 'front=2\n']) {
      assert.match(refused(['--config', file, `--cni-concurrency=${bad}`]).message, /^cni-concurrency/);
    }
  });

  test('takes a limit of calls to controllers and refuses what is none', async (t) => {
    const file = await fileWith(t, 'csi-controller-calls = 4\n');
    assert.equal(readConfig(['--config', file], '1.0.0').csiControllerCalls, 4);
    assert.equal(readConfig(['--config', file, '--csi-controller-calls', '8'], '1.0.0').csiControllerCalls, 8);
    for (const bad of ['0', '-1', '1001', '1.5', 'x', '']) {
      assert.match(refused(['--config', file, `--csi-controller-calls=${bad}`]).message, /^csi-controller-calls: /);
    }
  });

  test('says how the embedded driver is run', async (t) => {
    const file = await fileWith(t, 'csi-local-attach = true\n');
    const config = readConfig(['--config', file, '--csi-local-max-volumes', '3'], '1.0.0');
    assert.deepEqual([config.csiLocalAttach, config.csiLocalMaxVolumes], [true, 3]);
    for (const bad of ['-1', '1.5', 'x', '', '1000000']) {
      assert.match(refused(['--config', file, `--csi-local-max-volumes=${bad}`]).message, /^csi-local-max-volumes: /);
    }
  });

  test('takes how often plugins are asked about their volumes, in seconds', async (t) => {
    const file = await fileWith(t, 'csi-condition-interval = 0\n');
    assert.equal(readConfig(['--config', file], '1.0.0').csiConditionIntervalMs, 0);
    const flags = ['--config', file, '--csi-condition-interval', '5'];
    assert.equal(readConfig(flags, '1.0.0').csiConditionIntervalMs, 5000);
    for (const bad of ['-1', '1.5', 'x', '']) {
      assert.match(refused(['--config', file, `--csi-condition-interval=${bad}`]).message, /^csi-condition-interval: /);
    }
  });

  test('refuses a root below which paths of volumes are too long for plugins', async (t) => {
    const file = await fileWith(t, '');
    const longest = `/${'r'.repeat(MAX_ROOT_BYTES - 1)}`;
    assert.equal(readConfig(['--config', file, '--root', `${longest}/`], '1.0.0').root, longest);
    const { message } = refused(['--config', file, '--root', `${longest}r`]);
    assert.match(message, /^root: .* has 66 bytes, at most 65 are possible: paths of volumes below it .* 128 bytes/);
  });

  test('lets every directory of CNI be chosen', async (t) => {
    const flags = {
      ...{ '--root': '/srv/root', '--run': '/srv/run', '--cni-conf-dir': '/srv/conf', '--cni-bin-dir': '/srv/bin' },
      '--cni-cache-dir': '/srv/cache',
    };
    const config = readConfig(['--config', await fileWith(t, ''), ...Object.entries(flags).flat()], '1.0.0');
    const { root, run, socketPath, cniConfDirs, cniBinDirs, cniCacheDir } = config;
    assert.deepEqual(
      { root, run, socketPath, cniConfDirs, cniBinDirs, cniCacheDir },
      {
        ...{ root: '/srv/root', run: '/srv/run', socketPath: '/srv/run/berthd.sock' },
        ...{ cniConfDirs: ['/srv/conf'], cniBinDirs: ['/srv/bin'], cniCacheDir: '/srv/cache' },
      },
    );
  });

  test('takes pools of subnets and refuses what is none', async (t) => {
    const file = await fileWith(t, '');
    const flags = ['--config', file, '--network-pool', '10.90.0.0/16', '--network-pool', '192.168.7.0/24'];
    assert.deepEqual(readConfig(flags, '1.0.0').networkPools, ['10.90.0.0/16', '192.168.7.0/24']);
    for (const bad of ['', '10.0.0.0', '10.0.0.0/7', '10.0.0.0/31', '10.0.0/16', 'fd00::/48', '10.0.0.0/16/1']) {
      assert.match(refused(['--config', file, `--network-pool=${bad}`]).message, /^network-pool/);
    }
  });

  test('puts the socket and the plugin directory below the run directory', async (t) => {
    const config = readConfig(['--config', await fileWith(t, ''), '--run', '/srv/run/'], '1.0.0');
    assert.equal(config.run, '/srv/run');
    assert.equal(config.socketPath, '/srv/run/berthd.sock');
    assert.equal(config.csiPluginDir, '/srv/run/csi');
  });

  test('collects repeated directories and switches the local driver off', async (t) => {
    const argv = [
      '--config',
      await fileWith(t, ''),
      '--cni-conf-dir',
      '/x',
      '--cni-conf-dir',
      '/y',
      '--no-csi-local-driver',
    ];
    const config = readConfig(argv, '1.0.0');
    assert.deepEqual(config.cniConfDirs, ['/x', '/y']);
    assert.equal(config.csiLocalDriver, false);
  });

  const REFUSALS: readonly (readonly [argv: readonly string[], field: string])[] = [
    [['--root', 'relative'], 'root'],
    [['--root', '/'], 'root'],
    [['--root', '/a/..'], 'root'],
    [['--run', '/a:b'], 'run'],
    [['--run', '/a\nb'], 'run'],
    [['--root', '/a,b'], 'root'],
    [['--root', ''], 'root'],
    [['--listen', 'tcp://127.0.0.1:80'], 'listen'],
    [['--listen', `unix:///${'x'.repeat(120)}`], 'listen'],
    [['--cgroup-parent', '../other'], 'cgroup-parent'],
    [['--cgroup-parent', '/'], 'cgroup-parent'],
    [['--cgroup-parent', `${'x'.repeat(65)}`], 'cgroup-parent'],
    [['--cgroup-parent', '-v'], 'cgroup-parent'],
  ];
  for (const [argv, field] of REFUSALS) {
    test(`refuses ${JSON.stringify(argv).slice(0, 60)} and names the field`, async (t) => {
      const error = refused(['--config', await fileWith(t, ''), ...argv]);
      assert.equal(error.code, 'INVALID_ARGUMENT');
      assert.match(error.message, new RegExp(`^${field}: `));
    });
  }

  test('names an unknown key, a wrong type and the place of a syntax error in a file', async (t) => {
    assert.match(refused(['--config', await fileWith(t, 'rooot = "/a"\n')]).message, /rooot/);
    assert.match(refused(['--config', await fileWith(t, 'cni-conf-dir = "/a"\n')]).message, /^cni-conf-dir: /);
    const file = await fileWith(t, 'root = \n');
    assert.ok(refused(['--config', file]).message.includes(file));
  });

  test('refuses a configuration file that was named but is not there', () => {
    assert.match(refused(['--config', '/nonexistent/berthd.toml']).message, /\/nonexistent\/berthd\.toml/);
  });
});
