/** The bounded log of a plugin: what is kept, what is read back, and what a reader that follows gets. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, readFileSync, statSync, writeSync } from 'node:fs';
import { describe, test } from 'node:test';
import { PluginLog } from '../../src/csi/plugin-log.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { tempDir } from '../support/temp-dir.ts';

interface Fixture {
  readonly path: string;
  readonly log: PluginLog;
  write(text: string): void;
}

async function logIn(t: TestScope, maxBytes?: number): Promise<Fixture> {
  const path = `${await tempDir(t)}/some.log`;
  const log = new PluginLog(path, maxBytes);
  const fd = log.open();
  cleanup(t, () => closeSync(fd));
  return { path, log, write: (text) => void writeSync(fd, text) };
}

async function all(pieces: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const piece of pieces) parts.push(piece);
  return Buffer.concat(parts).toString();
}

const soon = (): AbortSignal => AbortSignal.timeout(10_000);

describe('PluginLog', () => {
  test("is root's alone, and empty before anything was written", async (t) => {
    const { path, log } = await logIn(t);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.equal(await all(log.read({ follow: false }, soon())), '');
  });

  test('gives the last lines, the unfinished one included', async (t) => {
    const { log, write } = await logIn(t);
    write('a\nb\nc\nd');
    const tail = (tailLines: number): Promise<string> => all(log.read({ follow: false, tailLines }, soon()));
    assert.deepEqual(await Promise.all([0, 1, 2, 3, 4, 9].map(tail)), [
      '',
      'd',
      'c\nd',
      'b\nc\nd',
      'a\nb\nc\nd',
      'a\nb\nc\nd',
    ]);
    write('\n');
    assert.equal(await tail(1), 'd\n');
  });

  test('is cut when it is too long; the part before the cut is kept, the writer goes on at the beginning', async (t) => {
    const { path, log, write } = await logIn(t, 8);
    write('12345678');
    log.rotate();
    assert.equal(existsSync(`${path}.1`), false);
    write('9\n');
    log.rotate();
    write('new\n');
    assert.equal(readFileSync(path, 'utf8'), 'new\n');
    assert.equal(await all(log.read({ follow: false }, soon())), '123456789\nnew\n');
    assert.equal(await all(log.read({ follow: false, tailLines: 1 }, soon())), 'new\n');
    assert.equal(statSync(`${path}.1`).mode & 0o777, 0o600);
  });

  test('keeps the end of a log that nobody cut for long', async (t) => {
    const { path, log, write } = await logIn(t, 4);
    write('long ago\nand now\n');
    assert.equal(await all(log.read({ follow: false }, soon())), 'and now\n');
    log.rotate();
    assert.equal(readFileSync(`${path}.1`, 'utf8'), 'and now\n');
    assert.equal(statSync(path).size, 0);
  });

  test('gives a reader that follows everything, over a cut, until it is removed', async (t) => {
    const { path, log, write } = await logIn(t, 4);
    write('one\n');
    let got = '';
    const read = (async () => {
      for await (const piece of log.read({ follow: true }, soon())) got += piece.toString();
    })();
    const until = async (text: string): Promise<void> => {
      const deadline = Date.now() + 10_000;
      while (got !== text) {
        assert.ok(Date.now() < deadline, got);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    };
    write('two\n');
    await until('one\ntwo\n');
    log.rotate();
    write('six\n');
    await until('one\ntwo\nsix\n');
    log.remove();
    await read;
    assert.equal(existsSync(path) || existsSync(`${path}.1`), false);
    log.remove();
  });

  test('ends a reader that follows when its signal aborts', async (t) => {
    const { log, write } = await logIn(t);
    write('one\n');
    assert.equal(await all(log.read({ follow: true }, AbortSignal.timeout(50))), 'one\n');
  });
});
