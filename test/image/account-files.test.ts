import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { type Account, parseAccount } from '../../src/account.ts';
import { OpenDirectory } from '../../src/fd-walk.ts';
import { type ResolvedUser, resolveUser } from '../../src/image/account-files.ts';
import type { TestScope } from '../support/cleanup.ts';
import { tempDir } from '../support/temp-dir.ts';

const PASSWD = [
  'root:x:0:0:root:/root:/bin/sh',
  '# a comment',
  'broken:x',
  'big:x:4294967296:0::/big:',
  'app:x:1000:100:App:/srv/app:/bin/sh',
  'again:x:1000:7::/again:',
  'nohome:x:1001:101:::',
  'odd:x:1002:102::relative:',
].join('\n');
const GROUP = [
  'root:x:0:',
  'users:x:100:',
  'disk:x:6:other,app',
  'audio:x:29:app',
  'big:x:4294967295:app',
  'also:x:29:app',
];

async function root(t: TestScope, files: Readonly<Record<string, string>>): Promise<string> {
  const dir = await tempDir(t);
  await mkdir(`${dir}/etc`);
  for (const [name, text] of Object.entries(files)) await writeFile(`${dir}/etc/${name}`, text);
  return dir;
}

function resolve(dir: string, account: Account): ResolvedUser {
  using open = OpenDirectory.open(dir);
  return resolveUser(open, account);
}

describe('resolveUser', () => {
  test('finds a name, its home and the groups that list it, the primary one first', async (t) => {
    const dir = await root(t, { passwd: PASSWD, group: GROUP.join('\n') });
    assert.deepEqual(resolve(dir, { user: 'app' }), {
      uid: 1000,
      gid: 100,
      additionalGids: [100, 6, 29],
      home: '/srv/app',
    });
  });

  test('a number that a line has is that user, the first line counts', async (t) => {
    const dir = await root(t, { passwd: PASSWD, group: GROUP.join('\n') });
    assert.deepEqual(resolve(dir, { user: 1000 }), {
      uid: 1000,
      gid: 100,
      additionalGids: [100, 6, 29],
      home: '/srv/app',
    });
  });

  test('a number that no line has is taken as it is', async (t) => {
    const wanted = { uid: 4242, gid: 0, additionalGids: [0], home: '/' };
    assert.deepEqual(resolve(await root(t, { passwd: PASSWD }), { user: 4242 }), wanted);
    assert.deepEqual(resolve(await tempDir(t), { user: 4242 }), wanted);
  });

  test('a group that is named stands alone', async (t) => {
    const dir = await root(t, { passwd: PASSWD, group: GROUP.join('\n') });
    assert.deepEqual(resolve(dir, parseAccount('user', 'app:disk')).additionalGids, [6]);
    assert.deepEqual(resolve(dir, parseAccount('user', '4242:55')), {
      uid: 4242,
      gid: 55,
      additionalGids: [55],
      home: '/',
    });
  });

  test('homes that are no absolute path count as none', async (t) => {
    const dir = await root(t, { passwd: PASSWD, group: '' });
    for (const user of ['nohome', 'odd']) assert.equal(resolve(dir, { user }).home, '/');
  });

  test('refuses names that are not there, and lines whose numbers do not fit', async (t) => {
    const dir = await root(t, { passwd: PASSWD, group: GROUP.join('\n') });
    for (const account of ['none', 'big', 'broken', 'app:none', 'app:big', '0:none']) {
      const failure = { code: 'FAILED_PRECONDITION', message: /^user: / };
      assert.throws(() => resolve(dir, parseAccount('user', account)), failure, account);
    }
  });

  test('follows no link on the way to the files', async (t) => {
    const [dir, other] = [await tempDir(t), await root(t, { passwd: PASSWD, group: GROUP.join('\n') })];
    await symlink(`${other}/etc`, `${dir}/etc`);
    assert.throws(() => resolve(dir, { user: 'app' }), { code: 'FAILED_PRECONDITION' });
    assert.equal(resolve(dir, { user: 1000 }).home, '/');
  });
});
