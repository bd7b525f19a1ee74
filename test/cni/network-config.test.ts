import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CniRuntime } from '../../src/cni/cni-runtime.ts';
import { networkChecks } from '../../src/cni/network-checks.ts';
import { NetworkConfigs } from '../../src/cni/network-config.ts';
import { PluginPath } from '../../src/cni/plugin-path.ts';
import { PluginVersions } from '../../src/cni/plugin-versions.ts';
import type { TestScope } from '../support/cleanup.ts';
import { RecordingPlugins } from '../support/recording-plugin.ts';
import { silent, soon } from './cni-fixture.ts';

const SHIPPED = join(import.meta.dirname, '../../cni-conf');

interface Setup {
  readonly configs: NetworkConfigs;
  readonly plugins: RecordingPlugins;
  readonly path: PluginPath;
  readonly dir: string;
  readonly write: (file: string, value: unknown) => void;
}

async function setUp(t: TestScope, ...types: readonly string[]): Promise<Setup> {
  const plugins = await RecordingPlugins.create(t, ...types);
  const dir = join(plugins.base, 'net.d');
  mkdirSync(dir);
  const path = new PluginPath([plugins.binDir]);
  const absent = join(plugins.base, 'absent');
  const configs = new NetworkConfigs({ confDirs: [absent, dir], fallbackDir: SHIPPED, plugins: path });
  const write = (file: string, value: unknown) =>
    writeFileSync(join(dir, file), typeof value === 'string' ? value : JSON.stringify(value));
  return { configs, plugins, path, dir, write };
}

function list(name: string, ...types: readonly string[]): unknown {
  return { cniVersion: '1.0.0', name, plugins: types.map((type) => ({ type })) };
}

describe('NetworkConfigs', () => {
  test('lists every file in byte order, the broken ones with their reason', async (t) => {
    const { configs, write } = await setUp(t, 'good');
    write('30-z.conflist', list('zed', 'good'));
    write('20-B.conflist', list('broken', 'absent'));
    write('20-a.conflist', '{ "name": ');
    write('10-none.conflist', { cniVersion: '1.0.0', name: 'empty', plugins: [] });
    write('40-z.conflist', list('zed', 'good'));
    write('README.md', 'no configuration');
    const found = configs
      .list()
      .map(({ file, name, state, isDefault }) => [file.split('/').at(-1), name, state, isDefault]);
    assert.deepEqual(found, [
      ['10-none.conflist', '', 'invalid', false],
      ['20-B.conflist', 'broken', 'missing-plugin', false],
      ['20-a.conflist', '', 'invalid', false],
      ['30-z.conflist', 'zed', 'ready', true],
      ['40-z.conflist', 'zed', 'shadowed', false],
    ]);
    const reasons = configs.list().map(({ reason }) => reason);
    assert.match(reasons[0] ?? '', /chain is empty/);
    assert.match(reasons[1] ?? '', /CNI plugin absent is not in/);
    assert.match(reasons[2] ?? '', /not JSON/);
    assert.match(reasons[4] ?? '', /30-z\.conflist has the same name/);
  });

  test('reads the disk at every use', async (t) => {
    const { configs, plugins, write, dir } = await setUp(t, 'good');
    write('10-net.conflist', list('net', 'good'));
    assert.equal(configs.load('net').plugins.length, 1);
    write('10-net.conflist', list('net', 'good', 'good'));
    assert.equal(configs.load('net').plugins.length, 2);
    plugins.uninstall('good');
    assert.throws(() => configs.load('net'), { code: 'FAILED_PRECONDITION', message: /good/ });
    rmSync(join(dir, '10-net.conflist'));
    assert.throws(() => configs.load('net'), { code: 'NOT_FOUND', message: /"net" is unknown/ });
  });

  test('tells the line of what is wrong, in plugin folders too', async (t) => {
    const { configs, write, dir } = await setUp(t, 'good');
    const reason = (text: string): string => {
      write('10-net.conflist', text);
      return configs.list()[0]?.reason ?? '';
    };
    const head = '{\n  "cniVersion": "1.0.0",\n  "name": "net",\n';
    assert.match(
      reason(`${head}  "plugins": [\n    { "type": "good" },\n    { "type": 7 }\n  ]\n}`),
      /^line 6: plugins\.1\.type/,
    );
    assert.match(reason(`${head}  "plugins": [\n    { "type": "good" } x\n  ]\n}`), /^line 5: not JSON/);
    assert.match(reason(`${head}  "plugins": [\n`), /^line 5: not JSON/);
    assert.match(reason(`${head}  "disableCheck": 1,\n  "plugins": []\n}\n`), /^line 4: disableCheck/);
    assert.match(reason(`${head}  "plugins": [{ "type": "good" }]\n}\n{}`), /^line 6: not JSON/);
    assert.match(reason('\n{\n"name": "net", "name": "../x" }'), /^line 3: name/);
    assert.match(
      reason('{ "name": "net",\n "cniVersion": "x", "plugins": [] }'),
      /^line 2: cniVersion "x" is no version/,
    );
    assert.match(reason('['.repeat(500_000)), /^line 1: not JSON/);
    mkdirSync(join(dir, 'net'));
    write('net/10-extra.conf', '{\n\n"type": "a/b" }');
    assert.match(reason(JSON.stringify(list('net', 'good'))), /net\/10-extra\.conf: line 3: type/);
  });

  test('sees a directory that is made later, replaced, or whose files are renamed into place', async (t) => {
    const { configs, dir } = await setUp(t, 'good');
    const names = () => configs.list().map(({ name }) => name);
    const text = (name: string) => JSON.stringify(list(name, 'good'));
    rmSync(dir, { recursive: true });
    assert.deepEqual(names(), ['berth'], 'those that come with Berth, as long as there is no directory');
    mkdirSync(dir);
    writeFileSync(join(dir, '10.conflist'), text('made'));
    assert.deepEqual(names(), ['made']);
    writeFileSync(join(dir, '.new'), text('renamed'));
    renameSync(join(dir, '.new'), join(dir, '10.conflist'));
    assert.deepEqual(names(), ['renamed']);
    mkdirSync(`${dir}.next`);
    writeFileSync(join(`${dir}.next`, '20.conflist'), text('next'));
    renameSync(dir, `${dir}.old`);
    symlinkSync(`${dir}.next`, dir);
    assert.deepEqual(names(), ['next']);
  });

  test('uses the networks that come with Berth when there is no other', async (t) => {
    const { configs, write } = await setUp(t, 'bridge', 'host-local', 'portmap', 'firewall', 'good');
    assert.equal(configs.defaultNetworkName(), 'berth');
    assert.deepEqual(configs.directories(), [SHIPPED]);
    assert.equal(configs.load('berth').plugins[0]?.['bridge'], 'berth0');
    write('10-own.conflist', list('own', 'good'));
    assert.equal(configs.defaultNetworkName(), 'own');
    assert.throws(() => configs.load('berth'), { code: 'NOT_FOUND' });
  });

  test('a broken file is no reason to use those that come with Berth', async (t) => {
    const { configs, write } = await setUp(t, 'bridge', 'host-local', 'portmap', 'firewall');
    write('10-own.conflist', 'nothing');
    assert.throws(() => configs.defaultNetworkName(), {
      code: 'FAILED_PRECONDITION',
      message: /10-own\.conflist: line 1: not JSON/,
    });
  });

  test('appends the plugins of the folder with the name of the network', async (t) => {
    const { configs, write, dir } = await setUp(t, 'good', 'extra', 'more');
    mkdirSync(join(dir, 'net'));
    write('net/20-more.conf', { type: 'more' });
    write('net/10-extra.conf', { type: 'extra' });
    write('net/ignored.conflist', { type: 'ignored' });
    write('10-net.conflist', list('net', 'good'));
    const types = () => configs.load('net').plugins.map((plugin) => plugin['type']);
    assert.deepEqual(types(), ['good', 'extra', 'more']);
    write('10-net.conflist', {
      name: 'net',
      cniVersion: '1.0.0',
      loadOnlyInlinedPlugins: 'True',
      plugins: [{ type: 'good' }],
    });
    assert.deepEqual(types(), ['good']);
  });

  test('takes a single plugin for a list of one, after the lists', async (t) => {
    const { configs, write } = await setUp(t, 'good');
    write('10-net.conf', { cniVersion: '0.4.0', name: 'net', type: 'good', extra: { kept: 1 } });
    assert.deepEqual(configs.load('net').plugins, [
      { cniVersion: '0.4.0', name: 'net', type: 'good', extra: { kept: 1 } },
    ]);
    write('20-net.conflist', list('net', 'good', 'good'));
    assert.equal(configs.load('net').plugins.length, 2);
    assert.deepEqual(
      configs.list().map(({ state }) => state),
      ['shadowed', 'ready'],
    );
  });

  test('chooses the highest version it speaks', async (t) => {
    const { configs, write } = await setUp(t, 'good');
    const version = (keys: object) => {
      write('10-net.conflist', { name: 'net', plugins: [{ type: 'good' }], ...keys });
      return configs.load('net').cniVersion;
    };
    assert.equal(version({}), '0.1.0');
    assert.equal(version({ cniVersion: '0.4.0' }), '0.4.0');
    assert.equal(version({ cniVersion: '0.4.0', cniVersions: ['1.0.0', '1.1.0', '2.0.0'] }), '1.1.0');
    assert.throws(() => version({ cniVersion: '2.0.0' }), { code: 'NOT_FOUND', message: /unreadable: .*10-net/ });
    assert.throws(() => version({ cniVersion: 'abc' }), { code: 'NOT_FOUND' });
  });

  test('refuses names that are none, and those that mean something else', async (t) => {
    const { configs, write } = await setUp(t, 'good');
    for (const name of ['', '../x', 'a/b', 'a\nb', '-x', 'none', 'host', 'x'.repeat(200)]) {
      write('10-net.conflist', list(name, 'good'));
      const [entry] = configs.list();
      assert.equal(entry?.state, 'invalid', name);
      assert.match(entry?.reason ?? '', /^line 1: name: /, name);
    }
  });

  test('refuses what is no regular file or too long, without waiting for it', async (t) => {
    const { configs, write, dir } = await setUp(t, 'good');
    execFileSync('mkfifo', [join(dir, '10-fifo.conflist')]);
    mkdirSync(join(dir, '20-dir.conflist'));
    symlinkSync('/dev/zero', join(dir, '30-zero.conflist'));
    write('40-long.conflist', `${' '.repeat(2 * 1024 * 1024)}{}`);
    symlinkSync('nowhere', join(dir, '50-gone.conflist'));
    assert.deepEqual(
      configs.list().map(({ state }) => state),
      ['invalid', 'invalid', 'invalid', 'invalid', 'invalid'],
    );
  });

  test('keeps every key of a plugin as it is, "__proto__" included', async (t) => {
    const { configs, write } = await setUp(t, 'good');
    write(
      '10-net.conflist',
      '{"name":"net","cniVersion":"1.0.0","plugins":[{"type":"good","__proto__":{"type":"x"}}]}',
    );
    assert.equal(JSON.stringify(configs.load('net').plugins), '[{"type":"good","__proto__":{"type":"x"}}]');
  });

  test('shows a network whether it can be used or not', async (t) => {
    const { configs, write } = await setUp(t, 'good');
    write('10-net.conflist', list('net', 'absent'));
    const { summary, config } = configs.inspect('net');
    assert.deepEqual([summary.state, summary.plugins, config.name], ['missing-plugin', ['absent'], 'net']);
    assert.throws(() => configs.inspect('other'), { code: 'NOT_FOUND' });
  });
});

describe('versions of plugins', () => {
  const versioned = (t: TestScope, ...types: readonly string[]) => patient(t, 10_000, ...types);
  async function patient(t: TestScope, patienceMs: number, ...types: readonly string[]) {
    const setup = await setUp(t, ...types);
    const cni = new CniRuntime({ plugins: setup.path, log: silent });
    const versions = new PluginVersions({
      plugins: setup.path,
      ask: (type, signal) => cni.version(type, signal),
      log: silent,
      patienceMs,
    });
    const configs = new NetworkConfigs({ confDirs: [setup.dir], fallbackDir: SHIPPED, plugins: setup.path, versions });
    return { ...setup, configs, versions };
  }
  const speaks = (plugins: RecordingPlugins, type: string, ...supportedVersions: readonly string[]) =>
    plugins.answers(type, 'VERSION', { cniVersion: '1.0.0', supportedVersions });

  test('decide which one of a configuration is used: the highest that all of its plugins speak', async (t) => {
    const { configs, plugins, write } = await versioned(t, 'new', 'old', 'pool');
    speaks(plugins, 'new', '0.4.0', '1.0.0', '1.1.0');
    speaks(plugins, 'old', '0.3.1', '0.4.0', '1.0.0');
    const chain = [{ type: 'new', ipam: { type: 'pool' } }, { type: 'old' }];
    write('10-net.conflist', { name: 'net', cniVersion: '0.4.0', cniVersions: ['1.0.0', '1.1.0'], plugins: chain });
    assert.equal(configs.load('net').cniVersion, '1.1.0', 'before anybody is asked');
    assert.equal(await configs.learnVersions(soon()), true);
    assert.equal(configs.load('net').cniVersion, '1.0.0');
    speaks(plugins, 'pool', '0.4.0');
    assert.equal(await configs.learnVersions(soon()), false, 'the file is the same, so nobody is asked again');
    assert.deepEqual(plugins.calls().toSorted(), ['new VERSION', 'old VERSION', 'pool VERSION']);
    plugins.uninstall('pool');
    plugins.install('pool');
    assert.equal(await configs.learnVersions(soon()), true, 'another file');
    assert.equal(configs.load('net').cniVersion, '0.4.0', 'delegates count too');
    assert.equal(plugins.calls().length, 4);
  });

  test('that no plugin of the chain shares make the network unusable, and only that one', async (t) => {
    const { configs, plugins, write } = await versioned(t, 'old', 'good');
    speaks(plugins, 'old', '0.3.1', '0.4.0');
    write('10-old.conflist', list('ancient', 'old'));
    write('20-good.conflist', list('fine', 'good'));
    await configs.learnVersions(soon());
    assert.throws(() => configs.load('ancient'), {
      code: 'FAILED_PRECONDITION',
      message: /10-old\.conflist.*: CNI plugin old does not speak 1\.0\.0, but 0\.3\.1, 0\.4\.0/,
    });
    assert.equal(configs.defaultNetworkName(), 'fine');
  });

  test("of a plugin that does not tell are anybody's guess, and it is asked once", async (t) => {
    const { configs, plugins, write } = await versioned(t, 'mute');
    plugins.does('mute', 'VERSION', 'exit 1');
    write('10-net.conflist', list('net', 'mute'));
    const both = await Promise.all([configs.learnVersions(soon()), configs.learnVersions(soon())]);
    assert.deepEqual(both, [true, true]);
    assert.equal(configs.load('net').cniVersion, '1.0.0');
    assert.equal(await configs.learnVersions(soon()), false);
    assert.deepEqual(plugins.calls(), ['mute VERSION']);
  });

  test('are asked for again when the plugin was busy', async (t) => {
    const { configs, plugins, write } = await versioned(t, 'busy');
    plugins.answers('busy', 'VERSION', { code: 11, msg: 'later' }, 1);
    write('10-net.conflist', list('net', 'busy'));
    assert.equal(await configs.learnVersions(soon()), true);
    speaks(plugins, 'busy', '0.4.0');
    assert.equal(await configs.learnVersions(soon()), true);
    assert.throws(() => configs.load('net'), { code: 'FAILED_PRECONDITION' });
  });

  test('are waited for a moment only, and count from when they are told', async (t) => {
    const { plugins, configs, write } = await patient(t, 500, 'hung', 'good');
    const gate = join(plugins.base, 'gate');
    execFileSync('mkfifo', [gate]);
    plugins.does('hung', 'VERSION', `cat '${gate}'`);
    speaks(plugins, 'good', '1.0.0');
    write('10-hung.conflist', list('stuck', 'hung'));
    write('20-good.conflist', list('fine', 'good'));
    assert.equal(await configs.learnVersions(soon(), [configs.load('fine')]), true);
    assert.deepEqual(plugins.calls(), ['good VERSION'], 'nobody asks the plugins of other networks');
    assert.equal(await configs.learnVersions(soon(), [configs.load('stuck')]), true);
    assert.equal(configs.load('stuck').cniVersion, '1.0.0', 'it is used as one that does not tell');
    assert.equal(await configs.learnVersions(soon()), false, 'who comes later does not wait again');
    await writeFile(gate, '{"supportedVersions":["0.4.0"]}');
    const counts = (): boolean => configs.inspect('stuck').summary.state === 'missing-plugin';
    for (const signal = soon(); !counts(); await sleep(10)) signal.throwIfAborted();
    assert.throws(() => configs.load('stuck'), { code: 'FAILED_PRECONDITION' });
    assert.equal(configs.defaultNetworkName(), 'fine');
    assert.equal(plugins.calls().filter((call) => call === 'hung VERSION').length, 1);
  });

  test('are not waited for by whoever closes', async (t) => {
    const { plugins, configs, write, versions } = await patient(t, 50, 'hung');
    plugins.does('hung', 'VERSION', 'exec sleep 1000');
    write('10-hung.conflist', list('stuck', 'hung'));
    await configs.learnVersions(soon());
    await versions.close();
    assert.equal(await configs.learnVersions(soon()), false);
  });

  test('are not waited for longer than the caller wants', async (t) => {
    const { configs, plugins, write } = await versioned(t, 'slow');
    const gate = join(plugins.base, 'gate');
    execFileSync('mkfifo', [gate]);
    plugins.does('slow', 'VERSION', `cat '${gate}'`);
    write('10-net.conflist', list('net', 'slow'));
    await assert.rejects(configs.learnVersions(AbortSignal.abort(new Error('enough'))), /enough/);
    const waiting = configs.learnVersions(soon());
    await writeFile(gate, '{"supportedVersions":["0.4.0"]}');
    await waiting;
    assert.throws(() => configs.load('net'), { code: 'FAILED_PRECONDITION' });
    assert.equal(plugins.calls().length, 1);
  });
});

describe('which plugins are run (K17)', () => {
  test('a type that is no plain name makes the configuration invalid', async (t) => {
    const { configs, write } = await setUp(t, 'good');
    for (const type of ['../../../bin/sh', '/bin/sh', 'a/b', '..', '.', '', 'a b', 'a\n', '-x']) {
      write('10-net.conflist', list('net', type));
      assert.equal(configs.list()[0]?.state, 'invalid', type);
    }
  });

  test('an ipam type that is no plain name cannot be used, however it is spelt', async (t) => {
    const { configs, write } = await setUp(t, 'good');
    for (const ipam of [{ type: '../../../bin/sh' }, { TYPE: 'a/b' }, { type: 'good', Type: '../x' }]) {
      write('10-net.conflist', { name: 'net', cniVersion: '1.0.0', plugins: [{ type: 'good', ipam }] });
      assert.throws(() => configs.load('net'), { code: 'FAILED_PRECONDITION', message: /no plain name/ });
    }
    write('10-net.conflist', { name: 'net', cniVersion: '1.0.0', plugins: [{ type: 'good', IPAM: { type: '../x' } }] });
    assert.throws(() => configs.load('net'), { code: 'FAILED_PRECONDITION' });
  });

  test('a file that is missing, not executable, writable by all, a directory or leads out is not run', async (t) => {
    const { plugins, path } = await setUp(t, 'plain', 'open', 'inside');
    const file = (name: string) => join(plugins.binDir, name);
    chmodSync(file('plain'), 0o644);
    chmodSync(file('open'), 0o777);
    mkdirSync(file('dir'));
    symlinkSync('/bin/sh', file('out'));
    symlinkSync('inside', file('alias'));
    assert.throws(() => path.find('absent'), { code: 'NOT_FOUND' });
    assert.throws(() => path.find('dir'), { code: 'NOT_FOUND' });
    assert.throws(() => path.find('plain'), { code: 'PERMISSION_DENIED', message: /is not executable/ });
    assert.throws(() => path.find('open'), { code: 'PERMISSION_DENIED', message: /can be written by others/ });
    assert.throws(() => path.find('out'), {
      code: 'PERMISSION_DENIED',
      message: /leads out of the plugin directories/,
    });
    assert.equal(path.find('alias'), file('alias'));
  });

  test('a directory that others can write has no plugins', async (t) => {
    const { plugins, path } = await setUp(t, 'good');
    chmodSync(plugins.binDir, 0o777);
    assert.throws(() => path.find('good'), { code: 'PERMISSION_DENIED', message: /directory that others can write/ });
  });
});

describe('networkChecks', () => {
  test('has a line for each configuration, with what mends it', async (t) => {
    const { configs, path, write } = await setUp(t, 'good', 'open');
    write('10-good.conflist', list('fine', 'good'));
    write('20-bad.conflist', 'x');
    write('30-lacks.conflist', list('lacks', 'absent'));
    write('40-twin.conflist', list('fine', 'good'));
    write('50-open.conflist', list('open', 'open'));
    chmodSync(join(path.value, 'open'), 0o777);
    write('60-sly.conflist', { name: 'sly', cniVersion: '1.0.0', plugins: [{ type: 'good', ipam: { type: '../x' } }] });
    const checks = networkChecks(configs, path);
    const states = checks.filter(({ name }) => name.startsWith('network ')).map(({ state, remedy }) => [state, remedy]);
    assert.deepEqual(
      states.map(([state]) => state),
      ['ok', 'fail', 'fail', 'warn', 'fail', 'fail'],
    );
    const remedies = [
      /^$/,
      /20-bad/,
      /install -y containernetworking-plugins/,
      /^mv .*40-twin/,
      /--reinstall/,
      /60-sly/,
    ];
    for (const [index, remedy] of remedies.entries()) assert.match(states[index]?.[1] ?? '', remedy);
    for (const { state, remedy, name } of checks) assert.equal(remedy !== undefined, state !== 'ok', name);
  });
});
