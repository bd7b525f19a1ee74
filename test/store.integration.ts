/** What a record outlives, asked of the kernel. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Database } from '../src/store.ts';
import { needs } from './support/needs.ts';
import { tempDir } from './support/temp-dir.ts';

const MODULE = new URL('../src/store.ts', import.meta.url).href;

/** A program that opens the database, does this to a store, and is killed on the spot. */
function killedAfter(path: string, work: string): readonly string[] {
  const script = `
    import { Database } from '${MODULE}';
    const store = new Database('${path}').store('thing', (value) => value);
    ${work}
    process.kill(process.pid, 'SIGKILL');`;
  return [process.execPath, '--input-type=module-typescript', '--eval', script];
}

describe('Store', () => {
  test('keeps what was written for the process through its SIGKILL', async (t) => {
    const path = join(await tempDir(t), 'berth.db');
    const [file = '', ...args] = killedAfter(
      path,
      "store.create('a', 1, 'process'); store.write('b', 2, 'process'); store.create('c', 3); store.remove('c', 'process');",
    );
    assert.equal(spawnSync(file, args).signal, 'SIGKILL');
    const database = new Database(path);
    const entries = database.store('thing', (value) => value).entries();
    assert.deepEqual(
      [...entries],
      [
        ['a', 1],
        ['b', 2],
      ],
    );
    database.close();
  });

  test('syncs before it returns only what must outlive a power failure', async (t) => {
    if (!needs(t, 'strace')) return;
    const dir = await tempDir(t);
    const syncs = (work: string): number => {
      const log = join(dir, 'strace');
      const before = "store.write('x', 0);";
      const traced = ['-f', '-qq', '-e', 'trace=fsync,fdatasync', '-o', log];
      spawnSync('strace', [...traced, ...killedAfter(join(dir, `db-${work.length}`), before + work)]);
      return readFileSync(log, 'utf8')
        .split('\n')
        .filter((line) => /sync\(/.test(line)).length;
    };
    const none = syncs('');
    assert.equal(syncs("for (let i = 0; i < 20; i += 1) store.write('p', i, 'process');"), none);
    assert.equal(syncs("for (let i = 0; i < 20; i += 1) store.write('power', i, 'power');") - none, 20);
  });
});
