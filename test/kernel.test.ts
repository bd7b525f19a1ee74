import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { describe, test } from 'node:test';
import { z } from 'zod';
import { CODES, gathered, RuntimeError } from '../src/errors.ts';
import { parseMountInfo } from '../src/mountinfo.ts';
import { identify, isAlive, signalProcess } from '../src/process-identity.ts';
import { Serial } from '../src/serial.ts';
import { codeOfStatus, STATUS_NUMBERS, statusOf } from '../src/status.ts';
import { Database } from '../src/store.ts';

describe('Serial', () => {
  test('runs work of one key in order and keeps going after a failure', async () => {
    const serial = new Serial();
    const order: number[] = [];
    const first = serial.run('a', async () => {
      await new Promise(setImmediate);
      order.push(1);
      throw new Error('one');
    });
    const second = serial.run('a', async () => order.push(2));
    await assert.rejects(first, /one/);
    await second;
    assert.deepEqual(order, [1, 2]);
  });

  test('runs work of different keys side by side', async () => {
    const serial = new Serial();
    const gate = Promise.withResolvers<void>();
    const held = serial.run('a', () => gate.promise);
    assert.equal(await serial.run('b', async () => 'done'), 'done');
    gate.resolve();
    await held;
  });

  test('never starts work whose signal aborted while it queued', async () => {
    const serial = new Serial();
    const gate = Promise.withResolvers<void>();
    const held = serial.run('a', () => gate.promise);
    const controller = new AbortController();
    let started = false;
    const queued = serial.run('a', async () => (started = true), controller.signal);
    controller.abort(new Error('left'));
    gate.resolve();
    await held;
    await assert.rejects(queued, /left/);
    assert.equal(started, false);
  });
});

describe('Database', () => {
  const decode = (value: unknown): { n: number } => z.object({ n: z.int() }).parse(value);

  function directory(t: { after(fn: () => void): void }): string {
    const dir = mkdtempSync('/tmp/berth-test-db-');
    t.after(() => rmSync(dir, { recursive: true }));
    return dir;
  }

  test('keeps records over a reopen, in a file only its owner reads', (t) => {
    const path = `${directory(t)}/berth.db`;
    const first = new Database(path);
    const store = first.store('things', decode);
    store.create('__proto__', { n: 1 });
    store.write("' OR 1=1", { n: 2 });
    assert.throws(() => store.create('__proto__', { n: 3 }), { code: 'ALREADY_EXISTS' });
    first.close();
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const second = new Database(path);
    t.after(() => second.close());
    const again = second.store('things', decode);
    assert.deepEqual(
      [...again.entries()],
      [
        ["' OR 1=1", { n: 2 }],
        ['__proto__', { n: 1 }],
      ],
    );
    assert.equal(second.store('others', decode).entries().size, 0);
    again.remove('__proto__');
    assert.equal(again.read('__proto__'), undefined);
  });

  test('reports a record that does not decode and never takes it for absent', (t) => {
    const path = `${directory(t)}/berth.db`;
    new Database(path).close();
    const raw = new DatabaseSync(path);
    raw.exec(`INSERT INTO records VALUES ('things', 'bad', '{"n":"x"}'), ('things', 'good', '{"n":5}')`);
    raw.close();
    const database = new Database(path);
    t.after(() => database.close());
    const store = database.store('things', decode);
    assert.throws(() => store.read('bad'), { code: 'DATA_LOSS' });
    assert.throws(() => store.create('bad', { n: 1 }), { code: 'ALREADY_EXISTS' });
    assert.deepEqual([...store.damaged().keys()], ['bad']);
    assert.deepEqual([...store.entries().keys()], ['good']);
  });

  test('refuses a corrupt file and a newer schema, naming the file', (t) => {
    const dir = directory(t);
    writeFileSync(`${dir}/corrupt.db`, 'not a database at all, '.repeat(400));
    assert.throws(() => new Database(`${dir}/corrupt.db`), { code: 'DATA_LOSS', message: /corrupt\.db/ });
    const newer = new DatabaseSync(`${dir}/newer.db`);
    newer.exec('PRAGMA user_version=99');
    newer.close();
    assert.throws(() => new Database(`${dir}/newer.db`), { code: 'FAILED_PRECONDITION', message: /schema 99/ });
  });
});

describe('RuntimeError', () => {
  test('keeps the original as cause and derives the code from system errors and aborts', () => {
    const missing = Object.assign(new Error('gone'), { code: 'ENOENT' });
    const wrapped = RuntimeError.from(missing, 'read x');
    assert.equal(wrapped.code, 'NOT_FOUND');
    assert.equal(wrapped.cause, missing);
    assert.equal(RuntimeError.from(AbortSignal.abort().reason, 'x').code, 'CANCELLED');
    assert.equal(RuntimeError.from(new DOMException('t', 'TimeoutError'), 'x').code, 'DEADLINE_EXCEEDED');
    assert.equal(RuntimeError.from(wrapped, 'y'), wrapped);
  });

  test('gathers several failures into one that keeps them all', () => {
    assert.equal(gathered([], 'cleanup'), undefined);
    const both = gathered([new RuntimeError('UNAVAILABLE', 'a'), new Error('b')], 'cleanup');
    assert.match(both?.message ?? '', /cleanup: a; failed: b/);
    assert.ok(both?.cause instanceof AggregateError && both.cause.errors.length === 2);
  });
});

describe('statusOf', () => {
  test('has a number for every code and back', () => {
    for (const code of CODES) assert.equal(codeOfStatus(STATUS_NUMBERS[code]), code);
    assert.equal(new Set(Object.values(STATUS_NUMBERS)).size, CODES.length);
  });

  test('hides the text of errors Berth did not raise', () => {
    assert.deepEqual(statusOf(new RuntimeError('NOT_FOUND', 'no such x')), { code: 5, details: 'no such x' });
    const hidden = statusOf(new Error('password=hunter2'));
    assert.equal(hidden.code, 13);
    assert.doesNotMatch(hidden.details, /hunter2/);
  });
});

describe('parseMountInfo', () => {
  test('reads optional fields of any number and undoes escapes', () => {
    const text =
      '36 35 98:0 /mnt1 /mnt\\040two rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\n' +
      '37 35 0:5 / /x rw - tmpfs tmpfs rw\nbroken line\n';
    const [first, second, ...rest] = parseMountInfo(text);
    assert.equal(first?.mountPoint, '/mnt two');
    assert.deepEqual(first?.propagation, ['shared:1', 'master:2']);
    assert.equal(first?.fsType, 'ext3');
    assert.deepEqual(second?.propagation, []);
    assert.equal(rest.length, 0);
  });
});

describe('process identity', () => {
  test('tells a process from another one with the same pid', () => {
    const self = identify(process.pid);
    assert.ok(self !== undefined && isAlive(self));
    const stranger = { pid: self.pid, startTicks: self.startTicks - 1 };
    assert.equal(isAlive(stranger), false);
    assert.equal(signalProcess(stranger, 'SIGKILL'), false);
    assert.equal(identify(2 ** 22 + 1), undefined);
  });
});
