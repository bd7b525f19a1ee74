/** docs/cni.md and the tests it names are kept together. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { bodyLines, lessons, lostTests, rows, tableOf } from '../support/rules-table.ts';

describe('the table of rules in docs/cni.md', () => {
  const table = tableOf('docs/cni.md');

  test('names tests that exist', () => {
    assert.deepEqual(lostTests(rows(table)), []);
  });

  test('has a test for every rule', () => {
    assert.equal(rows(table).length, bodyLines(table).length);
    assert.ok(rows(table).length > 120);
  });

  test('has every lesson from 1 to 23', () => {
    assert.deepEqual(
      lessons(table),
      [...Array(23).keys()].map((index) => index + 1),
    );
  });

  test('has the faults K17 to K20, K29 and K30', () => {
    const faults = table.split('| faults | test |')[1] ?? '';
    const cases = new Set([...faults.matchAll(/^\| (K\d+) /gm)].map(([, name]) => name));
    assert.deepEqual([...cases], ['K17', 'K18', 'K19', 'K20', 'K29', 'K30']);
  });
});
