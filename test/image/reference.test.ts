import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formatReference, normalReference, parseReference } from '../../src/image/reference.ts';

const HEX = 'a'.repeat(64);

describe('parseReference', () => {
  test('fills in host, namespace and tag', () => {
    assert.deepEqual(parseReference('busybox'), { host: 'docker.io', path: 'library/busybox', tag: 'latest' });
    assert.deepEqual(parseReference('team/app:1.2'), { host: 'docker.io', path: 'team/app', tag: '1.2' });
  });

  test('takes a first component for a host only when it looks like one', () => {
    assert.deepEqual(parseReference('registry.example:5000/team/app'), {
      host: 'registry.example:5000',
      path: 'team/app',
      tag: 'latest',
    });
    assert.equal(parseReference('localhost/app').host, 'localhost');
    assert.equal(parseReference('[::1]:5000/app').host, '[::1]:5000');
    assert.equal(parseReference('REGISTRY/app').host, 'REGISTRY');
    assert.equal(parseReference('team/app').host, 'docker.io');
  });

  test('keeps a digest and adds no tag beside it', () => {
    const digest = `sha256:${HEX}`;
    assert.deepEqual(parseReference(`app@${digest}`), { host: 'docker.io', path: 'library/app', digest });
    assert.deepEqual(parseReference(`app:1@${digest}`), { host: 'docker.io', path: 'library/app', tag: '1', digest });
  });

  // K15
  const bad: readonly string[] = [
    '',
    ' ',
    ':',
    '@',
    '/',
    'a/',
    '/a',
    'a//b',
    '../x',
    'reg.example/../x:tag',
    'reg.example/./x',
    'a/..',
    'Busybox',
    'team/App',
    'a_-b',
    'a..b',
    '-a',
    'a-',
    'a b',
    'a\n',
    'a\0b',
    'a:',
    'a:b:c',
    'a:-tag',
    `a:${'t'.repeat(129)}`,
    `a:${'t'.repeat(300)}`,
    `${'n'.repeat(256)}`,
    `a@sha256:${HEX.slice(1)}`,
    `a@sha256:${HEX.toUpperCase()}`,
    `a@sha256:${HEX.slice(0, -6)}/../x`,
    'a@sha256:',
    'a@',
    `a@md5:${HEX}`,
    `a@sha256:${HEX}@sha256:${HEX}`,
    HEX,
    'sha256:abcd',
    'host.example:0/a',
    'host.example:65536/a',
    'host.example:port/a',
    'host..example/a',
    '-host.example/a',
    'docker.io/',
    'a'.repeat(100_000),
    `${'a-'.repeat(50_000)}!`,
  ];
  for (const text of bad) {
    test(`refuses ${JSON.stringify(text.slice(0, 40))} of ${text.length} characters`, () => {
      assert.throws(() => parseReference(text), { code: 'INVALID_ARGUMENT', message: /^image reference: / });
    });
  }
});

describe('normalReference', () => {
  test('every way of writing a name gives the same text', () => {
    for (const text of ['busybox', 'busybox:latest', 'docker.io/busybox', 'index.docker.io/library/busybox:latest']) {
      assert.equal(normalReference(text), 'busybox:latest');
    }
    assert.equal(normalReference('docker.io/team/app:2'), 'team/app:2');
    assert.equal(normalReference('reg.example:5000/app'), 'reg.example:5000/app:latest');
  });

  test('its text is read as what it was made of', () => {
    const all = ['a', 'a/b:c', 'docker.io/localhost/x', 'docker.io/a.b/x', 'h.example/a/b/c:1', `a:1@sha256:${HEX}`];
    for (const text of all) {
      const parsed = parseReference(text);
      assert.deepEqual(parseReference(formatReference(parsed)), parsed);
    }
  });
});
