/** Tables in documents that name the test of each rule: "| rule | `file` title |", below the heading "Rules and their tests". */
import { globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';

const ROOT = join(import.meta.dirname, '../..');

/** What a row names. */
export interface Row {
  readonly file: string;
  readonly title: string;
}

/** The part of a document that holds its tables. */
export function tableOf(document: string): string {
  const text = readFileSync(join(ROOT, document), 'utf8').split('## Rules and their tests')[1] ?? '';
  return text.split('\n## ')[0] ?? '';
}

/** Rows whose second column names a test. */
export function rows(table: string): readonly Row[] {
  return [...table.matchAll(/^\|.*\| `([a-z0-9-]+)` (.+) \|$/gm)].map(([, file = '', title = '']) => ({ file, title }));
}

/** Lines of the tables that are neither heads nor rules. */
export function bodyLines(table: string): readonly string[] {
  return table
    .split('\n')
    .filter((line) => line.startsWith('|') && !line.startsWith('|---') && !line.endsWith('| test |'));
}

/** Rows whose test is not there. */
export function lostTests(all: readonly Row[]): readonly Row[] {
  const files = testFiles();
  return all.filter(({ file, title }) => !hasTest(files.get(file)?.replaceAll('\\u2019', '\u2019') ?? '', title));
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

/** Numbers of the lessons in the table of what goes wrong elsewhere, each once. */
export function lessons(table: string): readonly number[] {
  const part = table.split('| what goes wrong elsewhere')[1] ?? '';
  return [...new Set([...part.matchAll(/^\| (\d+) /gm)].map(([, number]) => Number(number)))];
}

/** Text of all test files by their names without extensions. */
function testFiles(): ReadonlyMap<string, string> {
  const texts = new Map<string, string>();
  for (const path of globSync('test/**/*.{test,integration}.ts', { cwd: ROOT })) {
    const name = basename(path).replace(/\.(test|integration)\.ts$/, '');
    texts.set(name, `${texts.get(name) ?? ''}${readFileSync(join(ROOT, path), 'utf8')}`);
  }
  return texts;
}
