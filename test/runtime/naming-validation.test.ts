import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Naming } from '../../src/runtime/container.ts';
import { validateSpec } from '../../src/runtime/spec-validation.ts';
import { containerSpec } from '../support/container-spec.ts';

const NONE: Naming = { aliases: [], dnsServers: [], dnsSearch: [], dnsOptions: [], extraHosts: [] };

function check(change: Partial<Naming>, network: 'none' | 'host' | readonly string[] = ['net']): void {
  validateSpec(containerSpec({ network, naming: { ...NONE, ...change } }));
}

/** Nothing that would be more than one word of one line (K20). */
const NO_WORDS = ['', ' ', 'a b', 'a\nb', 'a\n', '\ta', 'a#b', 'a;b', '-a', 'x'.repeat(300), 'a\0', 'ü'];

describe('what a request says about names', () => {
  test('may be nothing, or everything', () => {
    validateSpec(containerSpec({}));
    check({
      aliases: ['db', 'db.internal', 'my_db', '9lives'],
      dnsServers: ['192.0.2.1', '2001:db8::1', '127.0.0.53'],
      dnsSearch: ['example.org', '_tcp.example.org'],
      dnsOptions: ['ndots:2', 'rotate', 'edns0'],
      extraHosts: [
        { name: 'other', address: '192.0.2.7' },
        { name: 'six', address: '2001:db8::7' },
        { name: 'up', address: 'host-gateway' },
      ],
    });
    check({ dnsSearch: ['.'], extraHosts: [{ name: 'x', address: '192.0.2.7' }] }, 'none');
    check({ dnsServers: ['192.0.2.1'], extraHosts: [{ name: 'x', address: 'host-gateway' }] }, 'host');
  });

  for (const word of NO_WORDS) {
    test(`refuses ${JSON.stringify(word.slice(0, 12))} wherever a word may stand (K20)`, () => {
      assert.throws(() => check({ aliases: [word] }), { code: 'INVALID_ARGUMENT', message: /^network-alias: / });
      assert.throws(() => check({ dnsServers: [`192.0.2.1${word}x`] }), { message: /^dns: / });
      assert.throws(() => check({ dnsSearch: [word] }), { message: /^dns-search: / });
      assert.throws(() => check({ dnsOptions: [word] }), { message: /^dns-option: / });
      const named = (name: string, address: string) => () => check({ extraHosts: [{ name, address }] });
      assert.throws(named(word, '192.0.2.1'), { message: /^add-host: / });
      assert.throws(named('x', `192.0.2.1${word}x`), { message: /^add-host: / });
    });
  }

  test('refuses a name that is an address, or that everybody has', () => {
    for (const alias of ['10.0.0.1', '7', 'a..b', 'localhost', 'LOCALHOST']) {
      assert.throws(() => check({ aliases: [alias] }), { message: /^network-alias: / }, alias);
    }
    assert.throws(() => check({ extraHosts: [{ name: '10.0.0.1', address: '10.0.0.2' }] }), { message: /^add-host: / });
  });

  test('refuses what could not be used', () => {
    assert.throws(() => check({ dnsServers: ['fe80::1%eth0'] }), { message: /^dns: / });
    assert.throws(() => check({ dnsServers: ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4'] }), {
      message: /^dns: 4 of them, at most 3 are used/,
    });
    assert.throws(() => check({ dnsSearch: ['.', 'example.org'] }), { message: /^dns-search: / });
    assert.throws(() => check({ aliases: ['db'] }, 'host'), { message: /^network-alias: .*"host"/ });
    assert.throws(() => check({ aliases: ['db'] }, 'none'), { message: /^network-alias: / });
    assert.throws(() => check({ extraHosts: [{ name: 'x', address: 'host-gateway' }] }, 'none'), {
      message: /^add-host: .*needs a network/,
    });
    const many = Array.from({ length: 300 }, (_, index) => ({ name: `n${index}`, address: '192.0.2.1' }));
    assert.throws(() => check({ extraHosts: many }), { message: /^add-host: more than 256/ });
  });
});
