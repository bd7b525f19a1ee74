import assert from 'node:assert/strict';
import {
  appendFileSync,
  linkSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../../src/errors.ts';
import { ContainerLog, prepareLog } from '../../../src/runtime/launcher/container-log.ts';
import { LogParser } from '../../../src/runtime/launcher/log-parser.ts';
import type { LogOptions, OutputChunk } from '../../../src/runtime/launcher.ts';
import { tempDir } from '../../support/temp-dir.ts';

const AT = '2026-01-02T03:04:05.678901234+00:00';
const never = new AbortController().signal;

function entry(stream: string, tag: string, text: string, at: string = AT): string {
  return `${at} ${stream} ${tag} ${text}\n`;
}

async function texts(path: string, options: Partial<LogOptions> = {}): Promise<string[]> {
  const log = await ContainerLog.open(path);
  const found: string[] = [];
  for await (const chunk of log.read({ follow: false, ...options }, undefined, never)) found.push(text(chunk));
  return found;
}

function text({ stream, data }: OutputChunk): string {
  return `${stream}:${Buffer.from(data).toString('latin1')}`;
}

describe('LogParser', () => {
  test('gives the same bytes however the log is cut', () => {
    const content = Buffer.from(
      `${entry('stdout', 'F', 'a b')}${entry('stderr', 'P', '\xff\0')}${entry('stdout', 'F', '')}`,
      'latin1',
    );
    for (let size = 1; size <= content.length; size += 1) {
      const parser = new LogParser();
      const found: string[] = [];
      for (let at = 0; at < content.length; at += size) {
        for (const { stream, data } of parser.push(content.subarray(at, at + size))) {
          found.push(`${stream}:${Buffer.from(data).toString('latin1')}`);
        }
      }
      assert.deepEqual(found, ['stdout:a b\n', 'stderr:\xff\0', 'stdout:\n'], `pieces of ${size}`);
    }
  });

  test('leaves out lines that are no entries, and keeps count of where the others begin', () => {
    const damaged = ['nonsense', '', 'a b c d', `${AT} stdin F x`, `${AT} stdout X x`, `${AT} stdout`].join('\n');
    const entries = [...new LogParser().push(Buffer.from(`${damaged}\n${entry('stdout', 'F', 'good')}`))];
    assert.deepEqual(
      entries.map(({ data, offset }) => [Buffer.from(data).toString(), offset]),
      [['good\n', damaged.length + 1]],
    );
  });
});

describe('ContainerLog.read', () => {
  test('joins what was written in one piece and keeps the streams in order', async (t) => {
    const path = join(await tempDir(t), 'log');
    writeFileSync(
      path,
      entry('stdout', 'F', '1') + entry('stdout', 'P', '2') + entry('stderr', 'F', '3') + entry('stdout', 'F', '4'),
    );
    assert.deepEqual(await texts(path), ['stdout:1\n2', 'stderr:3\n', 'stdout:4\n']);
  });

  test('gives the last lines; a line in pieces is one', async (t) => {
    const path = join(await tempDir(t), 'log');
    const long = entry('stdout', 'P', 'long ') + entry('stdout', 'P', 'longer ') + entry('stdout', 'F', 'longest');
    writeFileSync(path, entry('stdout', 'F', 'one') + long + entry('stderr', 'F', 'three'));
    assert.equal((await texts(path, { tailLines: 0 })).join(''), '');
    assert.equal((await texts(path, { tailLines: 1 })).join(''), 'stderr:three\n');
    assert.equal((await texts(path, { tailLines: 2 })).join('|'), 'stdout:long longer longest\n|stderr:three\n');
    assert.equal((await texts(path, { tailLines: 99 })).length, 2);
  });

  test('gives what came at or after an instant, in whatever zone it was written', async (t) => {
    const path = join(await tempDir(t), 'log');
    writeFileSync(
      path,
      entry('stdout', 'F', 'before', '2026-01-02T04:59:59.000000000+02:00') +
        entry('stdout', 'F', 'after', '2026-01-02T05:00:00.000000000+02:00'),
    );
    assert.deepEqual(await texts(path, { since: '2026-01-02T03:00:00Z' }), ['stdout:after\n']);
  });

  test('follows until the end is known and everything is read, also when the file is removed', async (t) => {
    const path = join(await tempDir(t), 'log');
    writeFileSync(path, entry('stdout', 'F', 'first'));
    const ended = Promise.withResolvers<void>();
    const log = await ContainerLog.open(path);
    const chunks = log.read({ follow: true }, ended.promise, never)[Symbol.asyncIterator]();
    assert.equal(text((await chunks.next()).value), 'stdout:first\n');
    const second = chunks.next();
    appendFileSync(path, entry('stdout', 'F', 'second'));
    assert.equal(text((await second).value), 'stdout:second\n');
    appendFileSync(path, entry('stdout', 'F', 'third'));
    unlinkSync(path);
    ended.resolve();
    assert.equal(text((await chunks.next()).value), 'stdout:third\n');
    assert.equal((await chunks.next()).done, true);
  });

  test('ends with the reason of its signal', async (t) => {
    const path = join(await tempDir(t), 'log');
    writeFileSync(path, '');
    const stop = new AbortController();
    const log = await ContainerLog.open(path);
    const chunks = log
      .read({ follow: true }, Promise.withResolvers<void>().promise, stop.signal)
      [Symbol.asyncIterator]();
    const next = chunks.next();
    stop.abort(new RuntimeError('CANCELLED', 'enough'));
    await assert.rejects(next, /enough/);
  });

  test('closes the file of a reading that nobody begins', async (t) => {
    const path = join(await tempDir(t), 'log');
    writeFileSync(path, '');
    const stop = new AbortController();
    const log = await ContainerLog.open(path);
    const chunks = log.read({ follow: true }, Promise.withResolvers<void>().promise, stop.signal);
    stop.abort();
    assert.throws(() => chunks[Symbol.asyncIterator](), /given up/);
  });
});

describe('prepareLog', () => {
  test('makes a log for root only and keeps what is there', async (t) => {
    const path = join(await tempDir(t), 'log');
    await prepareLog(path);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    appendFileSync(path, entry('stdout', 'F', 'kept'));
    await prepareLog(path);
    assert.equal(readFileSync(path, 'utf8'), entry('stdout', 'F', 'kept'));
  });

  test('closes an entry that was cut off, so that the next one is not lost in it', async (t) => {
    const path = join(await tempDir(t), 'log');
    writeFileSync(path, `${entry('stdout', 'F', 'whole')}${AT} stdout F cut`);
    await prepareLog(path);
    appendFileSync(path, entry('stdout', 'F', 'next'));
    assert.deepEqual(await texts(path), ['stdout:whole\ncut\nnext\n']);
  });

  test('refuses links, second names and directories, and leaves what they lead to alone', async (t) => {
    const dir = await tempDir(t);
    const canary = join(dir, 'canary');
    writeFileSync(canary, 'untouched');
    symlinkSync(canary, join(dir, 'soft'));
    symlinkSync(join(dir, 'absent'), join(dir, 'dangling'));
    linkSync(canary, join(dir, 'hard'));
    mkdirSync(join(dir, 'directory'));
    for (const name of ['soft', 'dangling', 'hard', 'directory']) {
      await assert.rejects(prepareLog(join(dir, name)), RuntimeError, name);
      await assert.rejects(ContainerLog.open(join(dir, name)), RuntimeError, name);
    }
    assert.equal(readFileSync(canary, 'utf8'), 'untouched');
  });
});
