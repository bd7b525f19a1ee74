/** Secrets by reference: found when a call is sent, and nowhere to be found afterwards. */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, globSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { SecretResolver } from '../../src/csi/secret-resolver.ts';
import { RuntimeError } from '../../src/errors.ts';
import { failWith } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';
import { A, assertIdle, request, soon, volumeHost } from './volume-host.ts';

const SECRET = 'quiet-as-a-mouse-4711';
const DRIVER = 'fake.csi.test';

function program(path: string, lines: string): string {
  writeFileSync(path, `#!/bin/sh\n${lines}\n`);
  chmodSync(path, 0o700);
  return path;
}

function made(dir: string, make: (path: string) => unknown): string {
  make(`${dir}/p`);
  return `${dir}/p`;
}

/** Files and command lines that show the secret or its base64. */
function seenIn(files: readonly string[]): string[] {
  const words = [SECRET, Buffer.from(SECRET).toString('base64').replace(/=+$/, '')];
  return [...files, ...globSync('/proc/[0-9]*/cmdline')].filter((file) => {
    try {
      const text = readFileSync(file, 'latin1');
      return words.some((word) => text.includes(word));
    } catch {
      return false; // The process has ended.
    }
  });
}

describe('secrets by reference', { skip: missing('root', 'loop') }, () => {
  test('reach every call that takes them and no log, record, error or command line (K24)', async (t) => {
    const dir = await tempDir(t);
    program(`${dir}/provider`, `echo '{"password":"${SECRET}","asked":"'"$1 $2"'"}'`);
    writeFileSync(`${dir}/key`, `${SECRET}\n`);
    writeFileSync(
      `${dir}/${DRIVER}.toml`,
      `[default]\nprovider = "${dir}/provider"\n[node-stage.keys]\nkey = { file = "${dir}/key" }\nuser = { env = "STORAGE_USER" }\n`,
    );
    const lines: string[] = [];
    const sink = new Writable({
      write(chunk, _encoding, done) {
        lines.push(String(chunk));
        done();
      },
    });
    const resolver = new SecretResolver({ dir, env: { STORAGE_USER: SECRET } });
    const host = await volumeHost(
      t,
      { controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'], node: ['STAGE_UNSTAGE_VOLUME'] },
      {
        log: pino({ level: 'trace' }, sink),
        secrets: (driver, rpc, signal, name) => resolver.resolve(driver, rpc, signal, name),
      },
    );
    const base64 = Buffer.from(SECRET).toString('base64');
    host.plugin.next('NodeStageVolume', failWith('UNAUTHENTICATED', { message: `${SECRET} and ${base64} are wrong` }));
    await host.volumes.create(request(), soon());
    await assert.rejects(host.volumes.publish('data', A, { readOnly: false }, soon()), (error: Error) => {
      assert.ok(!error.message.includes(SECRET) && !error.message.includes(base64), error.message);
      return true;
    });
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    const record = JSON.stringify(host.volumes.get('data'));
    const disk = globSync(`${host.dir}/berth.db*`);
    assert.deepEqual(seenIn(disk), []);
    assert.ok(!record.includes(SECRET) && !lines.join('').includes(SECRET) && !lines.join('').includes(base64));
    assert.ok(lines.join('').includes('NodeStageVolume'), 'the log has the calls');
    await host.volumes.release('data', A, soon());
    await host.volumes.remove('data', soon());
    for (const rpc of [
      'CreateVolume',
      'DeleteVolume',
      'ControllerPublishVolume',
      'ControllerUnpublishVolume',
      'NodePublishVolume',
    ]) {
      const [sent] = host.plugin.requests(rpc);
      assert.deepEqual(sent?.['secrets'], { password: SECRET, asked: `${DRIVER} ${rpc}` }, rpc);
    }
    assert.deepEqual(host.plugin.requests('NodeStageVolume')[0]?.['secrets'], { key: SECRET, user: SECRET });
    assert.deepEqual(seenIn(globSync(`${host.dir}/berth.db*`)), []);
    assertIdle(host);
  });

  test('that cannot be found refuse a creation before anything is recorded, and hold up what has begun', async (t) => {
    const dir = await tempDir(t);
    const file = `${dir}/${DRIVER}.toml`;
    writeFileSync(file, '[default.keys]\nk = { env = "NO_SUCH_VARIABLE" }\n');
    const resolver = new SecretResolver({ dir, env: {} });
    const secrets = (driver: string, rpc: Parameters<SecretResolver['resolve']>[1], signal: AbortSignal) =>
      resolver.resolve(driver, rpc, signal);
    const host = await volumeHost(t, { controller: ['CREATE_DELETE_VOLUME'] }, { secrets });
    await assert.rejects(
      host.volumes.create(request(), soon()),
      (error) =>
        error instanceof RuntimeError && error.code === 'FAILED_PRECONDITION' && /NO_SUCH_VARIABLE/.test(error.message),
    );
    assert.deepEqual(host.volumes.list(), []);
    writeFileSync(file, '');
    await host.volumes.create(request(), soon());
    writeFileSync(file, '[provisioner.keys]\nk = { env = "NO_SUCH_VARIABLE" }\n');
    await assert.rejects(host.volumes.remove('data', soon()), /NO_SUCH_VARIABLE/);
    assert.equal(host.plugin.requests('DeleteVolume').length, 0);
    writeFileSync(file, '');
    await host.volumes.remove('data', soon());
    assertIdle(host);
  });

  const cases: readonly { readonly title: string; readonly make: (dir: string) => string; readonly says: RegExp }[] = [
    { title: 'hangs', make: (dir) => program(`${dir}/p`, 'sleep 60'), says: /stopped after 300 ms/ },
    { title: 'fails', make: (dir) => program(`${dir}/p`, `echo ${SECRET} >&2; exit 3`), says: /ended with 3/ },
    { title: 'prints no object', make: (dir) => program(`${dir}/p`, `echo ${SECRET}`), says: /no JSON object/ },
    {
      title: 'prints too much',
      make: (dir) => program(`${dir}/p`, 'head -c 100000 /dev/zero'),
      says: /more than 65536/,
    },
    { title: 'prints without end', make: (dir) => program(`${dir}/p`, 'cat /dev/zero'), says: /too much/ },
    { title: 'is a directory', make: (dir) => made(dir, mkdirSync), says: /no regular file/ },
    { title: 'is a link', make: (dir) => made(dir, (path) => symlinkSync('/bin/true', path)), says: /no regular file/ },
    { title: 'is missing', make: (dir) => `${dir}/p`, says: /ENOENT/ },
    {
      title: 'belongs to somebody else',
      make: (dir) => made(dir, (path) => chownSync(program(path, 'true'), 65534, 0)),
      says: /belongs to user 65534/,
    },
    {
      title: 'may be written by all',
      make: (dir) => made(dir, (path) => chmodSync(program(path, 'true'), 0o777)),
      says: /written by others/,
    },
  ];
  for (const { title, make, says } of cases) {
    test(`a provider that ${title} is named, its words are not`, async (t) => {
      const dir = await tempDir(t);
      writeFileSync(`${dir}/d.toml`, `[default]\nprovider = "${make(dir)}"\n`);
      const resolver = new SecretResolver({ dir, env: {}, timeoutMs: title === 'hangs' ? 300 : 10_000 });
      await assert.rejects(resolver.resolve('d', 'CreateVolume', soon()), (error: Error) => {
        assert.match(error.message, says);
        assert.ok(!error.message.includes(SECRET));
        return true;
      });
    });
  }
});
