/** docs/csi.md and the tests it names are kept together. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { bodyLines, lessons, lostTests, rows, tableOf } from '../support/rules-table.ts';

describe('the table of rules in docs/csi.md', () => {
  const table = tableOf('docs/csi.md');

  test('names tests that exist', () => {
    assert.deepEqual(lostTests(rows(table)), []);
  });

  test('has a test for every rule', () => {
    assert.equal(rows(table).length, bodyLines(table).length);
    assert.ok(rows(table).length > 60);
  });

  test('has every lesson from 24 to 45', () => {
    assert.deepEqual(
      lessons(table),
      [...Array(22).keys()].map((index) => index + 24),
    );
  });
});
