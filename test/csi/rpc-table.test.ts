/** The table of calls in docs/csi.md: every call of the protocol is in it, and each test that it names is there. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { z } from 'zod';

const ROOT = new URL('../../', import.meta.url);

const text = (path: string): string => readFileSync(new URL(path, ROOT), 'utf8');

/** Calls of the specification, as facts. */
const { services } = z
  .object({ services: z.record(z.string(), z.object({ rpcs: z.record(z.string(), z.unknown()) })) })
  .parse(JSON.parse(text('test/fixtures/csi.json')));
const calls = Object.values(services).flatMap(({ rpcs }) => Object.keys(rpcs));

interface Row {
  readonly rpc: string;
  readonly when: string;
  readonly file: string;
  readonly title: string;
}

/** Rows of the section: | call | when | needs | file: "title" | */
function rows(): Row[] {
  const [, section = ''] = text('docs/csi.md').split('\n## Every call\n');
  const [table = ''] = section.split('\n## ');
  return [...table.matchAll(/^\| (\w+) \| (.+?) \| .+? \| `([^`]+)`: "([^"]+)" \|$/gm)].map(
    ([, rpc = '', when = '', file = '', title = '']) => ({ rpc, when, file, title }),
  );
}

describe('the table of calls', () => {
  test('has each call of the protocol once', () => {
    assert.equal(calls.length, 32);
    assert.deepEqual(
      rows()
        .map(({ rpc }) => rpc)
        .sort(),
      [...calls].sort(),
    );
  });

  for (const { rpc, when, file, title } of rows()) {
    test(`${rpc} is proved by a test that is there and names it`, () => {
      assert.notEqual(when.trim(), '');
      assert.ok(existsSync(new URL(file, ROOT)), `${file} is not there`);
      const source = text(file);
      const named = [...source.matchAll(/\btest\(\s*(['"`])(.+?)\1,/gs)].map(([, , name = '']) => name);
      assert.ok(named.includes(title), `${file} has no test "${title}"`);
      assert.ok(new RegExp(`\\b${rpc}\\b`).test(source), `${file} does not name ${rpc}`);
    });
  }
});
