import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseChanges } from '../../src/image/image-config.ts';
import { splitWords } from '../../src/image/instruction-words.ts';

describe('splitWords', () => {
  const cases: readonly (readonly [string, readonly string[] | undefined])[] = [
    ['a b  c', ['a', 'b', 'c']],
    ['a="b c" d', ['a=b c', 'd']],
    ["a='b \"c' d=''", ['a=b "c', 'd=']],
    ['a\\ b c\\"d', ['a b', 'c"d']],
    ['"a\\"b" "c\\n" "d\\\\"', ['a"b', 'c\\n', 'd\\']],
    ["'a\\b'", ['a\\b']],
    ['', []],
    ['"open', undefined],
    ["it's", undefined],
  ];
  for (const [text, words] of cases) {
    test(`splits ${JSON.stringify(text)}`, () => assert.deepEqual(splitWords(text), words));
  }
});

describe('parseChanges', () => {
  test('reads JSON arrays as words and other text as a line for the shell', () => {
    const config = parseChanges(['CMD ["a", "b c", ""]', 'entrypoint [ -x /init ] && exec /init']);
    assert.deepEqual(config.command, ['a', 'b c', '']);
    assert.deepEqual(config.entrypoint, ['/bin/sh', '-c', '[ -x /init ] && exec /init']);
    assert.deepEqual(parseChanges(['CMD ["a"]', 'CMD []']).command, []);
  });

  test('gathers environment and labels, the last word of a key counts', () => {
    const config = parseChanges(['ENV A=1 B="two words"', 'ENV A=3', 'ENV OLD the old form', 'LABEL a.b=c "d e"=f=g']);
    assert.deepEqual(config.env, ['A=3', 'B=two words', 'OLD=the old form']);
    assert.deepEqual({ ...config.labels }, { 'a.b': 'c', 'd e': 'f=g' });
  });

  test('resolves working directories one from the other', () => {
    assert.equal(parseChanges(['WORKDIR /srv/', 'WORKDIR app/./x']).workingDir, '/srv/app/x');
    assert.equal(parseChanges(['WORKDIR ../..']).workingDir, '/');
  });

  test('an image without changes says nothing', () => {
    assert.deepEqual(parseChanges([]), { entrypoint: [], command: [], env: [], labels: {} });
  });

  const bad: readonly string[] = [
    '',
    'CMD',
    'CMD   ',
    'RUN rm -rf /',
    'VOLUME /data',
    'constructor x',
    '__proto__ x',
    'CMD ["a", 1]',
    'CMD ["a"',
    'CMD ["a\\u0000b"]',
    'CMD a\0b',
    'ENV KEY',
    'ENV =x',
    'ENV A=1 B',
    'ENV "A=1',
    'ENV "A\nB"=1',
    'LABEL a',
    // K01
    'WORKDIR /proc/self/fd/7',
    'WORKDIR /sys',
    'WORKDIR /a/../dev/fd',
    `WORKDIR /${'x'.repeat(5000)}`,
    // K02
    'USER 4294967296',
    'USER -1',
    'USER 1.5',
    'USER 0x10',
    'USER root:',
    'USER a b',
    `CMD ${'x'.repeat(70_000)}`,
  ];
  for (const change of bad) {
    test(`refuses ${JSON.stringify(change.slice(0, 40))}`, () => {
      assert.throws(() => parseChanges([change]), { code: 'INVALID_ARGUMENT', message: /^change/ });
    });
  }

  test('refuses more instructions than anybody needs', () => {
    assert.throws(() => parseChanges(Array(1000).fill('ENV A=1')), { code: 'INVALID_ARGUMENT' });
  });
});
