import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { ExecutableError } from '../../src/runtime/launcher.ts';
import { type Api, startApi } from '../api/api-fixture.ts';
import { type Program, ScriptedLauncher } from '../api/scripted-launcher.ts';
import { cleanup } from '../support/cleanup.ts';
import { program } from '../support/daemon-process.ts';
import { tempDir } from '../support/temp-dir.ts';

type Scope = Parameters<typeof startApi>[0];

interface Result {
  readonly code: number | null;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

/** A real `berth` process, ended with the test. */
function start(t: Scope, argv: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  const [file, ...before] = program('berth');
  const child = spawn(file, [...before, ...argv], {
    env: { PATH: process.env['PATH'], ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  cleanup(t, () => child.kill('SIGKILL'));
  return child;
}

async function result(child: ChildProcess): Promise<Result> {
  const read = async (stream: ChildProcess['stdout']): Promise<Buffer> =>
    Buffer.concat((await stream?.toArray()) ?? []);
  const [stdout, stderr, [code]] = await Promise.all([read(child.stdout), read(child.stderr), once(child, 'close')]);
  return { code, stdout, stderr };
}

/** An API whose containers run `program`, and `berth` speaking to it. */
class Bench {
  readonly api: Api;
  readonly launcher: ScriptedLauncher;
  readonly #t: Scope;

  constructor(t: Scope, api: Api, launcher: ScriptedLauncher) {
    this.#t = t;
    this.api = api;
    this.launcher = launcher;
  }

  static async open(t: Scope, program: Program = async () => 0): Promise<Bench> {
    const made: ScriptedLauncher[] = [];
    const api = await startApi(t, {
      launcher: (machine) => {
        const launcher = new ScriptedLauncher(machine, program);
        made.push(launcher);
        return launcher;
      },
    });
    return new Bench(t, api, made[0] ?? assert.fail('no launcher'));
  }

  start(...argv: string[]): ChildProcess {
    return start(this.#t, argv, { BERTH_HOST: `unix://${this.api.socketPath}` });
  }

  async berth(...argv: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const { code, stdout, stderr } = await result(this.start(...argv));
    return { code, stdout: stdout.toString(), stderr: stderr.toString() };
  }

  /** The same for a command that must succeed; what it printed. */
  async ok(...argv: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.berth(...argv);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    return stdout;
  }

  async json(...argv: string[]): Promise<unknown> {
    return JSON.parse(await this.ok(...argv));
  }
}

describe('berth run', { concurrency: 2 }, () => {
  test('writes both streams byte for byte and ends with the code of the container', async (t) => {
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    const bench = await Bench.open(t, async ({ write }) => {
      for (let count = 0; count < 40; count += 1) write('stdout', Buffer.alloc(8192, count));
      write('stderr', bytes);
      return 42;
    });
    const { code, stdout, stderr } = await result(bench.start('run', '--rm', 'busybox', '--', 'x'));
    assert.equal(code, 42);
    assert.deepEqual(stderr, bytes);
    assert.deepEqual(stdout, Buffer.concat(Array.from({ length: 40 }, (_, count) => Buffer.alloc(8192, count))));
    assert.deepEqual(bench.api.containerizer.list(), [], '--rm has removed it before berth ended');
  });

  test('passes each signal on and ends with the code that comes of it', async (t) => {
    const bench = await Bench.open(t, async ({ write, nextSignal }) => {
      write('stdout', 'up\n');
      for (const _ of ['SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGQUIT', 'SIGINT']) write('stdout', `${await nextSignal()}\n`);
      await nextSignal();
      return 143;
    });
    const child = bench.start('run', 'busybox');
    const lines: string[] = [];
    const signals = ['SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGQUIT', 'SIGINT', 'SIGTERM'] as const;
    let sent = 0;
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      lines.push(...text.trim().split('\n'));
      for (; sent < lines.length; sent += 1) child.kill(signals[sent]);
    });
    const [code] = await once(child, 'close');
    assert.equal(code, 143);
    assert.deepEqual(lines, ['up', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGQUIT', 'SIGINT']);
  });

  test('undoes a launch that is interrupted and ends as the signal would end it', async (t) => {
    const bench = await Bench.open(t);
    const gate = Promise.withResolvers<void>();
    bench.launcher.gate = gate.promise;
    cleanup(t, () => gate.resolve());
    const child = bench.start('run', 'busybox');
    const ended = result(child);
    await bench.launcher.creating.promise;
    child.kill('SIGINT');
    assert.equal((await ended).code, 130);
    const [view] = bench.api.containerizer.list();
    assert.ok(view);
    // Its answer comes after the server has seen the other connection end.
    await bench.ok('version');
    gate.resolve();
    await bench.api.containerizer.removed(view.record.id, t.signal);
  });

  test('prints the id and leaves the container running with -d', async (t) => {
    const bench = await Bench.open(t, () => new Promise(() => undefined));
    const id = (await bench.ok('run', '-d', '--name', 'web', 'busybox')).trim();
    assert.match(id, /^[0-9a-f]{32}$/);
    assert.equal(bench.api.containerizer.get('web').record.id, id);
    assert.equal(bench.api.containerizer.get('web').state, 'running');
  });

  test('ends with 126 and 127 as the daemon says, and 125 for any other failure', async (t) => {
    const bench = await Bench.open(t);
    for (const exitCode of [126, 127] as const) {
      bench.launcher.refusal = new ExecutableError(exitCode, `command: "nosuch" cannot be executed`);
      const { code, stderr } = await bench.berth('run', 'busybox', 'nosuch');
      assert.deepEqual([code, stderr], [exitCode, 'berth: command: "nosuch" cannot be executed\n']);
    }
    const failures = [
      ['run', '--user', '-1', 'busybox'],
      ['run', '--nosuch', 'busybox'],
      ['run'],
      ['run', '-m', 'x', 'busybox'],
      ['--host', 'unix:///nonexistent.sock', 'run', 'busybox'],
    ];
    for (const argv of failures) {
      const { code, stdout, stderr } = await bench.berth(...argv);
      assert.equal(code, 125, argv.join(' '));
      assert.equal(stdout, '');
      assert.match(stderr, /^berth: /);
    }
  });

  test('says how to find the container again when the daemon goes away', async (t) => {
    const bench = await Bench.open(t, ({ write }) => {
      write('stdout', 'up');
      return new Promise(() => undefined);
    });
    const child = bench.start('run', '--name', 'web', 'busybox');
    const ended = result(child);
    if (child.stdout !== null) await once(child.stdout, 'readable');
    const { id } = bench.api.containerizer.get('web').record;
    await bench.api.server.stop();
    const { code, stderr } = await ended;
    assert.equal(code, 125);
    assert.match(stderr.toString(), new RegExp(`berth logs -f ${id.slice(0, 12)} \\(berthd is shutting down\\)`));
    assert.equal(bench.api.containerizer.get('web').state, 'running');
  });

  test('ends quietly when nobody reads its output any more', async (t) => {
    const bench = await Bench.open(t, ({ write }) => {
      const timer = setInterval(() => write('stdout', 'y\n'.repeat(1000)), 1);
      cleanup(t, () => clearInterval(timer));
      return new Promise(() => undefined);
    });
    const child = bench.start('run', 'busybox');
    const closed = once(child, 'close');
    if (child.stdout !== null) await once(child.stdout, 'readable');
    child.stdout?.destroy();
    const [code] = await closed;
    assert.equal(code, 141);
  });
});

describe('berth for containers', { concurrency: 2 }, () => {
  test('create, start, wait, ps, inspect, logs, kill, stop and rm work together', async (t) => {
    const bench = await Bench.open(t, async ({ write, nextSignal }) => {
      write('stdout', 'out 1\nout 2\n');
      write('stderr', 'err\n');
      return (await nextSignal()) === 'SIGTERM' ? 3 : 4;
    });
    const id = (
      await bench.ok('create', '--name', 'job', '-l', 'a=b', '-p', '80:8080', 'busybox', 'sh', '-c', 'x')
    ).trim();
    assert.equal(await bench.ok('ps'), 'CONTAINER ID   NAME   IMAGE   COMMAND   STATUS   ADDRESSES   PORTS\n');
    assert.match(
      await bench.ok('ps', '-a'),
      new RegExp(`^${id.slice(0, 12)} +job +busybox +sh -c x +created +80->8080/tcp$`, 'm'),
    );
    assert.equal(await bench.ok('start', 'job'), 'job\n');
    assert.equal(await bench.ok('ps', '-q'), `${id.slice(0, 12)}\n`);
    assert.equal(await bench.ok('ps', '-q', '--no-trunc'), `${id}\n`);
    const [listed] = Object.values(Object(await bench.json('ps', '--format', 'json')));
    assert.partialDeepStrictEqual(listed, {
      id,
      name: 'job',
      state: 'running',
      networks: [],
      volumes: [],
      labels: { a: 'b' },
    });
    assert.ok(Number.isInteger(Object(listed).pid));
    const [inspected] = Object.values(Object(await bench.json('inspect', 'job')));
    assert.partialDeepStrictEqual(inspected, { id, spec: { command: ['sh', '-c', 'x'], networks: ['berth'] } });
    const logs = await bench.berth('logs', 'job');
    assert.deepEqual([logs.code, logs.stdout, logs.stderr], [0, 'out 1\nout 2\n', 'err\n']);
    const at = '2026-01-31T12:00:00.000Z';
    const stamped = await bench.berth('logs', '-t', 'job');
    assert.deepEqual([stamped.stdout, stamped.stderr], [`${at} out 1\n${at} out 2\n`, `${at} err\n`]);
    const waiting = bench.ok('wait', 'job');
    assert.equal(await bench.ok('kill', '-s', 'TERM', 'job'), 'job\n');
    assert.equal(await waiting, '3\n');
    assert.match(await bench.ok('ps', '-a'), /exited \(3\) \d+ seconds? ago/);
    assert.equal(await bench.ok('start', 'job'), 'job\n');
    assert.equal(await bench.ok('stop', '-t', '20', 'job'), 'job\n');
    assert.equal(await bench.ok('rm', 'job'), 'job\n');
    assert.equal(await bench.ok('ps', '-aq'), '');
  });

  test('logs -f goes on until the container has exited', async (t) => {
    const bench = await Bench.open(t, async ({ write, nextSignal }) => {
      write('stdout', 'first\n');
      await nextSignal();
      write('stdout', 'last\n');
      return 0;
    });
    await bench.ok('run', '-d', '--name', 'web', 'busybox');
    const child = bench.start('logs', '-f', 'web');
    const chunks: string[] = [];
    let killed: Promise<unknown> = Promise.resolve();
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      chunks.push(text);
      if (chunks.length === 1) killed = bench.ok('kill', '-s', 'HUP', 'web');
    });
    const [code] = await once(child, 'close');
    await killed;
    assert.deepEqual([code, chunks.join('')], [0, 'first\nlast\n']);
  });

  test('several at once: each is attempted, each failure is shown, and the end is 1', async (t) => {
    const bench = await Bench.open(t);
    await bench.ok('create', '--name', 'a', 'busybox');
    await bench.ok('create', '--name', 'b', 'busybox');
    const { code, stdout, stderr } = await bench.berth('rm', 'a', 'nosuch', 'b', '../x');
    assert.equal(code, 1);
    assert.equal(stdout, 'a\nb\n');
    assert.match(stderr, /^berth: no such container: nosuch\nberth: ref: "\.\.\/x" must match .*\n$/);
    assert.deepEqual(bench.api.containerizer.list(), []);
  });

  test('rm refuses what runs and says what to do', async (t) => {
    const bench = await Bench.open(t, () => new Promise(() => undefined));
    await bench.ok('run', '-d', '--name', 'web', 'busybox');
    const { code, stderr } = await bench.berth('rm', 'web');
    assert.equal(code, 1);
    assert.match(stderr, /web is running: stop it first, or remove it by force/);
    assert.equal(await bench.ok('rm', '-f', 'web'), 'web\n');
  });
});

describe('berth for everything else', { concurrency: 2 }, () => {
  test('images', async (t) => {
    const bench = await Bench.open(t);
    const change = 'CMD ["/bin/sh"]';
    const id = (await bench.ok('image', 'import', '-c', change, 'root.tar', 'busybox:1')).trim();
    assert.match(id, /^sha256:/);
    assert.deepEqual(bench.api.backends.calls, [`import ${join(process.cwd(), 'root.tar')} busybox:1 ${change}`]);
    assert.match(await bench.ok('image', 'ls'), /^busybox:1 +0123456789ab +2 KiB +\d+ days ago$/m);
    const listed = await bench.json('image', 'ls', '--format', 'json');
    assert.partialDeepStrictEqual(listed, [{ id, reference: 'busybox:1', sizeBytes: 2048 }]);
    assert.deepEqual(await bench.json('image', 'inspect', 'busybox:1'), listed);
    await bench.ok('create', '--name', 'user', 'busybox:1');
    assert.equal((await bench.berth('image', 'rm', 'busybox:1')).code, 1);
    await bench.ok('rm', 'user');
    assert.equal(await bench.ok('image', 'rm', 'busybox:1'), 'busybox:1\n');
    const { code, stderr } = await bench.berth('image', 'import', '-', 'x');
    assert.deepEqual([code, stderr], [1, 'berth: file: standard input is not read: name a file\n']);
  });

  test('networks', async (t) => {
    const bench = await Bench.open(t);
    assert.match(await bench.ok('network', 'ls'), /^berth +ready +unavailable +yes +bridge > portmap +\/etc\/cni/m);
    const expected = { name: 'berth', state: 'ready', default: true, plugins: ['bridge', 'portmap'] };
    assert.partialDeepStrictEqual(await bench.json('network', 'ls', '--format', 'json'), [expected]);
    assert.partialDeepStrictEqual(await bench.json('network', 'inspect', 'berth'), [
      { ...expected, config: { name: 'berth' }, containers: [{ interface: 'eth0', addresses: ['10.86.0.5/16'] }] },
    ]);
  });

  test('addresses', async (t) => {
    const bench = await Bench.open(t);
    assert.match(await bench.ok('ipam', 'ls'), /^10\.86\.0\.5 +berth +c0ffee +eth0 +attached +\d+ days? +berth-ipam$/m);
    assert.deepEqual(await bench.json('ipam', 'ls', '--network', 'other', '--format', 'json'), []);
    assert.partialDeepStrictEqual(await bench.json('ipam', 'inspect', '10.86.0.5', 'berth/10.86.0.5'), [
      { address: '10.86.0.5', network: 'berth', container: 'c0ffee', state: 'attached', releasedAt: null },
      { address: '10.86.0.5' },
    ]);
    assert.match(
      (await bench.berth('ipam', 'release', '10.86.0.5')).stderr,
      /is held by eth0 of container c0ffee, which/,
    );
    assert.equal(await bench.ok('ipam', 'release', '-f', '10.86.0.5'), '10.86.0.5\n');
    for (const ref of ['10.86.0.6', 'other/10.86.0.5', '10.86.0', 'a/b/c', '']) {
      const { code, stderr } = await bench.berth('ipam', 'release', ref);
      assert.deepEqual([code, stderr.startsWith('berth: address: ')], [1, true], `${ref}: ${stderr}`);
    }
  });

  test('volumes and plugins', async (t) => {
    const bench = await Bench.open(t);
    const made = await bench.ok(
      'volume',
      'create',
      'disk',
      '--size',
      '64Mi',
      '--access',
      'block',
      '--parameter',
      'a=b',
    );
    assert.equal(made, 'disk\n');
    assert.match(
      await bench.ok('volume', 'ls'),
      /^disk +local\.csi\.berth +64 MiB +block +single-node-writer +created$/m,
    );
    const expected = [{ name: 'disk', driver: 'local.csi.berth', capacityBytes: 67_108_864, access: 'block' }];
    assert.partialDeepStrictEqual(await bench.json('volume', 'ls', '--format', 'json'), expected);
    assert.partialDeepStrictEqual(await bench.json('volume', 'inspect', 'disk'), expected);
    assert.equal(await bench.ok('volume', 'expand', 'disk', '--size', '128Mi'), 'disk\n');
    assert.match(await bench.ok('volume', 'ls'), /^disk +local\.csi\.berth +128 MiB /m);
    assert.match(await bench.ok('volume', 'stats'), /^disk +8 B +3 B +5 B +- +- +-$/m);
    const bytes = { total: 8, used: 3, available: 5 };
    const stats = [{ name: 'disk', bytes, condition: null, reason: '' }];
    assert.deepEqual(await bench.json('volume', 'stats', 'disk', '--format', 'json'), stats);
    assert.match((await bench.berth('volume', 'stats', 'nix')).stderr, /nix/);
    assert.equal(await bench.ok('volume', 'rm', 'disk'), 'disk\n');
    assert.match((await bench.berth('volume', 'create', 'x')).stderr, /--size/);
    assert.match(
      await bench.ok('csi', 'ls'),
      /^local\.csi\.berth +ready +1 +\/run\/berth\/csi\/local\.sock +2026-01-31T12:00:00\.000Z$/m,
    );
    const plugins = await bench.json('csi', 'ls', '--format', 'json');
    assert.partialDeepStrictEqual(plugins, [{ name: 'local.csi.berth', socket: '/run/berth/csi/local.sock' }]);
  });

  test('version, info and doctor', async (t) => {
    const bench = await Bench.open(t);
    assert.match(await bench.ok('version'), /^berth +\d+\.\d+\.\d+ .*\nberthd +9\.8\.7 /);
    assert.partialDeepStrictEqual(await bench.json('version', '--format', 'json'), { daemon: { version: '9.8.7' } });
    assert.equal(await bench.ok('info'), 'root: /var/lib/berth\n');
    assert.deepEqual(await bench.json('info', '--format', 'json'), { root: '/var/lib/berth' });
    const doctor = await bench.berth('doctor');
    assert.equal(doctor.code, 1, 'something is missing');
    assert.match(doctor.stdout, /^network +fail +bridge +not found\n +mend it: apt-get install plugins$/m);
    const checks = JSON.parse((await bench.berth('doctor', '--format', 'json')).stdout);
    assert.deepEqual(checks[0], { area: 'runtime', name: 'crun', state: 'ok', detail: 'version 1.8.1', remedy: '' });
  });

  test('--host works before and after the verb and wins over BERTH_HOST', async (t) => {
    const bench = await Bench.open(t);
    const host = `unix://${bench.api.socketPath}`;
    for (const argv of [
      ['--host', host, 'ps'],
      ['ps', '--host', host],
      ['image', 'ls', '--host', host],
    ]) {
      const { code } = await result(start(t, argv, { BERTH_HOST: 'unix:///nonexistent.sock' }));
      assert.equal(code, 0, argv.join(' '));
    }
    const { code, stderr } = await result(start(t, ['--host', 'tcp://x', 'ps']));
    assert.deepEqual([code, stderr.toString()], [1, 'berth: --host: "tcp://x" must be unix:///path/of/socket\n']);
  });

  test('wrong words end with 1, help with 0', async (t) => {
    const ends = async (...argv: string[]): Promise<number | null> => (await result(start(t, argv))).code;
    const wrong = [
      ['nosuch'],
      ['ps', '--nosuch'],
      ['ps', '--format', 'xml'],
      ['stop'],
      ['create'],
      ['volume', 'create', 'v'],
    ];
    assert.deepEqual(
      await Promise.all(wrong.map((argv) => ends(...argv))),
      wrong.map(() => 1),
    );
    assert.deepEqual(
      await Promise.all([ends('--help'), ends('run', '--help'), ends('volume', '--help'), ends('--version')]),
      [0, 0, 0, 0],
    );
  });
});

describe('berth without a daemon', () => {
  test('says how to start one where there is none', async (t) => {
    const socket = join(await tempDir(t), 'none.sock');
    const { code, stderr } = await result(start(t, ['ps'], { BERTH_HOST: `unix://${socket}` }));
    assert.equal(code, 1);
    assert.equal(
      stderr.toString(),
      `berth: no berthd at ${socket}: start one (sudo berthd), or say where it listens: --host unix:///path, or BERTH_HOST\n`,
    );
  });

  test('says that it has ended where its socket is left', async (t) => {
    const socket = join(await tempDir(t), 'old.sock');
    const dead = spawn(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(socket)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ]);
    await once(dead, 'close');
    const { code, stderr } = await result(start(t, ['ps'], { BERTH_HOST: `unix://${socket}` }));
    assert.equal(code, 1);
    assert.match(stderr.toString(), /has ended: start it again/);
  });

  test('does not hang on something that hangs up', async (t) => {
    const path = join(await tempDir(t), 'mute.sock');
    const server = createServer((socket) => socket.destroy()).listen(path);
    cleanup(t, () => server.close());
    await once(server, 'listening');
    const { code } = await result(start(t, ['ps'], { BERTH_HOST: `unix://${path}` }));
    assert.equal(code, 1);
  });
});
