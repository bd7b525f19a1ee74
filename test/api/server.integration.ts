import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, lstatSync, mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { ApiServer } from '../../src/api/server.ts';
import { CallFailure } from '../../src/cli/failure.ts';
import type { RuntimeError } from '../../src/errors.ts';
import { STATUS_NUMBERS } from '../../src/status.ts';
import { listenAt } from '../../src/unix-socket.ts';
import { cleanup } from '../support/cleanup.ts';
import { needs } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';
import { startApi } from './api-fixture.ts';

const NOBODY = 65_534;
const ignore = (socket: Socket): void => {
  socket.destroy();
};

/** What connect(2) says to a process of this uid: "connected" or an error name. */
function connectAs(uid: number, socketPath: string): string {
  const script = `require('net').connect(process.argv[1])
    .on('connect', function () { console.log('connected'); this.destroy(); })
    .on('error', (error) => console.log(error.code));`;
  const { stdout } = spawnSync(process.execPath, ['-e', script, socketPath], { uid, gid: uid, encoding: 'utf8' });
  return stdout.trim();
}

describe('ApiServer socket (K25)', () => {
  test('is open to its owner alone, in a directory of its own', async (t) => {
    const { socketPath, dir } = await startApi(t);
    assert.equal(statSync(socketPath).mode & 0o777, 0o600);
    assert.equal(statSync(join(dir, 'run')).mode & 0o777, 0o700);
    assert.equal(process.umask() & 0o177, process.umask(), 'the mask of the process is what it was');
  });

  test('refuses nobody, even when the directory lets everybody through', async (t) => {
    if (!needs(t, 'root')) return;
    const { socketPath, dir } = await startApi(t);
    assert.equal(connectAs(0, socketPath), 'connected');
    assert.equal(connectAs(NOBODY, socketPath), 'EACCES');
    for (const path of [dir, join(dir, 'run')]) chmodSync(path, 0o755);
    assert.equal(connectAs(NOBODY, socketPath), 'EACCES');
  });

  test('takes the place of the socket of a killed daemon', async (t) => {
    const dir = await tempDir(t);
    const socketPath = join(dir, 'berthd.sock');
    const script = `require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', script, socketPath]);
    assert.ok(lstatSync(socketPath).isSocket(), 'the socket of the dead is there');
    const { daemon } = await startApi(t, { socketPath });
    assert.equal((await daemon.call('System', 'Version', {})).version, '9.8.7');
  });

  test('refuses the socket of a live one and leaves it alone', async (t) => {
    const { socketPath, daemon } = await startApi(t);
    const second = new ApiServer({ socketPath, services: {}, log: pino({ level: 'silent' }) });
    await assert.rejects(second.start(t.signal), (error: RuntimeError) => {
      assert.equal(error.code, 'FAILED_PRECONDITION');
      assert.ok(error.message.includes(socketPath));
      return true;
    });
    assert.equal((await daemon.call('System', 'Version', {})).version, '9.8.7');
  });

  test('refuses a symlink, a file and a directory, and touches none of them', async (t) => {
    const dir = await tempDir(t);
    const canary = join(dir, 'canary');
    writeFileSync(canary, 'alive');
    const paths = {
      link: join(dir, 'link'),
      dangling: join(dir, 'dangling'),
      file: join(dir, 'file'),
      dir: join(dir, 'd'),
    };
    symlinkSync(canary, paths.link);
    symlinkSync(join(dir, 'nowhere'), paths.dangling);
    writeFileSync(paths.file, 'text');
    mkdirSync(paths.dir);
    for (const path of Object.values(paths)) {
      const before = lstatSync(path);
      await assert.rejects(listenAt(path, ignore, t.signal), { name: 'RuntimeError', code: 'FAILED_PRECONDITION' });
      assert.equal(lstatSync(path).ino, before.ino);
    }
    assert.ok(!existsSync(join(dir, 'nowhere')));
  });

  test('refuses a directory that others can write to', async (t) => {
    const dir = join(await tempDir(t), 'open');
    mkdirSync(dir);
    chmodSync(dir, 0o777);
    await assert.rejects(listenAt(join(dir, 's'), ignore, t.signal), { code: 'FAILED_PRECONDITION' });
  });

  test('is gone after stop', async (t) => {
    const { socketPath, server } = await startApi(t);
    await server.stop();
    assert.ok(!existsSync(socketPath));
  });
});

describe('ApiServer limits (K27)', () => {
  test('answers RESOURCE_EXHAUSTED to a request of 5 MiB and goes on', async (t) => {
    const { daemon, containerizer } = await startApi(t);
    const spec = { image: 'busybox', env: [`BIG=${'x'.repeat(5 * 1024 * 1024)}`] };
    await assert.rejects(daemon.call('Containers', 'Create', { spec }), (error: CallFailure) => {
      assert.equal(error.status, STATUS_NUMBERS.RESOURCE_EXHAUSTED);
      return true;
    });
    assert.equal(containerizer.list().length, 0);
    assert.equal((await daemon.call('System', 'Version', {})).version, '9.8.7');
  });

  test('cuts 200 half-sent calls and answers Version in under a second meanwhile', async (t) => {
    const { socketPath, daemon } = await startApi(t, { requestMs: 300 });
    const session = connectHttp2('http://localhost', { createConnection: () => connect(socketPath) });
    cleanup(t, () => session.destroy());
    const statuses = Array.from({ length: 200 }, async () => {
      const stream = session.request({
        ':method': 'POST',
        ':path': '/berth.v1.Containers/Create',
        'content-type': 'application/grpc',
        te: 'trailers',
      });
      // The length of a message, and then nothing.
      stream.write(Buffer.from([0, 0, 0, 1, 0, 1]));
      const [headers] = await once(stream, 'response');
      stream.close();
      return headers['grpc-status'];
    });
    const begunMs = performance.now();
    assert.equal((await daemon.call('System', 'Version', {})).version, '9.8.7');
    assert.ok(performance.now() - begunMs < 1000);
    for (const status of await Promise.all(statuses)) assert.equal(Number(status), STATUS_NUMBERS.DEADLINE_EXCEEDED);
  });

  test('answers Version in under a second beside 2,000 idle connections', async (t) => {
    const { socketPath, daemon } = await startApi(t);
    const sockets: Socket[] = [];
    cleanup(t, () => {
      for (const socket of sockets) socket.destroy();
    });
    // One after another: the kernel queues only so many for a listener.
    while (sockets.length < 2000) {
      const socket = connect(socketPath);
      sockets.push(socket);
      await once(socket, 'connect');
    }
    const begunMs = performance.now();
    assert.equal((await daemon.call('System', 'Version', {})).version, '9.8.7');
    assert.ok(performance.now() - begunMs < 1000);
  });
});

describe('ApiServer.stop', () => {
  test('ends calls that only wait, and cuts those that do not end', async (t) => {
    const { daemon, server, containerizer } = await startApi(t, { drainMs: 200 });
    const { id } = await daemon.call('Containers', 'Create', { spec: { image: 'busybox' } });
    await daemon.call('Containers', 'Start', { ref: id });
    const waiting = daemon.call('Containers', 'Wait', { ref: id });
    const stuck = daemon.call('Containers', 'Stop', { ref: id, timeoutMs: '60000' });
    const outcome = Promise.allSettled([waiting, stuck]);
    await daemon.call('System', 'Version', {});
    await server.stop();
    for (const result of await outcome) {
      assert.equal(result.status, 'rejected');
      assert.ok(result.status === 'rejected' && result.reason instanceof CallFailure);
      assert.equal(result.reason.status, STATUS_NUMBERS.UNAVAILABLE);
    }
    assert.equal(containerizer.get(id).state, 'running', 'the container goes on');
  });

  test('hangs up on connections that never said a word', async (t) => {
    const { server, socketPath } = await startApi(t, { drainMs: 10 });
    const socket = connect(socketPath);
    cleanup(t, () => socket.destroy());
    await once(socket, 'connect');
    const closed = once(socket.resume(), 'close');
    await Promise.all([server.stop(), closed]);
  });

  test('is harmless twice, and without a start', async (t) => {
    const { server } = await startApi(t);
    await Promise.all([server.stop(), server.stop()]);
    await new ApiServer({ socketPath: '/nowhere', services: {}, log: pino({ level: 'silent' }) }).stop();
  });
});
