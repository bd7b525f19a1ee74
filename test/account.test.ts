import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MAX_ACCOUNT_ID, parseAccount, parseAccountId } from '../src/account.ts';

describe('parseAccountId', () => {
  test('takes plain decimal from 0 to 2^31 - 2', () => {
    assert.equal(parseAccountId('0'), 0);
    assert.equal(parseAccountId(String(MAX_ACCOUNT_ID)), 2_147_483_646);
  });

  // K02
  for (const text of ['', '-1', '+1', '01', '1.5', '0x10', '1e3', ' 1', '1 ', '1\n', '2147483647', '4294967296', '٣']) {
    test(`takes ${JSON.stringify(text)} for no number`, () => assert.equal(parseAccountId(text), undefined));
  }
});

describe('parseAccount', () => {
  test('reads numbers as numbers and names as names', () => {
    assert.deepEqual(parseAccount('user', '1000:100'), { user: 1000, group: 100 });
    assert.deepEqual(parseAccount('user', 'www-data'), { user: 'www-data' });
    assert.deepEqual(parseAccount('user', 'a:0'), { user: 'a', group: 0 });
    assert.deepEqual(parseAccount('user', '0:staff'), { user: 0, group: 'staff' });
  });

  for (const text of ['', ':', ':1', '1:', 'a:b:c', '4294967296', '-1', '1.5', '0x10', 'root\n', '1 ', 'a b', 'a/b']) {
    test(`refuses ${JSON.stringify(text)}`, () => {
      assert.throws(() => parseAccount('user', text), { code: 'INVALID_ARGUMENT', message: /^user: / });
    });
  }
});
