/** The files that say where secrets are. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SECRET_FIELDS } from '../../src/csi/redaction.ts';
import { parseSecretReferences, referenceFor, SECRET_KINDS } from '../../src/csi/secret-references.ts';
import { RuntimeError } from '../../src/errors.ts';

describe('secret references', () => {
  test('every call that takes secrets is of one kind, but for those Berth does not make', () => {
    const known = Object.values(SECRET_KINDS).flat();
    const marked = SECRET_FIELDS.map((field) => field.replace('Request.secrets', ''));
    assert.deepEqual([...known].sort(), marked.sort());
    assert.equal(new Set(known).size, known.length);
  });

  test('a kind has its own table or the default one', () => {
    const text = '[default]\nprovider = "/bin/p"\n[node-stage.keys]\nk = { env = "K" }\n';
    const references = parseSecretReferences(text);
    assert.equal(referenceFor(references, 'CreateVolume')?.provider, '/bin/p');
    assert.deepEqual(referenceFor(references, 'NodeStageVolume')?.keys.get('k'), { env: 'K' });
    assert.equal(referenceFor(references, 'NodeStageVolume')?.provider, undefined);
  });

  const bad: readonly [title: string, text: string][] = [
    ['a value in place of a reference', '[default.keys]\npassword = "hush-hush"\n'],
    ['an unknown kind', '[hush-hush.keys]\nk = { env = "K" }\n'],
    ['a relative path', '[default]\nprovider = "hush-hush"\n'],
    ['no TOML', 'hush-hush'],
    ['two places', '[default.keys]\nk = { env = "K", file = "/hush-hush" }\n'],
  ];
  for (const [title, text] of bad) {
    test(`refused without repeating it: ${title}`, () => {
      assert.throws(
        () => parseSecretReferences(text),
        (error) =>
          error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT' && !error.message.includes('hush'),
      );
    });
  }
});
