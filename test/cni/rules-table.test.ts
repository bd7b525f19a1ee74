import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, test } from 'node:test';

const ROOT = join(import.meta.dirname, '../..');

interface Row {
  readonly file: string;
  readonly title: string;
}

/** Rows of the tables whose second column names a test: "`file` title". */
function rows(text: string): readonly Row[] {
  return [...text.matchAll(/^\|.*\| `([a-z0-9-]+)` (.+) \|$/gm)].map(([, file = '', title = '']) => ({ file, title }));
}

/** What stands right before a title: a call that makes a test. */
const MAKES_TEST = /(?:\btest|\bt\.test)\(\s*['"`]$/;

/** True when the text has a test whose title begins with these words, or with a value and then these words. */
function hasTest(text: string, title: string): boolean {
  for (let at = text.indexOf(title); at >= 0; at = text.indexOf(title, at + 1)) {
    const before = text.slice(Math.max(0, at - 80), at).replace(/\$\{[^`\n]*\}:? ?$/, '');
    if (MAKES_TEST.test(before)) return true;
  }
  return false;
}

/** Text of all test files by their names without extensions. */
function testFiles(): ReadonlyMap<string, string> {
  const paths = globSync('test/**/*.{test,integration}.ts', { cwd: ROOT });
  const texts = new Map<string, string>();
  for (const path of paths) {
    const name = basename(path).replace(/\.(test|integration)\.ts$/, '');
    texts.set(name, `${texts.get(name) ?? ''}${readFileSync(join(ROOT, path), 'utf8')}`);
  }
  return texts;
}

describe('the table of rules in docs/cni.md', () => {
  const table = readFileSync(join(ROOT, 'docs/cni.md'), 'utf8').split('## Rules and their tests')[1] ?? '';

  test('names tests that exist', () => {
    const files = testFiles();
    const lost = rows(table).filter(({ file, title }) => {
      const text = files.get(file)?.replaceAll('\\u2019', '\u2019') ?? '';
      return !hasTest(text, title);
    });
    assert.deepEqual(lost, []);
  });

  test('has a test for every rule', () => {
    const lines = table.split('\n').filter((line) => line.startsWith('|') && !line.startsWith('|---'));
    const heads = lines.filter((line) => line.endsWith('| test |'));
    assert.equal(rows(table).length, lines.length - heads.length);
    assert.ok(rows(table).length > 120);
  });

  test('has every lesson from 1 to 23', () => {
    const lessons = table.split('| what goes wrong elsewhere')[1] ?? '';
    const numbers = new Set([...lessons.matchAll(/^\| (\d+) /gm)].map(([, number]) => Number(number)));
    assert.deepEqual(
      [...numbers],
      [...Array(23).keys()].map((index) => index + 1),
    );
  });

  test('has the faults K17 to K20, K29 and K30', () => {
    const faults = table.split('| faults | test |')[1] ?? '';
    const cases = new Set([...faults.matchAll(/^\| (K\d+) /gm)].map(([, name]) => name));
    assert.deepEqual([...cases], ['K17', 'K18', 'K19', 'K20', 'K29', 'K30']);
  });
});
